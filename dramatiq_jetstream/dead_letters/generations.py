"""Tells which messages of a queue are exhausted while others are held.

The server says how many messages a consumer holds, but not which.  A generation is all that the consumer had
delivered and the stream still kept at one moment, with the number of those that were held then.  Once so many of it
have been acknowledged, the rest cannot have been held: it was exhausted already.  What is removed along with a new
dead letter may have been exhausted itself and does not count; against what else may remove an exhausted message, a
late acknowledgement or an operator, a message must be left by two generations in a row.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..client import Session
from ..errors import StreamNotFound
from ..sending import Queue
from ..streams import StoredMessage, reading
from .letter import SEQUENCE

#: How large a generation may be; a larger one waits for a moment at which nothing is held.
MAX_MEMBERS = 10_000

#: How often to look for a moment in which nothing is delivered or acknowledged while a generation is listed.
ATTEMPTS = 10

#: Seconds after which a generation that does not end gives way to another, doubled each time, and their limit.
MIN_PATIENCE = 60.0
MAX_PATIENCE = 86_400.0

#: The identity of a message in its queue: its sequence, and when it was stored.
Identity = tuple[int, int]


class Generation(NamedTuple):
    """What a consumer had delivered and not seen acknowledged at one moment.

    Parameters:
      held(int): How many of its members the consumer held.
      members(frozenset): The messages.
      letters(int): The last dead letter of some time before.
      ends(float): Until when to wait for it, on the monotonic clock.
    """

    held: int
    members: frozenset[Identity]
    letters: int
    ends: float


class Generations:
    """Follows the generations of one queue.  Methods are coroutines of the loop.

    Parameters:
      queue(Queue): The queue.
    """

    def __init__(self, queue: Queue) -> None:
        self._route = queue.route
        self._generation: Generation | None = None
        self._survivors: frozenset[Identity] = frozenset()
        self._letters: int | None = None
        self._patience = MIN_PATIENCE

    def forget(self) -> None:
        """Reset: the queue has another consumer, or nothing to find."""
        self._generation, self._survivors, self._letters = None, frozenset(), None

    @property
    def is_active(self) -> bool:
        """Whether something is to be found out."""
        return self._letters is not None

    async def exhausted(self, session: Session, consumer: dict[str, Any]) -> frozenset[Identity]:
        """The messages that are found to be exhausted at this look.

        Parameters:
          session(Session): The live connection.
          consumer(dict): The consumer's state.
        """
        if self._generation is not None:
            return await self._review(session, self._generation)
        if not await self._has_exhausted(session, consumer):
            self.forget()
            return frozenset()
        # A dead letter is stored before its message goes, so the last one is taken at the look before.
        letters, self._letters = self._letters, await self._last_letter(session)
        if letters is not None:
            self._generation = await self._begin(session, letters)
        return frozenset()

    async def _review(self, session: Session, generation: Generation) -> frozenset[Identity]:
        last = max(sequence for sequence, _ in generation.members)
        left = generation.members & (await self._list(session, last) or frozenset())
        gone = {sequence for sequence, _ in generation.members - left}
        gone -= await self._lettered(session, generation.letters)
        if len(gone) < generation.held:
            if time.monotonic() >= generation.ends:
                self._generation, self._patience = None, min(self._patience * 2, MAX_PATIENCE)
            return frozenset()
        proven, self._survivors = left & self._survivors, left
        self._generation, self._patience = None, MIN_PATIENCE
        return proven

    async def _begin(self, session: Session, letters: int) -> Generation | None:
        for _ in range(ATTEMPTS):
            before = await self._consumer(session)
            members = await self._list(session, before["delivered"]["stream_seq"])
            if not members:
                return None
            after = await self._consumer(session)
            if _moment(before) == _moment(after):
                return Generation(before["num_ack_pending"], members, letters, time.monotonic() + self._patience)
        return None

    async def _consumer(self, session: Session) -> dict[str, Any]:
        return await session.call_api(f"CONSUMER.INFO.{self._route.stream}.{self._route.consumer}")

    async def _has_exhausted(self, session: Session, consumer: dict[str, Any]) -> bool:
        """Whether some messages are neither ready nor held; roughly, for it is asked in two steps."""
        request = {"subjects_filter": self._route.filter}
        stream = await session.call_api(f"STREAM.INFO.{self._route.stream}", request)
        stored = sum((stream["state"].get("subjects") or {}).values())
        return bool(stored > consumer["num_pending"] + consumer["num_ack_pending"])

    async def _list(self, session: Session, last: int) -> frozenset[Identity] | None:
        """The messages up to a sequence; None if they are too many."""
        members: set[Identity] = set()
        start = 1
        while len(members) <= MAX_MEMBERS:
            page = await reading.read_page(session, self._route.stream, self._route.filter, start, reading.PAGE)
            found = [identity(message) for message in page.messages if message.sequence <= last]
            members.update(found)
            if len(found) < len(page.messages) or not page.messages or not page.pending:
                return frozenset(members)
            start = page.messages[-1].sequence + 1
        return None

    async def _last_letter(self, session: Session) -> int:
        try:
            stream = await session.call_api(f"STREAM.INFO.{self._route.names.dead_letters}")
        except StreamNotFound:
            return 0
        return int(stream["state"]["last_seq"])

    async def _lettered(self, session: Session, after: int) -> set[int]:
        """The sequences of messages that became dead letters since."""
        names, found, start = self._route.names, set[int](), after + 1
        subject = names.dead_subject(self._route.queue_name)
        while True:
            try:
                page = await reading.read_page(session, names.dead_letters, subject, start, reading.PAGE)
            except StreamNotFound:
                return found
            said = [message.headers.get(SEQUENCE, "") for message in page.messages]
            found.update(int(text) for text in said if text.isascii() and text.isdecimal() and len(text) <= 20)
            if not page.messages or not page.pending:
                return found
            start = page.messages[-1].sequence + 1


def identity(message: StoredMessage) -> Identity:
    """The identity of a message in its queue."""
    return message.sequence, message.timestamp


def _moment(consumer: dict[str, Any]) -> tuple[object, ...]:
    """What changes with every delivery and every acknowledgement."""
    return consumer["created"], consumer["delivered"]["consumer_seq"], consumer["num_ack_pending"]
