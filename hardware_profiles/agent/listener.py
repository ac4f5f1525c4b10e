"""The agent's door: takes connections, TLS 1.3 and a bounded number of them, and hands each to :mod:`.http`."""

import asyncio
import logging
import socket

from hardware_profiles.agent.access import Access
from hardware_profiles.agent.http import Connection, Handler, Limits

_LOG = logging.getLogger(__name__)
_READ_AHEAD = 256 << 10


class Listener:
    """Listens on one address until ``close``. To be used inside one event loop."""

    def __init__(self, access: Access, handler: Handler, limits: Limits | None = None) -> None:
        self._access, self._handler, self._limits = access, handler, limits or Limits()
        self._connections: dict[asyncio.Task[None], Connection | None] = {}  # null until its handshake is done

    def start(self, host: str, port: int) -> tuple[str, int]:
        """Begin to listen; the address, whose port is a free one where 0 was asked for.

        Raises:
            OSError: the address is taken or is not this machine's.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=self._limits.connections)
        self._socket.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())
        address, number = self._socket.getsockname()[:2]
        return address, number

    async def close(self) -> None:
        """Take no more connections and cut those that there are."""
        tasks = [self._accepting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(self._socket)
            except OSError as error:  # too many open files, or the client is gone again
                _LOG.warning("a connection was not accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._connections) >= self._limits.connections and not self._make_room(address[0]):
                client.close()
                continue
            task = loop.create_task(self._serve(client, address[0]))
            self._connections[task] = None
            task.add_done_callback(lambda done: self._connections.pop(done, None))

    def _make_room(self, address: str) -> bool:
        """Drop the oldest connection that is no paired host's, so that strangers cannot keep the paired ones out."""
        self._access.note("too many connections", address)
        strangers = (task for task, one in self._connections.items() if one is None or not one.known)
        oldest = next(strangers, None)
        if oldest is None:
            return False
        oldest.cancel()
        del self._connections[oldest]
        return True

    async def _serve(self, client: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READ_AHEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, client, ssl=self._access.tls, ssl_handshake_timeout=self._limits.handshake_s
            )
        except OSError as error:
            self._access.note("no handshake", address, getattr(error, "verify_message", "") or str(error))
            return
        try:
            streams = reader, asyncio.StreamWriter(transport, protocol, reader, loop)
            connection = Connection(streams, address, self._access, self._handler, self._limits)
            task = asyncio.current_task()
            assert task is not None
            self._connections[task] = connection
            await connection.run()
        except OSError:
            pass  # the client is gone, or was too slow
        except Exception:
            _LOG.exception("a connection from %s failed", address)
        finally:
            transport.abort()
