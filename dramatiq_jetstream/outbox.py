"""The lane by which every thread's messages reach the server."""

from __future__ import annotations

import asyncio
from _thread import allocate_lock
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from nats.errors import ConnectionReconnectingError
from nats.errors import Error as NatsError

from .loop_thread import LoopThread

#: Seconds between two rounds of asking the server whether everything sent has arrived.
CONFIRM_INTERVAL = 0.1

#: Bytes to hand to the socket at once.
CHUNK = 256 * 1024


class Wire(Protocol):
    """What the outbox needs of the link."""

    @property
    def is_up(self) -> bool: ...

    def write_at_once(self, data: bytes) -> bool:
        """Write on any thread, unless something else is before it; tell whether that was done."""

    def write(self, data: bytes) -> bool:
        """Write to the server; False if it must drain before more is written.  Raises OSError."""

    async def drain(self) -> None: ...

    async def ping(self) -> None:
        """Wait until the server has seen what was written.  Raises nats-py's errors, or OSError."""


class Parcel(NamedTuple):
    """One message on its way to the server.

    Parameters:
      command(bytes): What is written.
      keep(bool): Send it again if the connection breaks before the server must have seen it.
      sent(Callable): Told on the loop once it is written, perhaps once for several.
      fleeting(bool): Do not hold it while the connection is away: its sender sends it again once it is back.
    """

    command: bytes
    keep: bool = False
    sent: Callable[[], None] | None = None
    fleeting: bool = False


class Outbox:
    """Sends from any thread, waking the loop once for all that wait.

    A kept parcel, an acknowledgement say, needs no round trip of its own: the server answers pings
    in order, so a pong means that it has seen the parcel, and until then a reconnect sends it again.

    Parameters:
      thread(LoopThread): The loop that owns the client.
      wire(Wire): The link to the server.
    """

    def __init__(self, thread: LoopThread, wire: Wire) -> None:
        self._thread = thread
        self._wire = wire
        self._queue: deque[Parcel] = deque()
        self._turn = allocate_lock()
        self._woken = False
        self._draining: asyncio.Task[None] | None = None
        self._confirming: asyncio.Task[None] | None = None
        self._pinging = asyncio.Lock()
        self._sent: list[Parcel] = []
        self._pinged: list[Parcel] = []

    def send(self, parcel: Parcel) -> None:
        """Send a parcel, from any thread.  Raises RuntimeError if the loop is closed."""
        if parcel.fleeting and not self._wire.is_up:
            return
        self._queue.append(parcel)
        if not self._woken:
            self._woken = True
            self._thread.call_soon(self.wake)

    def send_at_once(self, parcel: Parcel) -> None:
        """Send a parcel that need not be kept, on the caller's own thread unless others are before it."""
        if self._queue or not self._turn.acquire(blocking=False):
            self.send(parcel)
            return
        try:
            written = not self._queue and self._wire.write_at_once(parcel.command)
        finally:
            self._turn.release()
        if not written:
            self.send(parcel)

    def wake(self) -> None:
        """Send what waits; on the loop."""
        self._woken = False
        while self._queue and self._wire.is_up and (self._draining is None or self._draining.done()):
            self._send_some()

    def resume(self) -> None:
        """Send again what a broken connection may have lost; on the loop."""
        for _ in range(len(self._queue)):
            parcel = self._queue.popleft()
            if not parcel.fleeting:
                self._queue.append(parcel)
        self._queue.extendleft(reversed([*self._pinged, *self._sent]))
        self._pinged, self._sent = [], []
        # What these wait for went with the connection.
        for waiting in (self._draining, self._confirming):
            if waiting is not None:
                waiting.cancel()
        self._draining = self._confirming = None
        self.wake()

    async def settle(self) -> None:
        """Wait until the server has seen every kept parcel; on the loop."""
        while self._queue or self._sent or self._pinged:
            self.wake()
            if self._draining is not None:
                await asyncio.wait([self._draining])
            try:
                await self._ping()
            except ConnectionReconnectingError:
                await asyncio.sleep(CONFIRM_INTERVAL)

    def _send_some(self) -> None:
        try:
            # Nobody may write between the taking and the writing, or what a thread sends might change places.
            with self._turn:
                parcels = self._take()
                ready = self._wire.write(b"".join([parcel.command for parcel in parcels]))
        except OSError:
            # The connection is going away; resume() continues here once it is back.
            self._queue.extendleft(reversed(parcels))
            self._draining = asyncio.ensure_future(self._go_on_after(asyncio.sleep(CONFIRM_INTERVAL)))
            return
        if not ready:
            self._draining = asyncio.ensure_future(self._go_on_after(self._wire.drain()))
        self._sent += [parcel for parcel in parcels if parcel.keep]
        for sent in {parcel.sent for parcel in parcels}:
            if sent is not None:
                sent()
        if self._sent and (self._confirming is None or self._confirming.done()):
            self._confirming = asyncio.ensure_future(self._confirm())

    def _take(self) -> list[Parcel]:
        parcels, size = [], 0
        while self._queue and size < CHUNK:
            parcel = self._queue.popleft()
            parcels.append(parcel)
            size += len(parcel.command)
        return parcels

    async def _go_on_after(self, something: Awaitable[None]) -> None:
        try:
            await something
        except OSError:
            # A broken connection ends in resume().
            return
        asyncio.get_running_loop().call_soon(self.wake)

    async def _confirm(self) -> None:
        while self._sent or self._pinged:
            await asyncio.sleep(CONFIRM_INTERVAL)
            try:
                await self._ping()
            except (NatsError, OSError):
                if not self._wire.is_up:
                    # A broken connection ends in resume(), which starts this again.
                    return

    async def _ping(self) -> None:
        async with self._pinging:
            self._pinged += self._sent
            self._sent = []
            pinged = self._pinged
            await self._wire.ping()
            if self._pinged is pinged:
                self._pinged = []
