"""Finds exhausted messages, in a stream owned by this package, without an advisory.

A message that was delivered, is no longer pending and is still in the stream is either exhausted, or was just
acknowledged and is about to be removed; so it must stay there for some time.  No message is pending up to the
acknowledgement floor, or anywhere if the consumer has none pending; a busy queue is searched with generations.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from dramatiq.common import compute_backoff

from ..client import Session
from ..errors import BrokerError, ConsumerNotFound, StreamNotFound
from ..logs import get_logger, repeated
from ..sending import Queue
from ..streams import StoredMessage, reading
from .exhausted_letters import ExhaustedLetters
from .generations import Generations, Identity, identity

#: Seconds for which a message must look exhausted: a stream may remove what was acknowledged a little later.
SETTLING = 5.0

#: How many dead letters are stored at once.
OUTSTANDING = 16

#: After how many dead letters other queues have their turn.
ROUND = 1_024

#: How many messages are watched while they settle.
MAX_SUSPECTS = 10_000

#: Milliseconds until a dead letter that could not be stored is tried again, doubled each time, and their limit.
MIN_DELAY = 5_000
MAX_DELAY = 600_000

#: A search takes no more than one part in so many of the time.
SHARE = 20


class Looked(NamedTuple):
    """What came of a look.

    Parameters:
      stored(int): How many dead letters it stored.
      pause(float): The seconds after which to look again; None if there is no hurry.
    """

    stored: int
    pause: float | None


class _Trial(NamedTuple):
    """A dead letter that could not be stored.

    Parameters:
      failures(int): How often.
      due(float): When to try again, on the monotonic clock.
    """

    failures: int
    due: float


class Sweep:
    """Looks through one queue.  Methods are coroutines of the loop.

    Parameters:
      queue(Queue): The queue.
      letters(ExhaustedLetters): Stores their dead letters.
    """

    def __init__(self, queue: Queue, letters: ExhaustedLetters) -> None:
        self.logger = get_logger(__name__, type(self))
        self._queue = queue
        self._letters = letters
        self._suspects: dict[Identity, float] = {}
        self._trials: dict[Identity, _Trial] = {}
        self._generations = Generations(queue)
        self._created = ""
        self._deliveries = 0

    async def look(self, session: Session) -> Looked:
        """Store the dead letters of what has looked exhausted for long enough, and note what does for the first time.

        Raises:
          BrokerError: If the server cannot be asked now.
        """
        route = self._queue.route
        if route.settings.bound:
            return Looked(0, None)
        try:
            consumer = await session.call_api(f"CONSUMER.INFO.{route.stream}.{route.consumer}")
            passed = self._passed(consumer)
            looked = await self._look(session, passed, consumer["config"].get("max_deliver", 1))
            return looked if looked.stored else await self._look_among_held(session, consumer, looked)
        except (StreamNotFound, ConsumerNotFound):
            self._forget()
            return Looked(0, None)

    async def _look_among_held(self, session: Session, consumer: dict[str, Any], looked: Looked) -> Looked:
        if not consumer["num_ack_pending"]:
            self._generations.forget()
            return looked
        started = time.monotonic()
        exhausted = await self._generations.exhausted(session, consumer)
        # They were observed for long enough while their generation ended.
        self._suspects.update(dict.fromkeys(exhausted, started - SETTLING))
        if exhausted:
            return Looked(0, 0.0)
        if not self._generations.is_active:
            return looked
        pause = max(SETTLING, (time.monotonic() - started) * SHARE)
        return Looked(0, pause if looked.pause is None else min(pause, looked.pause))

    def _passed(self, consumer: dict[str, Any]) -> int:
        """The sequence up to which nothing is held, nor will be."""
        delivered = consumer["delivered"]
        if consumer["created"] != self._created or delivered["consumer_seq"] < self._deliveries:
            # A consumer that was replaced or reset delivers all messages again.
            self._forget()
        self._created, self._deliveries = consumer["created"], delivered["consumer_seq"]
        last: int = delivered["stream_seq"]
        return min(last, consumer["ack_floor"]["stream_seq"]) if consumer["num_ack_pending"] else last

    def _forget(self) -> None:
        self._suspects.clear()
        self._trials.clear()
        self._generations.forget()

    async def _look(self, session: Session, passed: int, deliveries: int) -> Looked:
        route, stored, start, seen = self._queue.route, 0, 1, set[Identity]()
        end = max([passed, *(sequence for sequence, _ in self._suspects)])
        # Usually there is none: reading one message is enough to know.
        count = 1
        while stored < ROUND:
            page = await reading.read_page(session, route.stream, route.filter, start, count)
            found = [message for message in page.messages if message.sequence <= end]
            seen.update(map(identity, found))
            stored += await self._store_all(session, self._settled(found, passed), deliveries)
            if len(found) < len(page.messages) or not page.messages or not page.pending:
                self._keep_only(seen)
                break
            start, count = page.messages[-1].sequence + 1, reading.PAGE
        return Looked(stored, self._pause(stored))

    def _settled(self, found: Sequence[StoredMessage], passed: int) -> list[StoredMessage]:
        """Those that have looked exhausted for long enough; others are noted, if they do."""
        now, settled = time.monotonic(), []
        for message in found:
            key = identity(message)
            since = self._suspects.get(key)
            if since is not None:
                trial = self._trials.get(key)
                if now >= since + SETTLING and (trial is None or now >= trial.due):
                    settled.append(message)
            elif message.sequence <= passed and len(self._suspects) < MAX_SUSPECTS:
                self._suspects[key] = now
        return settled

    async def _store_all(self, session: Session, settled: Sequence[StoredMessage], deliveries: int) -> int:
        permits = asyncio.Semaphore(OUTSTANDING)

        async def store(message: StoredMessage) -> Exception | None:
            async with permits:
                try:
                    await self._letters.store(session, self._queue, message, deliveries)
                except Exception as error:
                    return error
            return None

        outcomes = await asyncio.gather(*map(store, settled))
        failed: list[tuple[StoredMessage, Exception]] = []
        for message, error in zip(settled, outcomes, strict=True):
            if error is not None:
                failed.append((message, error))
            else:
                self._suspects.pop(identity(message), None)
                self._trials.pop(identity(message), None)
        if failed:
            self._try_later(failed)
        return len(settled) - len(failed)

    def _try_later(self, failed: Sequence[tuple[StoredMessage, Exception]]) -> None:
        now = time.monotonic()
        for message, _ in failed:
            trial = self._trials.get(identity(message), _Trial(0, now))
            failures, delay = compute_backoff(trial.failures, factor=MIN_DELAY, jitter=False, max_backoff=MAX_DELAY)
            self._trials[identity(message)] = _Trial(failures, now + delay / 1000)
        message, error = failed[0]
        self.logger.warning(
            "The dead letters of %d messages of queue %r, which are out of attempts, cannot be stored; they are tried "
            "again in %d s. The first is message %s: %s",
            len(failed),
            self._queue.name,
            self._trials[identity(message)].due - now,
            f"{message.stream}:{message.sequence}",
            error,
            exc_info=None if isinstance(error, BrokerError) else error,
            extra=repeated(self._queue.name, type(error)),
        )

    def _keep_only(self, seen: set[Identity]) -> None:
        """Forget messages that no longer exist."""
        self._suspects = {key: since for key, since in self._suspects.items() if key in seen}
        self._trials = {key: trial for key, trial in self._trials.items() if key in seen}

    def _pause(self, stored: int) -> float | None:
        if stored:
            return 0.0
        now = time.monotonic()
        due = [max(since + SETTLING, self._due(key)) for key, since in self._suspects.items()]
        return max(min(due) - now, 0.0) if due else None

    def _due(self, key: Identity) -> float:
        trial = self._trials.get(key)
        return 0.0 if trial is None else trial.due
