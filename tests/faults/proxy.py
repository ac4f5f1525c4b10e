"""A TCP proxy that does to connections what a bad line does: it cuts, delays, corrupts, stalls and loses replies.

A ``Fault`` is planned for one connection and counts bytes of one of its directions; TLS sees those bytes as they are.
What the proxy does on command holds for every connection, those that live and those to come::

    with Proxy(port) as line:
        line.plan(Fault(cut_after=100_000))             # the next connection breaks after so many bytes to the server
        line.plan(Fault(way="down", corrupt_at=5_000))  # the one after it: one byte from the server is flipped
        ...                                             # connect to 127.0.0.1:line.port
        line.partition()                                # nothing passes any more, nothing is told; heal() ends it
        line.lose_next_reply()                          # what the server says next is lost, and the connection with it
        line.cut()                                      # every live connection is reset

``line.up`` and ``line.down`` count what has passed, ``line.connections`` how many there were. Everything ends with the
``with`` block, however the connections stand.
"""

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

LOOPBACK = "127.0.0.1"
_PIECE = 1 << 14
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no seconds: closing sends RST; see socket(7)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one connection in one direction (``up`` is to the server), counted in bytes from its start.

    Attributes:
        cut_after: after so many bytes, the sender sees a reset, the receiver the end of the stream.
        stall_after: after so many bytes, nothing passes in this direction; the connection stays open.
        corrupt_at: the byte at this offset arrives with all its bits turned.
        delay_s: each piece of up to 16 KiB waits this long.
    """

    way: Literal["up", "down"] = "up"
    cut_after: int | None = None
    stall_after: int | None = None
    corrupt_at: int | None = None
    delay_s: float = 0.0


class Proxy:
    """Listens on a free port of loopback and connects each client with ``target`` there."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.connections = self.up = self.down = 0
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._planned: deque[Fault] = deque()
        self._flowing = threading.Event()
        self._flowing.set()
        self._losing = threading.Event()
        self._closed = threading.Event()
        self._live: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        self._flowing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def plan(self, *faults: Fault) -> None:
        """Each of the next connections gets one of these."""
        self._planned.extend(faults)

    def partition(self) -> None:
        """Let nothing pass from now on, in any connection; new ones are taken and hear nothing."""
        self._flowing.clear()

    def heal(self) -> None:
        """End the partition. Old connections are reset, as they would have timed out."""
        self.cut()
        self._flowing.set()

    def lose_next_reply(self) -> None:
        """Lose the next bytes from the server, and reset the connection that they came on."""
        self._losing.set()

    def cut(self) -> None:
        """Reset every live connection."""
        with self._lock:
            live = tuple(self._live)
        for pair in live:
            self._reset(pair)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((LOOPBACK, self.target))
            except OSError:
                self._reset((client, client))
                continue
            self.connections += 1
            pair = client, server
            with self._lock:
                self._live.add(pair)
            fault = self._planned.popleft() if self._planned else Fault()
            for way, source, sink in (("up", client, server), ("down", server, client)):
                mine = fault if fault.way == way else Fault()
                thread = threading.Thread(target=self._pump, args=(way, source, sink, mine, pair), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(
        self, way: str, source: socket.socket, sink: socket.socket, fault: Fault, pair: tuple[socket.socket, ...]
    ) -> None:
        passed = 0
        try:
            while piece := source.recv(_PIECE):
                self._flowing.wait()
                if way == "down" and self._losing.is_set():
                    self._losing.clear()
                    self._reset(pair)
                    return
                if fault.delay_s:
                    time.sleep(fault.delay_s)
                if fault.corrupt_at is not None and passed <= fault.corrupt_at < passed + len(piece):
                    place = fault.corrupt_at - passed
                    piece = piece[:place] + bytes([piece[place] ^ 0xFF]) + piece[place + 1 :]
                if fault.stall_after is not None and passed + len(piece) > fault.stall_after:
                    self._send(way, sink, piece[: max(0, fault.stall_after - passed)])
                    while source.recv(_PIECE):
                        pass  # taken and never handed on
                    return
                if fault.cut_after is not None and passed + len(piece) > fault.cut_after:
                    self._send(way, sink, piece[: fault.cut_after - passed])
                    sink.shutdown(socket.SHUT_WR)  # what was sent arrives; a reset would have the kernel drop it
                    self._reset((source,))
                    return
                self._send(way, sink, piece)
                passed += len(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._reset(pair)

    def _send(self, way: str, sink: socket.socket, piece: bytes) -> None:
        sink.sendall(piece)
        with self._lock:
            if way == "up":
                self.up += len(piece)
            else:
                self.down += len(piece)

    def _reset(self, pair: tuple[socket.socket, ...]) -> None:
        """Wake whoever waits on these sockets, then close them with a reset."""
        with self._lock:
            self._live.discard(pair)
        for one in pair:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
