"""Finds exhausted messages, as crash loops leave them: out of attempts, still in their stream, without a dead letter.

The server says so once, in an advisory; a stream captures these, and workers share them as they
share any queue.  An advisory that was never captured is made good by comparing counts.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable

from dramatiq.errors import DecodeError
from dramatiq.logging import get_logger

from ..client import Session
from ..deliveries import ACK, AttemptRecord, AttemptRecords, Delivery, JetStreamMessage, Prefetch, Puller, nak
from ..errors import ApiError, BrokerError
from ..names import Names
from ..sending import Queue
from ..settings import WorkQueue
from ..streams import Limits, Route, StoredMessage, consumer_requirement, limits, reading, stream_requirement
from ..wire import EXPECTED_LAST_ID, EXPECTED_SEQUENCE, MSG_ID, Origin, Publication
from .letter import Failure, Reason
from .storing import DeadLetterStore

SUBJECT = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"

#: The durable consumer of advisories.
ADVISORY_CONSUMER = "keeper"

#: How many advisories to work on at once.
PREFETCH = 16

#: Milliseconds until an advisory comes back that this worker could not deal with.
RETRY_DELAY = 5_000

#: Seconds between two sweeps, give or take half.
SWEEP_INTERVAL = 60.0


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
        self._dead_letter_store = dead_letter_store
        self._attempts = attempts
        self._replicas = replicas
        self._session: Session | None = None
        self._pullers: dict[str, Puller] = {}
        self._unwatched: dict[str, Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._suspects: dict[str, set[int]] = {}

    async def prepare(self, session: Session, queue: Queue) -> None:
        """Make what looking after a queue needs, or go without; on the loop."""
        try:
            await self._ensure(session, self.advisory_route(queue.route))
        except BrokerError as error:
            self._report_unwatched(queue, error)

    async def watch(self, session: Session, queue: Queue) -> None:
        """Begin to look after a queue, or go without if that is not possible; on the loop."""
        if self._session is not session:
            # What ran in an earlier session ended with it.
            self._session, self._pullers, self._tasks = session, {}, set()
            self._sweeping = session.supervisor.keep("search for exhausted messages", self._sweep_for_ever)
        route = self.advisory_route(queue.route)
        if route.stream in self._pullers:
            return
        puller = Puller(session, route, Prefetch(PREFETCH, 0, 0), prepare=self._ensure, recall=_no_record)
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
        pullers, self._pullers, self._session = self._pullers, {}, None
        for puller in pullers.values():
            await puller.stop()
        tasks = [*self._tasks, *([self._sweeping] if self._sweeping is not None else [])]
        self._tasks, self._sweeping = set(), None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _report_unwatched(self, queue: Queue, error: BrokerError) -> None:
        if queue.name not in self._unwatched:
            self._unwatched[queue.name] = queue
            self.logger.warning(
                "Messages of queue %r that crash their workers will not be dead letters, until this works: %s",
                queue.name,
                error,
            )

    def _begin(self, session: Session, delivery: Delivery) -> None:
        task = session.supervisor.once(f"handling of advisory {delivery}", self._handle(session, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def advisory_route(self, route: Route) -> Route:
        """Where the advisories about a queue's consumer are captured; one stream for all of ours."""
        stream, subject = self._names.advisories, f"{SUBJECT}.*.{self._names.consumer}"
        if route.settings.bound:
            stream, subject = self._names.advisories_of(route.queue_name), f"{SUBJECT}.{route.stream}.{route.consumer}"
        settings = WorkQueue(
            stream=stream,
            subject=f"{SUBJECT}.{route.stream}.{route.consumer}",
            consumer=ADVISORY_CONSUMER,
            stream_subjects=[subject],
        )
        return _AdvisoryRoute(f"{stream} (advisories)", settings, self._names, self._replicas)

    async def _ensure(self, session: Session, route: Route) -> Limits:
        await stream_requirement(route).ensure(session)
        return limits(await consumer_requirement(route, None).ensure(session))

    async def _handle(self, session: Session, delivery: Delivery) -> None:
        """Deal with one advisory."""
        try:
            advisory = json.loads(delivery.body)
            queue = self._queue_of(advisory["stream"], advisory["consumer"])
            if queue is None:
                # A worker that consumes the queue knows how to read it.
                delivery.settle(nak(RETRY_DELAY))
                return
            found = await reading.get(session, advisory["stream"], advisory["stream_seq"])
            if found is not None:
                await self._dead_letter(session, queue, found, advisory["deliveries"])
            delivery.settle(ACK)
        except BrokerError as error:
            self.logger.warning("An exhausted message waits for another try: %s", error)
            delivery.settle(nak(RETRY_DELAY))
        except (ValueError, KeyError, TypeError) as error:
            self.logger.error("An advisory cannot be read: %s", error)
            delivery.settle(ACK)

    def _queue_of(self, stream: str, consumer: str) -> Queue | None:
        wanted = (stream, consumer)
        return next((queue for queue in self._queues() if (queue.route.stream, queue.route.consumer) == wanted), None)

    async def _dead_letter(self, session: Session, queue: Queue, found: StoredMessage, deliveries: int) -> None:
        route = queue.route
        origin = Origin(route.stream, route.consumer, deliveries, found.sequence, found.timestamp)
        delivery = Delivery("", found.body, found.headers, _NoLease(), origin)
        if not route.settings.bound and await _was_copied(session, route, delivery):
            await reading.delete(session, route.stream, found.sequence)
            return
        delivery.record = await self._attempts.recall(session, delivery)
        message, reason, error = self._read(queue, delivery)
        kept = route.settings.keeps_dead_letters
        await self._dead_letter_store.store(session, route, Failure(delivery, message, reason, error, kept))
        if not route.settings.keeps_dead_letters:
            await reading.delete(session, route.stream, found.sequence)

    def _read(self, queue: Queue, delivery: Delivery) -> tuple[JetStreamMessage | None, Reason, DecodeError | None]:
        try:
            decoded = queue.payload.decode(delivery)
        except DecodeError as error:
            return None, Reason.UNDECODABLE, error
        message = JetStreamMessage(decoded, delivery)
        message.recover()
        return message, Reason.ATTEMPTS_EXCEEDED, None

    async def _sweep_for_ever(self) -> None:
        while (session := self._session) is not None:
            await asyncio.sleep(SWEEP_INTERVAL * random.uniform(0.5, 1.5))
            for queue in list(self._unwatched.values()):
                await self.watch(session, queue)
            for queue in list(self._queues()):
                try:
                    await self.sweep(session, queue)
                except BrokerError as error:
                    self.logger.debug("The sweep of queue %r waits: %s", queue.name, error)

    async def sweep(self, session: Session, queue: Queue) -> int:
        """Bury what is exhausted in a queue of ours and no advisory told of; on the loop.

        The server does not say which messages are exhausted.  When none is in flight, though, all
        that the consumer has passed and that are still there must be; and to be sure, they must
        have been there at the sweep before.

        Returns:
          int: How many there were.
        """
        route = queue.route
        if route.settings.bound:
            return 0
        consumer = await session.call_api(f"CONSUMER.INFO.{route.stream}.{route.consumer}")
        passed = consumer["delivered"]["stream_seq"]
        if consumer["num_ack_pending"]:
            return 0
        found = await reading.read(session, route.stream, route.filter, 1, PREFETCH)
        seen = {message.sequence: message for message in found if message.sequence <= passed}
        known = self._suspects.pop(route.stream, set()) & seen.keys()
        self._suspects[route.stream] = seen.keys() - known
        for sequence in known:
            await self._dead_letter(session, queue, seen[sequence], consumer["config"].get("max_deliver", 1))
        return len(known)


