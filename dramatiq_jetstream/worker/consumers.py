"""What a worker process has open: its consumers, and the monitoring of messages without attempts left."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable

from dramatiq import Worker

from ..client import Buffer, Connection, Session, new_buffer
from ..dead_letters import ExhaustedMessages
from ..deliveries import AttemptRecords, Delivery, JetStreamMessage, Prefetch, Puller
from ..sending import Queue
from ..streams import Limits, Route
from .consumer import JetStreamConsumer
from .dramatiq_internals import guard_loggers, has_chosen_prefetch, take_waiting
from .fatal import end_process
from .handling import QueueHandling


class Consumers:
    """Opens consumers, and has them all hand back what did not start.

    Parameters:
      connection(Connection): The connection to the server.
      attempts(AttemptRecords): What is remembered of attempts.
      exhausted(ExhaustedMessages): The watch over exhausted messages.
      handling(Callable): Gives what becomes of a queue's messages.
      max_deliver(Callable): Tells how often a message of a queue may be delivered.
      managed(bool): Whether streams and consumers may be made.
    """

    def __init__(
        self,
        connection: Connection,
        attempts: AttemptRecords,
        exhausted: ExhaustedMessages,
        handling: Callable[[str], QueueHandling],
        max_deliver: Callable[[Queue], int | None],
        *,
        managed: bool,
    ) -> None:
        #: How many threads the worker of this process has, once there is one.
        self.threads: int | None = None
        self._connection = connection
        self._attempts = attempts
        self._exhausted = exhausted
        self._handling = handling
        self._max_deliver = max_deliver
        self._managed = managed
        self._open: weakref.WeakSet[JetStreamConsumer] = weakref.WeakSet()

    def open(self, kind: type[JetStreamConsumer], queue: Queue, prefetch: int, timeout: int) -> JetStreamConsumer:
        """Open a consumer of a queue.

        Parameters:
          kind(type): Its class.
          queue(Queue): The queue.
          prefetch(int): The number of messages that dramatiq wants prefetched.
          timeout(int): The milliseconds that an iteration waits for a message.

        Raises:
          BrokerError: If the queue cannot be consumed.
        """

        async def prepare(session: Session, _: Route) -> Limits:
            return await self._prepare(session, queue)

        guard_loggers(queue.name)
        session = self._connection.session()
        if self.threads is not None:
            session.on_fatal = end_process
        buffer: Buffer[Delivery | None] = new_buffer()
        bound, chosen = queue.route.settings.bound, has_chosen_prefetch()
        puller = Puller(
            session,
            queue.route,
            Prefetch.choose(prefetch, self.threads, bound=bound, chosen=chosen),
            prepare=prepare,
            recall=self._attempts.recall,
        )
        consumer = kind(puller, buffer, queue.payload, self._handling(queue.name), timeout)
        session.thread.run(lambda: puller.start(consumer.offer))
        self._open.add(consumer)
        if self._managed:
            self._connection.call(lambda live: self._exhausted.watch(live, queue))
        return consumer

    def stop(self) -> None:
        """Stop every consumer, and put what was not handed out back into its queue."""
        for consumer in list(self._open):
            consumer.stop()
        session = self._connection.current()
        if session is not None and session.is_open:
            self._connection.call(lambda _: self._exhausted.stop())

    def hand_back(self, worker: Worker) -> None:
        """Return what a worker has not started yet, while it waits for what it has."""
        self.stop()
        waiting: dict[str, list[Delivery]] = defaultdict(list)
        for message in take_waiting(worker):
            if isinstance(message, JetStreamMessage):
                waiting[message.queue_name].append(message.delivery)
        for queue_name, deliveries in waiting.items():
            # dramatiq's queue is a heap, which gives them out in any order.
            deliveries.sort(key=lambda delivery: delivery.origin.sequence)
            self._handling(queue_name).give_back(deliveries)

    async def _prepare(self, session: Session, queue: Queue) -> Limits:
        if not self._managed:
            return await queue.assumed_limits(session, self._max_deliver(queue))
        await self._attempts.ensure(session)
        await queue.ensure_stream(session)
        return await queue.consume(session, self._max_deliver(queue))
