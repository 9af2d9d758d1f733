"""The way by which every thread's messages reach the server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from nats.errors import ConnectionReconnectingError
from nats.errors import Error as NatsError

from .loop_thread import LoopThread
from .reconnecting_client import ReconnectingClient
from .supervision import Supervisor

#: Seconds between two pings that confirm what was sent.
CONFIRM_INTERVAL = 0.1

#: Seconds between two looks at what waits, should the thread that put it there have been hit by an
#: exception before it could wake the loop.
LOOK_INTERVAL = 1.0

#: Seconds for which acknowledgements that the server has seen are kept, should it stop.
KEPT = 2.0

#: Bytes to hand to the socket at once.
CHUNK = 256 * 1024


class OnReconnect(Enum):
    """What becomes of an item when the connection breaks."""

    #: It is sent again, although the server may have seen it a moment ago: an acknowledgement.  A server that stops
    #: forgets those that it has read and not handled yet.
    REPEAT = auto()
    #: It is sent again, unless the server must have seen it: a plain message.
    SEND_AGAIN = auto()
    #: It is sent once the connection is back, if it was not written yet; else it may be lost: a pull request.
    SEND_LATER = auto()
    #: It is dropped while disconnected: its sender repeats it, or it is no longer needed.
    DROP = auto()


#: What is kept until the server must have seen it.
_CONFIRMED = (OnReconnect.REPEAT, OnReconnect.SEND_AGAIN)


class OutboxItem:
    """One message on its way to the server.

    Parameters:
      command(bytes): What is written.
      on_reconnect(OnReconnect): What becomes of it when the connection breaks.
      sent(Callable): Called on the loop once it is written, perhaps once for several.
    """

    __slots__ = ("command", "on_reconnect", "queued", "sent")

    def __init__(
        self,
        command: bytes,
        on_reconnect: OnReconnect = OnReconnect.SEND_LATER,
        sent: Callable[[], None] | None = None,
    ) -> None:
        self.command = command
        self.on_reconnect = on_reconnect
        self.sent = sent
        #: Whether it waits in the outbox.
        self.queued = False


class Outbox:
    """Sends from any thread; all waiting items wake the loop only once.

    An item that is sent again needs no round trip of its own: the server answers pings in order, so a
    pong means that it has seen the item, and until then a reconnect sends it once more.  An acknowledgement
    is sent once more for a moment after that, too.

    Parameters:
      thread(LoopThread): The loop that owns the client.
      connected(ReconnectingClient): The client.
      supervisor(Supervisor): Starts what runs in the background.
    """

    def __init__(self, thread: LoopThread, connected: ReconnectingClient, supervisor: Supervisor) -> None:
        self._thread = thread
        self._connected = connected
        self._supervisor = supervisor
        self._queue: deque[OutboxItem] = deque()
        self._writing = False
        self._woken = False
        self._draining: asyncio.Task[None] | None = None
        self._confirming: asyncio.Task[None] | None = None
        self._pinging = asyncio.Lock()
        self._sent: list[OutboxItem] = []
        self._pinged: list[OutboxItem] = []
        #: What the server has seen and may forget, each with the time of the pong.
        self._seen: deque[tuple[float, list[OutboxItem]]] = deque()

    @property
    def size(self) -> int:
        """How many items wait, or are not known to have arrived."""
        return len(self._queue) + len(self._sent) + len(self._pinged)

    @property
    def is_blocked(self) -> bool:
        """Whether items wait for the socket to take more."""
        return bool(self._queue) or _runs(self._draining)

    async def has_arrived(self) -> bool:
        """Whether the server has seen all that was sent before this was called; on the loop."""
        self.wake()
        if self.is_blocked:
            return False
        try:
            await self._connected.client.ping()
        except (NatsError, OSError):
            return False
        return True

    def send(self, item: OutboxItem) -> None:
        """Send an item, from any thread.  Raises ConnectionClosed if the loop is closed."""
        if item.on_reconnect is OnReconnect.DROP and not self._connected.client.is_connected:
            return
        # Set this first: the loop may take the item as soon as it is in the queue.
        item.queued = True
        self._queue.append(item)
        if not self._woken:
            self._woken = True
            self._thread.call_soon(self.wake)

    def send_at_once(self, item: OutboxItem) -> None:
        """Send an item that need not be sent again, on the caller's own thread unless others are before it."""
        # The order matters: the loop marks that it writes before it takes from the queue.
        shared = None if self._queue or self._writing else self._connected.client.shared_socket
        if shared is None or not shared.write_at_once(item.command):
            self.send(item)

    async def look(self) -> None:
        """Wake up now and then; on the loop, for as long as it runs."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            self._forget_old()
            self.wake()

    def wake(self) -> None:
        """Send what waits; on the loop."""
        self._woken = False
        while self._queue and self._connected.client.is_connected and not _runs(self._draining):
            self._send_some()

    def resume(self) -> None:
        """Send again what a broken connection may have lost; on the loop."""
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            if item.on_reconnect is not OnReconnect.DROP:
                self._queue.append(item)
            else:
                item.queued = False
        seen = [item for _, items in self._seen for item in items]
        self._queue.extendleft(reversed([*seen, *self._pinged, *self._sent]))
        self._seen.clear()
        self._pinged, self._sent = [], []
        # These wait for the old connection.
        for waiting in (self._draining, self._confirming):
            if waiting is not None:
                waiting.cancel()
        self._draining = self._confirming = None
        self.wake()

    async def settle(self) -> None:
        """Wait until the server has seen every item that a reconnect would send again; on the loop."""
        while self.size:
            self.wake()
            if self._draining is not None:
                await asyncio.wait([self._draining])
            try:
                await self._ping()
            except ConnectionReconnectingError:
                await asyncio.sleep(CONFIRM_INTERVAL)

    def _send_some(self) -> None:
        # No thread may write between these two steps, or the order of its messages changes.
        self._writing = True
        items = self._take()
        try:
            ready = self._connected.client.write(b"".join([item.command for item in items]))
        except OSError:
            # The connection is going away; resume() continues here once it is back.
            self._queue.extendleft(reversed(items))
            self._draining = self._go_on_after(asyncio.sleep(CONFIRM_INTERVAL))
            return
        finally:
            self._writing = False
        if not ready:
            self._draining = self._go_on_after(self._connected.client.drain_socket())
        self._note_sent(items)

    def _note_sent(self, items: list[OutboxItem]) -> None:
        told = None
        for item in items:
            item.queued = False
            if item.on_reconnect in _CONFIRMED:
                self._sent.append(item)
            # Usually all items of a write belong to one puller, so it is called once.
            if item.sent is not told and item.sent is not None:
                told = item.sent
                told()
        if self._sent and not _runs(self._confirming):
            self._confirming = self._supervisor.keep("confirmation of what was sent", self._confirm)

    def _take(self) -> list[OutboxItem]:
        items, size = [], 0
        while self._queue and size < CHUNK:
            item = self._queue.popleft()
            items.append(item)
            size += len(item.command)
        return items

    def _go_on_after(self, something: Awaitable[None]) -> asyncio.Task[None]:
        async def go_on() -> None:
            try:
                await something
            except OSError:
                # A broken connection ends in resume().
                return
            asyncio.get_running_loop().call_soon(self.wake)

        return self._supervisor.once("wait for the socket", go_on())

    async def _confirm(self) -> None:
        while self._sent or self._pinged:
            await asyncio.sleep(CONFIRM_INTERVAL)
            try:
                await self._ping()
            except (NatsError, OSError):
                if not self._connected.client.is_connected:
                    # A broken connection ends in resume(), which starts this again.
                    return

    async def _ping(self) -> None:
        async with self._pinging:
            self._pinged += self._sent
            self._sent = []
            pinged = self._pinged
            await self._connected.client.ping()
            if self._pinged is pinged:
                self._pinged = []
                self._keep(pinged)

    def _keep(self, items: list[OutboxItem]) -> None:
        repeated = [item for item in items if item.on_reconnect is OnReconnect.REPEAT]
        if repeated:
            self._seen.append((time.monotonic(), repeated))
        self._forget_old()

    def _forget_old(self) -> None:
        # While the link is away, what was seen shortly before stays.
        if self._connected.client.is_connected:
            oldest = time.monotonic() - KEPT
            while self._seen and self._seen[0][0] < oldest:
                self._seen.popleft()


def _runs(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()