class _AdvisoryRoute(Route):
    """A stream of advisories, whose subjects have wildcards that no queue's subject may have."""

    @property
    def filter(self) -> str:
        return self.settings.stream_subjects[0]


class _NoLease:
    """Holds what was read from a stream instead of delivered: there is nothing to answer."""

    limits = Limits(0, None)

    def settle(self, delivery: Delivery, answer: bytes) -> None:
        return

    async def confirm(self, delivery: Delivery, answer: bytes) -> None:
        return

    def drop(self, delivery: Delivery) -> None:
        return


async def _was_copied(session: Session, route: Route, delivery: Delivery) -> bool:
    """Whether a worker died after it stored the copy that a message continues as, and before it removed the original.

    The stream knows the copy's message id for a while.  This asks with a condition that never holds,
    which keeps it from storing anything.  A single server looks at the last sequence before it looks
    at ids; a replicated stream does not, but stops for good when it is asked about the last id.
    """
    stream = await session.call_api(f"STREAM.INFO.{route.stream}")
    never = {EXPECTED_LAST_ID: f"not {delivery.copy_id}"}
    if stream["config"]["num_replicas"] > 1:
        never = {EXPECTED_SEQUENCE: str(2**62)}
    headers = {MSG_ID: delivery.copy_id, **never}
    try:
        receipt = await session.store(Publication(route.subject(""), b"", headers))
    except ApiError:
        return False
    return receipt.duplicate


async def _no_record(session: Session, delivery: Delivery) -> AttemptRecord | None:
    return None
