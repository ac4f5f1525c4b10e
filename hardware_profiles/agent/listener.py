"""The agent's door: takes a bounded number of connections and hands each to :mod:`hardware_profiles.agent.http`."""

import asyncio
import logging

from hardware_profiles.agent.access import Access
from hardware_profiles.agent.http import Connection, Handler, Limits
from hardware_profiles.agent.tls import READ_AHEAD, TLSStream

_LOG = logging.getLogger(__name__)


class Listener:
    """Listens on one address until ``close``. To be used inside one event loop."""

    def __init__(self, access: Access, handler: Handler, limits: Limits | None = None) -> None:
        self._access, self._handler, self._limits = access, handler, limits or Limits()
        self._connections: dict[asyncio.Task[None], Connection] = {}  # the oldest first

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Begin to listen; the address, whose port is a free one where 0 was asked for.

        Raises:
            OSError, OverflowError: the address is taken, is not this machine's, or is none.
        """
        self._server = await asyncio.start_server(self._arrived, host, port, limit=READ_AHEAD)
        address, number = self._server.sockets[0].getsockname()[:2]
        return address, number

    async def close(self) -> None:
        """Take no more connections and cut those that there are."""
        self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = (writer.get_extra_info("peername") or ("unknown",))[0]
        if len(self._connections) >= self._limits.connections and not self._make_room(address):
            writer.transport.abort()
            return
        stream = TLSStream(self._access.tls, reader, writer)
        connection = Connection(stream, address, self._access, self._handler, self._limits)
        task = asyncio.get_running_loop().create_task(self._serve(connection, stream, address))
        self._connections[task] = connection
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    def _make_room(self, address: str) -> bool:
        """Drop the oldest connection that is no paired host's, so that strangers cannot keep the paired ones out."""
        self._access.note("too many connections", address)
        oldest = next((task for task, connection in self._connections.items() if not connection.known), None)
        if oldest is None:
            return False
        oldest.cancel()
        del self._connections[oldest]
        return True

    async def _serve(self, connection: Connection, stream: TLSStream, address: str) -> None:
        try:
            await connection.run()
        except OSError:
            pass  # the client is gone, or was too slow
        except Exception:
            _LOG.exception("a connection from %s failed", address)
        finally:
            stream.abort()
