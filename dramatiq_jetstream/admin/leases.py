"""Which delivered messages live workers hold: whoever holds one renews its lease, which others can hear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from types import TracebackType

from ..client import Listening, Session
from ..streams import Route
from ..wire import Origin

#: Seconds within which the workers that are asked to renew their leases do so.
PROMPT = 0.5

#: The longest to listen, in seconds.
LONGEST = 20.0

#: How many of the seconds between two renewals a busy worker may be late.
LATE = 1.0


class Leases:
    """Listens to what workers say of a queue's messages; a context manager on the loop.

    Parameters:
      session(Session): The live connection.
      route(Route): The queue.
    """

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._route = route
        self._listening: list[Listening] = []
        self._missing: set[int] = set()
        self._enough = 0
        self._changed = asyncio.Event()
        self._since = time.monotonic()
        #: The sequences that a worker has renewed or answered.
        self.heard: set[int] = set()
        #: Whether this user may not listen.
        self.is_denied = False

    @property
    def milliseconds(self) -> float:
        """For how long it has been listened."""
        return (time.monotonic() - self._since) * 1000

    async def __aenter__(self) -> Leases:
        path = f"{self._route.stream}.{self._route.consumer}.>"
        # Newer servers put the domain and the account's hash before the stream.
        subjects = [f"$JS.ACK.{path}", f"$JS.ACK.*.*.{path}"]
        for subject in subjects:
            self._listening.append(await self._session.overhear(subject, self._on_answer, optional=True))
        self._ask()
        # The server refuses a subscription before it answers this.
        arrived = await self._session.outbox.has_arrived()
        self.is_denied = not arrived or any(self._session.is_denied(subject) for subject in subjects)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for listening in self._listening:
            await self._session.unsubscribe(listening, drain=False)

    async def listen(self, sequences: Collection[int], enough: int, ack_wait: float) -> bool:
        """Listen until workers were heard of so many of these messages, or have had the time for it.

        Parameters:
          sequences(Collection[int]): The messages.
          enough(int): How many of them are held at most.
          ack_wait(float): The length of a lease in seconds; a worker renews it three times meanwhile.

        Returns:
          bool: Whether no worker renews what was not heard of.
        """
        if await self._wait(set(sequences) - self.heard, enough - len(self.heard.intersection(sequences)), PROMPT):
            return True
        if self.heard:
            # Whoever renews when asked does so again; another one was heard by chance.
            answered = set(self.heard)
            self._ask()
            if await self._wait(answered, 1, PROMPT):
                return True
        needed = ack_wait / 3 + LATE
        missing = set(sequences) - self.heard
        await self._wait(missing, enough - len(self.heard.intersection(sequences)), min(needed, LONGEST))
        return needed <= LONGEST

    async def _wait(self, sequences: set[int], enough: int, seconds: float) -> bool:
        self._missing, self._enough = sequences, len(sequences) - enough
        try:
            await asyncio.wait_for(self._until_heard(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _until_heard(self) -> None:
        while len(self._missing) > self._enough:
            self._changed.clear()
            await self._changed.wait()

    def _ask(self) -> None:
        """Have workers renew their leases now; without this permission, they are heard when that is due."""
        renew = self._route.names.renew_subject(self._route.queue_name)
        self._session.need_not_be_allowed(renew)
        self._session.post(renew, b"")

    def _on_answer(self, subject: bytes, _: bytes, __: bytes, ___: bytes) -> None:
        try:
            origin = Origin.parse(subject.decode())
        except ValueError:
            return
        if (origin.stream, origin.consumer) == (self._route.stream, self._route.consumer):
            self.heard.add(origin.sequence)
            self._missing.discard(origin.sequence)
            self._changed.set()
