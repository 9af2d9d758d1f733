"""Finds messages that are out of attempts without a word, as crash loops leave them, and buries them.

The server says so once, in an advisory; a stream captures these, and workers share them as they
share any queue.  An advisory that was never captured is made good by comparing counts.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq.errors import DecodeError
from dramatiq.logging import get_logger

from . import stored
from .attempts import Attempts
from .burial import End, Graveyard, Reason
from .delivery import ACK, Delivery, JetStreamMessage, Record, nak
from .errors import ApiError, BrokerError
from .names import Names
from .policy import Policy
from .prefetch import Prefetch
from .puller import Puller
from .queues import Queue
from .session import Session
from .settings import WorkQueue
from .stored import Stored
from .topology import Limits, Route, ensure_consumer, ensure_queue
from .wire import EXPECTED_LAST_ID, EXPECTED_SEQUENCE, MSG_ID, Origin, Publication

SUBJECT = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"

#: The durable consumer of advisories.
KEEPER = "keeper"

#: How many advisories to work on at once.
PREFETCH = 16

#: Milliseconds until an advisory comes back that this worker could not deal with.
RETRY_DELAY = 5_000

#: Seconds between two sweeps, give or take half.
SWEEP_INTERVAL = 60.0


class ParkedMessages:
    """Looks after the parked messages of the queues that a worker consumes.

    Parameters:
      names(Names): The names of the namespace.
      queues(Callable): Gives the declared queues.
      graveyard(Graveyard): Where dead letters go.
      attempts(Attempts): What is remembered of their attempts.
      policy(Policy): What actors and middleware ask for.
      replicas(int): How many servers keep the captured advisories.
      dead_message_ttl(int): The milliseconds to keep dead letters, unless the actor or message says.
    """

    def __init__(
        self,
        names: Names,
        queues: Callable[[], Iterable[Queue]],
        graveyard: Graveyard,
        attempts: Attempts,
        policy: Policy,
        *,
        replicas: int,
        dead_message_ttl: int,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._names = names
        self._queues = queues
        self._graveyard = graveyard
        self._attempts = attempts
        self._policy = policy
        self._replicas = replicas
        self._dead_message_ttl = dead_message_ttl
        self._session: Session | None = None
        self._pullers: dict[str, Puller] = {}
        self._unwatched: dict[str, Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._suspects: dict[str, set[int]] = {}

    async def prepare(self, session: Session, queue: Queue) -> None:
        """Make what looking after a queue needs, or go without; on the loop."""
        try:
            await self._ensure(session, self.advisory_route(queue.route))
        except BrokerError as error:
            self._say_unwatched(queue, error)

    async def watch(self, session: Session, queue: Queue) -> None:
        """Begin to look after a queue, or go without if that is not possible; on the loop."""
        if self._session is not session:
            self._session, self._pullers = session, {}
            self._spawn(self._sweep_for_ever(session))
        route = self.advisory_route(queue.route)
        if route.stream in self._pullers:
            return
        puller = Puller(session, route, Prefetch(PREFETCH, 0, 0), prepare=self._ensure, recall=_no_record)
        self._pullers[route.stream] = puller
        try:
            await puller.start(lambda delivery: self._spawn(self._handle(session, delivery)))
        except BrokerError as error:
            del self._pullers[route.stream]
            self._say_unwatched(queue, error)
        else:
            self._unwatched.pop(queue.name, None)

    async def stop(self) -> None:
        """Leave the rest to other workers; on the loop."""
        pullers, self._pullers, self._session = self._pullers, {}, None
        for puller in pullers.values():
            await puller.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _say_unwatched(self, queue: Queue, error: BrokerError) -> None:
        if queue.name not in self._unwatched:
            self._unwatched[queue.name] = queue
            self.logger.warning(
                "Messages of queue %r that crash their workers will not be dead letters, until this works: %s",
                queue.name,
                error,
            )

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
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
            consumer=KEEPER,
            stream_subjects=[subject],
        )
        return _AdvisoryRoute(f"{stream} (advisories)", settings, self._names, self._replicas)

    async def _ensure(self, session: Session, route: Route) -> Limits:
        await ensure_queue(session, route)
        return await ensure_consumer(session, route, None)

    async def _handle(self, session: Session, delivery: Delivery) -> None:
        """Deal with one advisory."""
        try:
            advisory = json.loads(delivery.body)
            queue = self._queue_of(advisory["stream"], advisory["consumer"])
            if queue is None:
                # A worker that consumes the queue knows how to read it.
                delivery.settle(nak(RETRY_DELAY))
                return
            found = await stored.get(session, advisory["stream"], advisory["stream_seq"])
            if found is not None:
                await self._bury(session, queue, found, advisory["deliveries"])
            delivery.settle(ACK)
        except BrokerError as error:
            self.logger.warning("A parked message waits for another try: %s", error)
            delivery.settle(nak(RETRY_DELAY))
        except (ValueError, KeyError, TypeError) as error:
            self.logger.error("An advisory cannot be read: %s", error)
            delivery.settle(ACK)

    def _queue_of(self, stream: str, consumer: str) -> Queue | None:
        wanted = (stream, consumer)
        return next((queue for queue in self._queues() if (queue.route.stream, queue.route.consumer) == wanted), None)

    async def _bury(self, session: Session, queue: Queue, found: Stored, deliveries: int) -> None:
        route = queue.route
        origin = Origin(route.stream, route.consumer, deliveries, found.sequence, found.timestamp)
        delivery = Delivery("", found.body, found.headers, _Nobody(), origin)
        if not route.settings.bound and await _was_copied(session, route, delivery):
            await stored.delete(session, route.stream, found.sequence)
            return
        delivery.record = await self._attempts.recall(session, delivery)
        message, reason, error = self._read(queue, delivery)
        ttl = self._policy.option(message, "dead_message_ttl", self._dead_message_ttl) if message else None
        end = End(delivery, message, reason, error, self._dead_message_ttl if ttl is None else ttl)
        await self._graveyard.store(session, route, end)
        if not route.settings.keeps_dead_letters:
            await stored.delete(session, route.stream, found.sequence)

    def _read(self, queue: Queue, delivery: Delivery) -> tuple[JetStreamMessage | None, Reason, DecodeError | None]:
        try:
            decoded = queue.payload.decode(delivery)
        except DecodeError as error:
            return None, Reason.UNDECODABLE, error
        message = JetStreamMessage(decoded, delivery)
        message.received_retries = message.options.get("retries", 0) + delivery.earlier_attempts
        message.bring_back_options()
        return message, Reason.ATTEMPTS_EXCEEDED, None

    async def _sweep_for_ever(self, session: Session) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL * random.uniform(0.5, 1.5))
            for queue in list(self._unwatched.values()):
                await self.watch(session, queue)
            for queue in list(self._queues()):
                try:
                    await self.sweep(session, queue)
                except BrokerError as error:
                    self.logger.debug("The sweep of queue %r waits: %s", queue.name, error)

    async def sweep(self, session: Session, queue: Queue) -> int:
        """Bury what is parked in a queue of ours and no advisory told of; on the loop.

        The server does not say which messages are parked.  When none is in flight, though, all
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
        found = await stored.read(session, route.stream, route.filter, 1, PREFETCH)
        seen = {message.sequence: message for message in found if message.sequence <= passed}
        known = self._suspects.pop(route.stream, set()) & seen.keys()
        self._suspects[route.stream] = seen.keys() - known
        for sequence in known:
            await self._bury(session, queue, seen[sequence], consumer["config"].get("max_deliver", 1))
        return len(known)


class _AdvisoryRoute(Route):
    """A stream of advisories, whose subjects have wildcards that no queue's subject may have."""

    @property
    def filter(self) -> str:
        return self.settings.stream_subjects[0]


class _Nobody:
    """Holds what was read from a stream instead of delivered: there is nothing to answer."""

    limits = Limits(0, None)

    def settle(self, delivery: Delivery, answer: bytes) -> None:
        return

    async def confirm(self, delivery: Delivery, answer: bytes) -> None:
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


async def _no_record(session: Session, delivery: Delivery) -> Record | None:
    return None
