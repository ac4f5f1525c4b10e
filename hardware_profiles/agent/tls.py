"""TLS over asyncio's plain streams.

asyncio's own TLS drops the alert when a handshake fails, so that a host whose certificate is not trusted would see a
cut link and try again, where it should hear that it is not paired. Here the alert is sent, on every version of Python.
"""

import asyncio
import ssl
from contextlib import suppress

READ_AHEAD = 256 << 10
_RECORD = 16 << 10  # the most that one TLS record holds (RFC 8446, 5.1)


class TLSStream:
    """One connection of a server. A caller bounds the time of each call by ``abort``, which ends them all."""

    def __init__(self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._came, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._sent, server_side=True)
        writer.transport.set_write_buffer_limits(high=0)  # so that what is drained is with the kernel

    async def handshake(self) -> bytes | None:
        """The client's certificate (DER); null where it shows none.

        Raises:
            ssl.SSLError: TLS could not be agreed on, or the certificate is not trusted. The client has been told.
        """
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    return self._tls.getpeercert(binary_form=True)
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill()
        finally:
            await self._flush()

    async def read(self) -> bytes:
        """All that has come, which is at least a byte; nothing once the client has ended the connection, however."""
        while True:
            parts = []
            try:
                while part := self._tls.read(_RECORD):
                    parts.append(part)
                return b"".join(parts)
            except ssl.SSLWantReadError:
                if parts:
                    return b"".join(parts)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b"".join(parts)
            await self._flush()  # TLS itself may have had something to say
            await self._fill()

    async def write(self, content: bytes) -> None:
        """Send all of ``content``."""
        rest = memoryview(content)
        while rest:
            rest = rest[self._tls.write(rest) :]
        await self._flush()

    async def discard(self) -> None:
        """Take and drop what the client still sends, until it ends the connection.

        To close a socket that has unread bytes resets the connection, and the client loses the last reply with it.
        """
        while await self._reader.read(READ_AHEAD):
            pass

    async def close(self) -> None:
        """Say that nothing more comes, and end the connection."""
        with suppress(ssl.SSLError):  # which says that the client's own farewell has not come; it is not waited for
            self._tls.unwrap()
        await self._flush()
        self._writer.close()
        await self._writer.wait_closed()

    def abort(self) -> None:
        """End the connection at once; may be called at any time."""
        self._writer.transport.abort()

    async def _flush(self) -> None:
        if self._sent.pending:
            self._writer.write(self._sent.read())
            await self._writer.drain()

    async def _fill(self) -> None:
        content = await self._reader.read(READ_AHEAD)
        if content:
            self._came.write(content)
        else:
            self._came.write_eof()
