"""Finds exhausted messages, as crash loops leave them: out of attempts, still in their stream, without a dead letter.

The server says so once, in an advisory; a stream captures these, and workers share them as they
share any queue.  A sweep finds what no advisory told of.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable

from dramatiq.common import compute_backoff

from ..client import Session
from ..deliveries import ACK, AttemptRecord, AttemptRecords, Delivery, Prefetch, Puller, nak
from ..errors import BrokerError, ConsumerNotFound, StreamNotFound
from ..logs import get_logger, repeated
from ..names import Names
from ..sending import Queue
from ..streams import Route, StoredMessage, reading
from .advisories import MAX_AGE_BOUND, Advisory, AdvisoryRoute, advisory_route, ensure
from .exhausted_letters import ExhaustedLetters
from .storing import DeadLetterStore
from .sweeping import Looked, Sweep

#: How many advisories to work on at once.
PREFETCH = 16

#: Milliseconds until an advisory comes back that this worker could not deal with, doubled each time; their limit if
#: its dead letter cannot be stored; and their limit if nobody declares its queue here.
MIN_DELAY = 500
MAX_DELAY = 60_000
MAX_DELAY_FOREIGN = 600_000

#: Seconds for which a stop waits until the dead letters that are being stored are finished.
FINISHING = 2.0

#: Seconds between two warnings of one kind.
REPORT_INTERVAL = 60.0

#: Seconds between two sweeps that find nothing, give or take half, and before the first one.
SWEEP_INTERVAL = 60.0
FIRST_SWEEP = 10.0


class ExhaustedMessages:
    """Looks after the exhausted messages of the queues that a worker consumes.

    Parameters:
      names(Names): The names of the namespace.
      queues(Callable): Gives the declared queues.
      dead_letter_store(DeadLetterStore): Where dead letters go.
      attempts(AttemptRecords): What is remembered of their attempts.
      replicas(int): How many servers keep the captured advisories.
    """

    def __init__(
        self,
        names: Names,
        queues: Callable[[], Iterable[Queue]],
        dead_letter_store: DeadLetterStore,
        attempts: AttemptRecords,
        *,
        replicas: int,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._names = names
        self._queues = queues
        self._letters = ExhaustedLetters(dead_letter_store, attempts)
        self._replicas = replicas
        self._session: Session | None = None
        self._pullers: dict[str, Puller] = {}
        self._unwatched: dict[str, Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._sweeps: dict[str, Sweep] = {}
        self._reported: dict[str, float] = {}

    async def prepare(self, session: Session, queue: Queue) -> None:
        """Make what looking after a queue needs, or go without; on the loop."""
        try:
            await ensure(session, self.advisory_route(queue.route))
        except BrokerError as error:
            self._report_unwatched(queue, error)

    async def watch(self, session: Session, queue: Queue) -> None:
        """Begin to look after a queue, or go without if that is not possible; on the loop."""
        if self._session is not session:
            # The tasks of an earlier session ended with it.
            self._session, self._pullers, self._tasks = session, {}, set()
            self._sweeping = session.supervisor.keep("search for exhausted messages", self._sweep_for_ever)
        route = self.advisory_route(queue.route)
        if route.stream in self._pullers:
            return
        puller = Puller(session, route, Prefetch(PREFETCH, 0, 0), prepare=ensure, recall=_no_record)
        self._pullers[route.stream] = puller
        try:
            await puller.start(lambda delivery: self._begin(session, delivery))
        except BrokerError as error:
            del self._pullers[route.stream]
            self._report_unwatched(queue, error)
        else:
            self._unwatched.pop(queue.name, None)

    async def stop(self) -> None:
        """Leave the rest to other workers; on the loop."""
        if self._session is not None and not self._session.thread.is_current:
            # It was closed, or is the parent process's.
            self._pullers, self._tasks, self._sweeping = {}, set(), None
        pullers, self._pullers, self._session = self._pullers, {}, None
        for puller in pullers.values():
            await puller.stop()
        if self._tasks:
            # A message whose dead letter is stored is removed as well, or it waits for another worker.
            await asyncio.wait(self._tasks, timeout=FINISHING)
        tasks = [*self._tasks, *([self._sweeping] if self._sweeping is not None else [])]
        self._tasks, self._sweeping = set(), None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def advisory_route(self, route: Route) -> AdvisoryRoute:
        """Where the advisories about a queue's consumer are captured."""
        return advisory_route(self._names, route, self._replicas)

    def _report_unwatched(self, queue: Queue, error: BrokerError) -> None:
        if queue.name not in self._unwatched:
            self._unwatched[queue.name] = queue
            self.logger.warning(
                "Messages of queue %r that crash their workers get their dead letters only in a sweep, until this "
                "works: %s",
                queue.name,
                error,
            )

    def _begin(self, session: Session, delivery: Delivery) -> None:
        task = session.supervisor.once(f"handling of advisory {delivery}", self._handle(session, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, session: Session, delivery: Delivery) -> None:
        """Deal with one advisory; whatever happens, it is answered."""
        delay = _delay(delivery, MAX_DELAY)
        try:
            answer = await self._answer(session, delivery)
        except Exception as error:
            self._report(delivery, delay, error)
            answer = nak(delay)
        try:
            delivery.settle(answer)
        except BrokerError as error:
            self.logger.debug("Advisory %s comes back after ack_wait: %s", delivery, error)

    def _report(self, delivery: Delivery, delay: int, error: Exception) -> None:
        """Say that a dead letter could not be stored; once a minute for each kind of error."""
        now, kind = time.monotonic(), type(error).__name__
        loud = now - self._reported.get(kind, -math.inf) >= REPORT_INTERVAL
        if loud:
            self._reported[kind] = now
        self.logger.log(
            logging.WARNING if loud else logging.DEBUG,
            "The dead letter of a message that is out of attempts cannot be stored; it is tried again in %.1f s: %s. "
            "The server's advisory: %a",
            delay / 1000,
            error,
            delivery.body[:1_000].decode("utf-8", "replace"),
            exc_info=not isinstance(error, BrokerError),
        )

    async def _answer(self, session: Session, delivery: Delivery) -> bytes:
        try:
            advisory = Advisory.read(delivery.body)
        except ValueError as error:
            self.logger.error(
                "Advisory %s cannot be read and is dropped: %s",
                delivery,
                error,
                extra=repeated(delivery.origin.stream),
            )
            return ACK
        queue = self._queue_of(advisory)
        if queue is None:
            return await self._leave(session, delivery, advisory)
        try:
            found = await _exhausted_message(session, advisory)
        except (StreamNotFound, ConsumerNotFound):
            return ACK
        if found is not None:
            await self._letters.store(session, queue, found, advisory.deliveries)
        return ACK

    async def _leave(self, session: Session, delivery: Delivery, advisory: Advisory) -> bytes:
        """Leave an advisory to a worker that consumes its queue and knows how to read the message."""
        age = time.time_ns() // 1_000_000 - delivery.origin.milliseconds
        try:
            await session.call_api(f"STREAM.INFO.{advisory.stream}")
        except StreamNotFound:
            return ACK
        return ACK if age > MAX_AGE_BOUND else nak(_delay(delivery, MAX_DELAY_FOREIGN))

    def _queue_of(self, advisory: Advisory) -> Queue | None:
        wanted = (advisory.stream, advisory.consumer)
        return next((queue for queue in self._queues() if (queue.route.stream, queue.route.consumer) == wanted), None)

    async def _sweep_for_ever(self) -> None:
        pause, watch_again = min(FIRST_SWEEP, SWEEP_INTERVAL) * random.uniform(0.5, 1.5), 0.0
        while (session := self._session) is not None:
            await asyncio.sleep(pause)
            pause = SWEEP_INTERVAL * random.uniform(0.5, 1.5)
            if time.monotonic() >= watch_again:
                watch_again = time.monotonic() + pause
                for queue in list(self._unwatched.values()):
                    await self.watch(session, queue)
            for queue in list(self._queues()):
                looked = await self._sweep(session, queue)
                pause = min(pause, math.inf if looked.pause is None else looked.pause)

    async def _sweep(self, session: Session, queue: Queue) -> Looked:
        sweep = self._sweeps.setdefault(queue.name, Sweep(queue, self._letters))
        try:
            return await sweep.look(session)
        except BrokerError as error:
            self.logger.warning(
                "The search for exhausted messages of queue %r waits: %s",
                queue.name,
                error,
                extra=repeated(queue.name, type(error)),
            )
        except Exception:
            self.logger.exception(
                "The search for exhausted messages of queue %r failed; it goes on later.",
                queue.name,
                extra=repeated(queue.name),
            )
        return Looked(0, None)


async def _exhausted_message(session: Session, advisory: Advisory) -> StoredMessage | None:
    """The message of an advisory, if that still holds: since it was sent, the stream or the consumer may be another."""
    consumer = await session.call_api(f"CONSUMER.INFO.{advisory.stream}.{advisory.consumer}")
    if reading.nanoseconds(consumer["created"]) > advisory.timestamp:
        return None
    if consumer["delivered"]["stream_seq"] < advisory.sequence:
        return None
    found = await reading.get(session, advisory.stream, advisory.sequence)
    return found if found is not None and found.timestamp <= advisory.timestamp else None


def _delay(delivery: Delivery, longest: int) -> int:
    """The milliseconds until an advisory comes back."""
    _, delay = compute_backoff(delivery.origin.deliveries - 1, factor=MIN_DELAY, jitter=False, max_backoff=longest)
    return delay


async def _no_record(session: Session, delivery: Delivery) -> AttemptRecord | None:
    return None
