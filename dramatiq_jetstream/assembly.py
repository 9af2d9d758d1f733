"""The parts of a broker, put together: its queues and what becomes of their messages."""

from __future__ import annotations

from functools import partial

from dramatiq import Broker
from dramatiq.common import q_name

from .client import Connection
from .dead_letters import DeadLetters, DeadLetterStore, ExhaustedMessages
from .deliveries import ActorOptions, AttemptRecords
from .names import Names
from .sending import Queue
from .settings import BrokerSettings
from .streams import Requirement, Route, dead_letter_config, helper_requirement, queue_requirements
from .worker import Consumers, QueueHandling, Redelivery


class Assembly:
    """What a broker consists of.

    Parameters:
      broker(Broker): The broker, for its actors, middleware, hooks and declared queues.
      settings(BrokerSettings): Its settings.
    """

    def __init__(self, broker: Broker, settings: BrokerSettings) -> None:
        self.names = Names(settings.namespace)
        self.connection = Connection(settings)
        self.actor_options = ActorOptions(broker)
        self.attempts = AttemptRecords(self.names, settings.replicas)
        self._broker = broker
        self._settings = settings
        self._managed = settings.declare == "auto"
        self._queues: dict[str, Queue] = {}
        self._handling: dict[str, QueueHandling] = {}
        #: What backends on this connection need, by the name of the stream.
        self._added: dict[str, Requirement] = {}
        self._dead_letter_store = DeadLetterStore(
            self.connection,
            self.names,
            self.actor_options,
            settings.replicas,
            managed=self._managed,
            ttl=settings.dead_letter_ttl(),
        )
        self.dead_letters = DeadLetters(self.connection, self.names, self.queue)
        self.exhausted = ExhaustedMessages(
            self.names,
            self.declared_queues,
            self._dead_letter_store,
            self.attempts,
            replicas=settings.replicas,
        )
        self.consumers = Consumers(
            self.connection,
            self.attempts,
            self.exhausted,
            self.handling,
            self.max_deliver,
            managed=self._managed,
        )

    def queue(self, queue_name: str) -> Queue:
        """A queue, declared or not; dramatiq's workers consume only declared queues."""
        queue = self._queues.get(queue_name)
        if queue is None:
            queue_name = q_name(queue_name)
            if queue_name not in self._queues:
                self._build(queue_name)
            queue = self._queues[queue_name]
        return queue

    def known_queue(self, queue_name: str) -> Queue | None:
        """A queue that was declared, or sent to; None if it was neither."""
        return self._queues.get(q_name(queue_name))

    def declared_queues(self) -> list[Queue]:
        """The queues that are declared."""
        return [queue for name, queue in list(self._queues.items()) if name in self._broker.queues]

    def handling(self, queue_name: str) -> QueueHandling:
        """What becomes of the delivered messages of a queue."""
        return self._handling[queue_name]

    def max_deliver(self, queue: Queue) -> int:
        """How often a message of a queue is delivered at most."""
        return queue.route.settings.max_deliver or self.actor_options.max_deliver(queue.name)

    def setup(self) -> None:
        """Create, or check, all that :meth:`requirements` lists.  Raises ConfigMismatch, BrokerConnectionError."""
        for queue in self.declared_queues():
            self.connection.call(queue.ensure_stream)
            self.connection.call(partial(queue.ensure_consumer, max_deliver=self.max_deliver(queue)))
            self.connection.call(partial(self.exhausted.prepare, queue=queue))
        self.connection.call(self.attempts.ensure)
        self.connection.call(self._dead_letter_store.ensure)
        for requirement in self._added_requirements() if self._managed else ():
            self.connection.call(requirement.ensure)

    def add_requirement(self, requirement: Requirement) -> None:
        """Add a stream to what is required."""
        self._added[requirement.stream] = requirement

    def requirements(self) -> list[Requirement]:
        """All streams and consumers of the declared queues, and the streams beside them; no I/O."""
        queues = self.declared_queues()
        requirements = [
            needed for queue in queues for needed in queue_requirements(queue.route, self.max_deliver(queue))
        ]
        advisories = [self.exhausted.advisory_route(queue.route) for queue in queues]
        for route in {route.stream: route for route in advisories}.values():
            requirements += queue_requirements(route, None, "advisories about messages out of attempts")
        requirements.append(self.attempts.requirement)
        config = dead_letter_config(self.names, self._settings.replicas)
        requirements.append(helper_requirement(config, "dead letters"))
        return requirements + self._added_requirements()

    def _added_requirements(self) -> list[Requirement]:
        return [self._added[stream] for stream in sorted(self._added)]

    def _build(self, queue_name: str) -> None:
        settings = self._settings
        route = Route(queue_name, settings.queue(queue_name), self.names, settings.replicas)
        payload = self.actor_options.payload(route)
        self._handling[queue_name] = QueueHandling(
            self.connection,
            route,
            payload,
            self.actor_options,
            Redelivery(self.connection, route, payload, self.attempts),
            self._dead_letter_store,
            unknown_actor_grace=settings.unknown_actor_grace,
            on_delayed=partial(self._broker.emit_before, "delay_message"),
        )
        self._queues[queue_name] = Queue(route, payload, self.connection, managed=self._managed)
