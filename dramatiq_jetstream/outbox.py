"""The lane by which every thread's messages reach the server."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    ConnectionReconnectingError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError

from .loop_thread import LoopThread

#: Seconds between two rounds of asking the server whether everything sent has arrived.
CONFIRM_INTERVAL = 0.1

#: Seconds to wait for the server's answer in such a round.
CONFIRM_TIMEOUT = 5


class Client(Protocol):
    """What the outbox needs of the NATS client."""

    @property
    def is_connected(self) -> bool: ...

    async def publish(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None: ...

    async def flush(self, timeout: int) -> None: ...


class Parcel(NamedTuple):
    """One message on its way to the server.

    Parameters:
      subject(str): Where it goes.
      body(bytes): What it holds.
      reply(str): Where an answer shall go.
      headers(dict): Its headers, if any.
      keep(bool): Send it again if the connection breaks before the server must have seen it.
      sent(Callable): Told on the loop once the client has it.
      failed(Callable): Told on the loop if it can never be sent.
    """

    subject: str
    body: bytes = b""
    reply: str = ""
    headers: dict[str, str] | None = None
    keep: bool = False
    sent: Callable[[], None] | None = None
    failed: Callable[[Exception], None] | None = None


class Outbox:
    """Sends from any thread, waking the loop once for all that wait.

    A kept parcel, an acknowledgement say, needs no round trip of its own: the server answers pings
    in order, so two pings later it has seen the parcel, and until then a reconnect sends it again.

    Parameters:
      thread(LoopThread): The loop that owns the client.
      client(Callable): Gives the current client.
    """

    def __init__(self, thread: LoopThread, client: Callable[[], Client]) -> None:
        self._thread = thread
        self._client = client
        self._queue: deque[Parcel] = deque()
        self._woken = False
        self._sending: asyncio.Task[None] | None = None
        self._confirming: asyncio.Task[None] | None = None
        self._pinging = asyncio.Lock()
        self._sent: list[Parcel] = []
        self._pinged: deque[list[Parcel]] = deque()

    def send(self, parcel: Parcel) -> None:
        """Send a parcel, from any thread.  Raises RuntimeError if the loop is closed."""
        self._queue.append(parcel)
        if not self._woken:
            self._woken = True
            self._thread.call_soon(self.wake)

    def wake(self) -> None:
        """Send what waits; on the loop."""
        self._woken = False
        if self._queue and (self._sending is None or self._sending.done()):
            self._sending = asyncio.ensure_future(self._send_all())

    def resume(self) -> None:
        """Send again what a broken connection may have lost; on the loop."""
        unseen = [*itertools.chain.from_iterable(self._pinged), *self._sent]
        self._queue.extendleft(reversed(unseen))
        self._pinged, self._sent = deque(), []
        self.wake()

    async def settle(self) -> None:
        """Wait until the server has seen every kept parcel; on the loop."""
        while self._queue or self._sent or any(self._pinged):
            if self._sending is not None:
                await asyncio.shield(self._sending)
            try:
                await self._ping()
            except ConnectionReconnectingError:
                await asyncio.sleep(CONFIRM_INTERVAL)

    async def _send_all(self) -> None:
        client = self._client()
        while self._queue:
            parcel = self._queue.popleft()
            try:
                await client.publish(parcel.subject, parcel.body, parcel.reply, parcel.headers)
            except (OutboundBufferLimitError, ConnectionClosedError, ConnectionDrainingError):
                # The connection is away; resume() continues here once it is back.
                self._queue.appendleft(parcel)
                return
            except (NatsError, ValueError) as error:
                if parcel.failed is not None:
                    parcel.failed(error)
                continue
            if parcel.keep:
                self._sent.append(parcel._replace(sent=None))
            if parcel.sent is not None:
                parcel.sent()
        if self._sent and (self._confirming is None or self._confirming.done()):
            self._confirming = asyncio.ensure_future(self._confirm())

    async def _confirm(self) -> None:
        while self._sent or any(self._pinged):
            await asyncio.sleep(CONFIRM_INTERVAL)
            try:
                await self._ping()
            except (NatsError, OSError):
                # A broken connection ends in resume(), which starts this again.
                return

    async def _ping(self) -> None:
        async with self._pinging:
            rounds = self._pinged
            rounds.append(self._sent)
            self._sent = []
            client = self._client()
            await client.flush(timeout=CONFIRM_TIMEOUT)
            if not client.is_connected:
                # While it reconnects, the client returns without an answer.
                raise ConnectionReconnectingError
            # The client writes a ping ahead of what it still buffers, so the second one counts.
            if len(rounds) > 1:
                rounds.popleft()
