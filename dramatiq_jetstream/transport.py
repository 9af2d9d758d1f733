"""The socket, written to by whichever thread has something to say."""

from __future__ import annotations

import asyncio
import socket
from _thread import allocate_lock
from collections.abc import Iterable
from typing import Any

from nats.aio.transport import TcpTransport

from .framing import Receivers, Sieve

#: Bytes that may wait for the socket before more is held back.
HIGH_WATER = 1024 * 1024


class SharedTransport(TcpTransport):
    """nats-py's TCP transport, to which other threads than the loop's may write at once.

    To wake the loop and have it write takes longer than to write.  Under TLS, whose state is the
    loop's, asyncio writes.

    Parameters:
      receivers(Receivers): Who takes messages before nats-py sees them.
    """

    def __init__(self, receivers: Receivers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._receivers = receivers
        self._lock = allocate_lock()
        self._loop: asyncio.AbstractEventLoop
        self._socket: socket.socket | None = None
        self._unsent = bytearray()
        self._watching = False
        self._room: asyncio.Event

    def __bool__(self) -> bool:
        # nats-py would put a transport of its own in the place of one that is not connected yet.
        return True

    @property
    def descriptors(self) -> list[int]:
        """The numbers of its open sockets."""
        writer = self._bare_io_writer
        sockets = [writer.get_extra_info("socket") if writer else None, self._socket]
        return [found.fileno() for found in sockets if found is not None]

    @property
    def unsent(self) -> int:
        """How many bytes wait for the socket."""
        if self._socket is not None:
            return len(self._unsent)
        return self._io_writer.transport.get_write_buffer_size() if self._io_writer else 0

    async def connect(self, uri: Any, buffer_size: int, connect_timeout: int) -> None:
        self._detach()
        await super().connect(uri, buffer_size, connect_timeout)
        self._sift()
        self._loop, self._room = asyncio.get_running_loop(), asyncio.Event()
        # A descriptor of its own, for asyncio lets nobody else watch the one it reads from.
        self._socket = socket.fromfd(self.descriptors[0], socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)

    async def connect_tls(self, uri: Any, ssl_context: Any, buffer_size: int, connect_timeout: int) -> None:
        self._detach()
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        self._sift()

    def write(self, payload: bytes) -> None:
        """Write, or keep what the socket does not take now; on the loop."""
        if self._socket is None:
            if self._io_writer is not None:
                super().write(payload)  # type: ignore[no-untyped-call]
            return
        with self._lock:
            self._send(payload)
        self._watch()

    def writelines(self, payload: Iterable[bytes]) -> None:
        self.write(b"".join(payload))

    def write_at_once(self, payload: bytes) -> bool:
        """Write on any thread, unless something else is before it; tell whether that was done."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._socket is None or self._unsent:
                return False
            self._send(payload)
            if self._unsent:
                self._loop.call_soon_threadsafe(self._watch)
            return True
        finally:
            self._lock.release()

    async def drain(self) -> None:
        """Wait until the socket has taken enough to go on.

        Raises:
          ConnectionResetError: If the connection goes away.
        """
        if self._socket is None:
            await super().drain()  # type: ignore[no-untyped-call]
        while self.unsent >= HIGH_WATER:
            self._room.clear()
            await self._room.wait()
            if self._socket is None:
                raise ConnectionResetError

    def close(self) -> None:
        self._detach()
        super().close()  # type: ignore[no-untyped-call]

    def _sift(self) -> None:
        """Have what arrives pass a sieve before nats-py sees it."""
        transport: Any = self._io_writer and self._io_writer.transport
        transport.set_protocol(Sieve(transport.get_protocol(), self._receivers))

    def _send(self, payload: bytes) -> None:
        """Hand the socket what it takes, and keep the rest; under the lock."""
        self._unsent += payload if self._unsent else payload[self._offer(payload) :]

    def _offer(self, payload: bytes) -> int:
        """How many bytes the socket takes; all of them if it is gone, for who reads from it will hear of that."""
        if self._socket is None:
            return len(payload)
        try:
            return self._socket.send(payload)
        except BlockingIOError:
            return 0
        except OSError:
            return len(payload)

    def _watch(self) -> None:
        if self._unsent and self._socket is not None and not self._watching:
            self._watching = True
            self._loop.add_writer(self._socket.fileno(), self._flush)

    def _flush(self) -> None:
        with self._lock:
            del self._unsent[: self._offer(bytes(self._unsent[:HIGH_WATER]))]
        if not self._unsent:
            self._unwatch()
        self._room.set()

    def _unwatch(self) -> None:
        if self._watching and self._socket is not None:
            self._watching = False
            self._loop.remove_writer(self._socket.fileno())

    def _detach(self) -> None:
        """Give the socket back to asyncio alone."""
        self._unwatch()
        with self._lock:
            mine, self._socket = self._socket, None
            self._unsent.clear()
        if mine is not None:
            mine.close()
            self._room.set()
