"""The broker: it connects the other modules, and contains no logic of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from dramatiq import Actor, Broker, Message, Middleware
from dramatiq.common import q_name
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware.retries import DEFAULT_MIN_BACKOFF

from .assembly import Assembly
from .client import RESERVED_OPTIONS, Subscription
from .deliveries import JetStreamMessage, after_actor_hooks, run_after_actor_hooks
from .hidden import Hidden, hidden_options
from .logs import guard
from .options import check_actor, check_middleware, milliseconds
from .sending import AtomicBatch, Batch, DelayedMessage, PipelinedBatch, Queue, Sender, scheduled
from .settings import DEFAULT_TIMEOUT, DEFAULT_UNKNOWN_ACTOR_GRACE, BrokerSettings, Declare, WorkQueue
from .streams import Requirement, count, purge, wait_until_done
from .worker import JetStreamConsumer, exit_if_ending


class JetStreamBroker(Broker):
    """A broker on NATS JetStream.

    Nothing is connected until the first message is sent or consumed.  Each process has one
    connection; a forked child makes its own.

    Examples:

      >>> JetStreamBroker()

      >>> JetStreamBroker("nats://a:4222,nats://b:4222", user_credentials="app.creds")

      >>> JetStreamBroker(queues={"slow": WorkQueue(ack_wait=60_000, max_deliver=3)})

    Parameters:
      url(str | Sequence[str]): The servers, as one address, several with commas between, or a
        list.  Defaults to ``NATS_URL`` from the environment when the broker connects, then to
        ``nats://127.0.0.1:4222``.
      middleware(list[Middleware]): The middleware, as for every dramatiq broker.
      namespace(str): The prefix of all names on the server.  Applications that share a server
        use different ones.  Defaults to "dramatiq".
      queues(Mapping[str, WorkQueue]): The settings of individual queues, by queue name.  A queue
        that is not listed has the defaults of :class:`WorkQueue`.
      declare(str): ``"auto"``, the default, creates missing streams and consumers when they are
        first needed and checks existing ones; ``"never"`` creates nothing, and only requests how
        often a worker's consumers deliver a message, if this user is allowed to
        (``$JS.API.CONSUMER.INFO``).
      replicas(int): How many servers of a cluster store each stream.  Defaults to 1.
      domain(str): The JetStream domain of the streams.  Defaults to the domain of the server
        that the broker connects to.
      timeout(int): The maximum time, in milliseconds, that a call waits for an unreachable server
        before it raises.  Defaults to 10 seconds.
      dead_message_ttl(int): The time, in milliseconds, for which dead letters are kept; 0 keeps
        them for ever.  Defaults to ``dramatiq_dead_message_ttl`` from the environment, then to
        7 days.  An actor or a message may have an option of this name.
      unknown_actor_grace(int): The time, in milliseconds, for which a message waits for a worker
        that declares its actor, before it becomes a dead letter.  Defaults to 5 minutes.
      **connect_options: Passed to ``nats.connect``, such as ``user_credentials``, ``nkeys_seed``,
        ``user`` and ``password``, ``token``, ``tls``, ``name`` or ``inbox_prefix``.

    Raises:
      ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        middleware: list[Middleware] | None = None,
        namespace: str = "dramatiq",
        queues: Mapping[str, WorkQueue] | None = None,
        declare: Declare = "auto",
        replicas: int = 1,
        domain: str | None = None,
        timeout: int = DEFAULT_TIMEOUT,
        dead_message_ttl: int | None = None,
        unknown_actor_grace: int = DEFAULT_UNKNOWN_ACTOR_GRACE,
        **connect_options: Any,
    ) -> None:
        # Reporters of errors show the variables of frames.
        server, options = Hidden(url), hidden_options(connect_options)
        del url, connect_options
        super().__init__(middleware=middleware)
        guard(self.logger)
        reserved = sorted(RESERVED_OPTIONS & options.reveal().keys())
        if reserved:
            raise ValueError(f"the broker sets these connect options itself: {', '.join(reserved)}")
        self.settings = BrokerSettings(
            url=server,
            namespace=namespace,
            queues=dict(queues or {}),
            declare=declare,
            replicas=replicas,
            domain=domain,
            timeout=timeout,
            dead_message_ttl=dead_message_ttl,
            unknown_actor_grace=unknown_actor_grace,
            connect_options=options,
        )
        self.queues: set[str] = set()
        self.actor_options.add("dead_message_ttl")
        self._parts = parts = Assembly(self, self.settings)
        self.names = parts.names
        self.connection = parts.connection
        #: The records of earlier attempts.
        self.attempts = parts.attempts
        #: The messages that could not be handled.
        self.dead_letters = parts.dead_letters
        self._sender = Sender(self, self.connection, parts.queue)

    @property
    def consumer_class(self) -> type[JetStreamConsumer]:
        return JetStreamConsumer

    def close(self) -> None:
        """Return prefetched messages to the server and close the connection.  The next use opens a new one."""
        self._parts.consumers.stop()
        self.connection.close()
        exit_if_ending()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> JetStreamConsumer:
        """Create a new consumer for a queue.

        Parameters:
          queue_name(str): The queue to consume.
          prefetch(int): The number of messages to prefetch.
          timeout(int): The idle timeout in milliseconds.

        Raises:
          QueueNotFound: If the queue was never declared, or its stream or consumer does not exist
            on the server and may not be created.
          ConfigMismatch: If it exists on the server with different settings.
          BrokerConnectionError: If the server cannot be reached.

        Returns:
          JetStreamConsumer: A consumer that retrieves messages from JetStream.
        """
        return self._parts.consumers.open(self.consumer_class, self._declared(queue_name), prefetch, timeout)

    def add_middleware(self, middleware: Middleware, **place: Any) -> None:
        """Add a middleware object to this broker.

        Parameters:
          middleware(Middleware): The middleware.
          **place: ``before`` or ``after``: a class of middleware, as for every dramatiq broker.

        Raises:
          ValueError: If one of its defaults is invalid.
        """
        check_middleware(middleware)
        super().add_middleware(middleware, **place)

    def declare_actor(self, actor: Actor[Any, Any]) -> None:
        """Declare a new actor on this broker.

        Parameters:
          actor(Actor): The actor being declared.

        Raises:
          ValueError: If one of its options is invalid.  The text names the actor, the option and
            the allowed values.
        """
        check_actor(actor.actor_name, actor.priority, actor.options)
        super().declare_actor(actor)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue.  Has no effect if it has already been declared; does no I/O.

        Parameters:
          queue_name(str): The name of the new queue.
        """
        queue_name = q_name(queue_name)
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self._parts.queue(queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Enqueue a message.  When this returns, the stream has stored it.

        The queue need not be declared in this process: another program's workers may consume it.
        A worker that enqueues to a queue does not start to consume it.

        Parameters:
          message(Message): The message to enqueue.
          delay(int): The minimum amount of time, in milliseconds, to delay the message by.  The
            server stores the message and delivers it when the delay has passed.

        Raises:
          ValueError: If the delay or one of the message's options is invalid.  The text names the
            actor, the option and the allowed values.
          BrokerConnectionError: If the server does not confirm the message within the timeout.
          EnqueueRejected: If the stream refuses the message, for example because it is full.
          MessageTooLarge: If the message is larger than the stream or the server accepts.
          UnsupportedMessage: If the queue's payload format cannot express the message.
          DelayNotSupported: If the queue's stream does not support delayed messages.

        Returns:
          Message: Either the original message or a copy of it.
        """
        parent = after_actor_hooks.message
        if parent is not None and parent.stands_for(message):
            return self._retry(parent, delay)
        try:
            return self._sender.send(message, delay, parent)
        except Exception as error:
            self._hook_failed(error)
            raise

    def batch(self, *, atomic: bool = False) -> Batch:
        """Enqueue many messages and wait once for all: those this thread, or task, enqueues in a ``with`` block.

        Each message is sent at once.  The end of the block waits until all are stored.  An
        exception in the block does not revoke messages that were already sent.  The
        ``after_enqueue`` hooks of a message run when it is stored.

        Parameters:
          atomic(bool): Have the server store all messages or none, at the end of the block, and none
            if the block raises.  All must go to one queue, and there may be at most 1,000.
            Defaults to False.

        Raises:
          BatchFailed: At the end of the block, if messages were not stored.  It lists them.
          BatchUnconfirmed: If they are not confirmed because the server did not answer; also a
            BrokerConnectionError.
          ValueError: At the end of the block, if the server cannot store these messages together.

        Returns:
          Batch: The context manager.
        """
        return (AtomicBatch if atomic else PipelinedBatch)(self.connection, self._sender.stored, self._hook_failed)

    def enqueue_many(
        self, messages: Iterable[Message[Any]], *, delay: int | None = None, atomic: bool = False
    ) -> list[Message[Any]]:
        """Enqueue many messages and wait once for all.  When this returns, the streams have stored them.

        If one message cannot be enqueued, the others still are, unless ``atomic`` is set.

        Parameters:
          messages(Iterable[Message]): The messages.  They may go to different queues.
          delay(int): The minimum amount of time, in milliseconds, to delay each message by.
            Defaults to no delay.
          atomic(bool): Have the server store all messages or none, as in :meth:`batch`.  Defaults
            to False.

        Raises:
          BatchFailed: If messages were not stored.  It lists each with its reason.
          BatchUnconfirmed: If they are not confirmed because the server did not answer; also a
            BrokerConnectionError.
          ValueError: If the server cannot store these messages together.

        Returns:
          list[Message]: The messages as they were enqueued.
        """
        with self.batch(atomic=atomic) as batch:
            return [batch.attempt(message, partial(self.enqueue, delay=delay)) for message in messages]

    def flush(self, queue_name: str) -> None:
        """Drop all the messages from a queue, delayed ones and dead letters too.

        Parameters:
          queue_name(str): The queue to flush.
        """
        queue = self._declared(queue_name)
        self.connection.call(lambda session: purge(session, queue.route))
        self.dead_letters.purge(queue.name)

    def flush_all(self) -> None:
        """Drop all messages from all declared queues."""
        for queue_name in self.get_declared_queues():
            self.flush(queue_name)

    def get_declared_queues(self) -> set[str]:
        """Get all declared queues.

        Returns:
          set[str]: The names of all the queues declared so far on this broker.
        """
        return self.queues.copy()

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        """Get the number of messages in a queue.

        Parameters:
          queue_name(str): The queue whose message counts to get.

        Returns:
          tuple[int, int, int]: The number of messages that wait for a worker, of delayed messages
          and of dead letters.
        """
        queue = self._declared(queue_name)
        counts = self.connection.call(lambda session: count(session, queue.route))
        return counts.ready, counts.delayed, counts.dead

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """Wait for all the messages on the given queue to be processed, delayed ones too.  This
        method is only meant to be used in tests.

        Parameters:
          queue_name(str): The queue to wait on.
          interval(int): The interval, in milliseconds, at which to check the queue.
          timeout(int): The max amount of time, in milliseconds, to wait on this queue.

        Raises:
          QueueJoinTimeout: When the timeout elapses.
          QueueNotFound: If the given queue was never declared.
        """
        queue = self._declared(queue_name)
        if not wait_until_done(self.connection, queue.route, interval, timeout):
            raise QueueJoinTimeout(queue_name)

    def setup(self) -> None:
        """Create the streams and consumers of every declared queue now, and check those that exist.  Also
        create what their workers need: the streams of dead letters, of advisories and of attempt
        records, and the buckets of the backends that were given this broker.

        Raises:
          ConfigMismatch: If one exists with different settings.
          BrokerConnectionError: If the server cannot be reached.
        """
        self._parts.setup()

    def add_requirement(self, requirement: Requirement) -> None:
        """Have :meth:`setup` make, or check, a further stream."""
        self._parts.add_requirement(requirement)

    def requirements(self) -> list[Requirement]:
        """Everything that :meth:`setup` and the workers of the declared queues create on the server.

        Does no I/O.

        Returns:
          list[Requirement]: Each stream and consumer, those of the queues first.
        """
        return self._parts.requirements()

    def queue(self, queue_name: str) -> Queue:
        """Get a declared queue: its stream, subject and consumer on the server, and its payload format.

        Raises:
          QueueNotFound: If the given queue was never declared.
        """
        return self._declared(queue_name)

    def cancel(self, message: Message[Any]) -> bool:
        """Cancel a delayed message.

        Parameters:
          message(Message): The message, as it was enqueued.

        Raises:
          BrokerConnectionError: If the server cannot be reached.

        Returns:
          bool: Whether the message was cancelled; False if it is already in its queue, or was never
          delayed.
        """
        queue = self._parts.queue(message.queue_name)
        return self.connection.call(partial(scheduled.cancel, route=queue.route, message_id=message.message_id))

    def delayed(self, queue_name: str) -> Iterator[DelayedMessage]:
        """Iterate over the delayed messages of a queue.  They are read from the server in pages.

        Parameters:
          queue_name(str): The queue.

        Raises:
          QueueNotFound: If the given queue was never declared.
          BrokerConnectionError: If the server cannot be reached.

        Returns:
          Iterator[DelayedMessage]: Each message with the UNIX time in milliseconds at which it is
          due, in the order they were sent.  The time is None for a message of another program
          whose schedule is missing or contains no time.
        """
        queue = self._declared(queue_name)
        return scheduled.waiting(self.connection, queue.route, queue.payload)

    def publish(self, subject: str, body: bytes) -> None:
        """Publish a plain NATS message, outside of any queue, over the broker's connection.

        It reaches the server before any acknowledgement that follows on the same thread.

        Parameters:
          subject(str): The subject, without wildcards.
          body(bytes): The message.

        Raises:
          ValueError: If the subject cannot be published to.
          BrokerConnectionError: If the server cannot be reached.
        """
        self.connection.session().post(subject, body)

    def subscribe(self, subject: str, callback: Callable[[str, bytes], object]) -> Subscription:
        """Have a callback called, on the connection's own thread, for each NATS message on a subject.

        Parameters:
          subject(str): The subject, which may have wildcards.
          callback(Callable): Called with the message's subject and body; it must not block.

        Raises:
          BrokerConnectionError: If the server cannot be reached.

        Returns:
          Subscription: A context manager; close it to end the subscription.
        """
        return self.connection.session().listen(subject, callback)

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "process_message":
            # An exception thrown into this thread may have hit the end of the last message's hooks.
            after_actor_hooks.message = None
            if isinstance(args[0], JetStreamMessage):
                args[0].delivery.start_clock(partial(self._parts.actor_options.lease_limit, args[0]))
        elif signal == "worker_boot":
            self._parts.consumers.threads = args[0].worker_threads
        super().emit_before(signal, *args, **kwargs)
        if signal == "worker_shutdown":
            self._parts.consumers.hand_back(args[0])

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "process_message" and isinstance(args[0], JetStreamMessage):
            run_after_actor_hooks(self, *args, **kwargs)
        else:
            super().emit_after(signal, *args, **kwargs)

    def _retry(self, message: JetStreamMessage, delay: int | None) -> Message[Any]:
        """Note that the message being processed is retried; its acknowledgement then requests the redelivery."""
        self.emit_before("enqueue", message, delay)
        message.retry_delay = milliseconds(delay or 0)
        if message.retry_delay is None:
            message.retry_delay = DEFAULT_MIN_BACKOFF
            self.logger.error(
                "Actor %r: the retry delay of message %r, %r, is not a number of milliseconds; retried in %d ms.",
                message.actor_name,
                message.message_id,
                delay,
                DEFAULT_MIN_BACKOFF,
            )
        self.emit_after("enqueue", message, delay)
        # dramatiq also returns the proxy when it is given one.
        return cast("Message[Any]", message)

    def _declared(self, queue_name: str) -> Queue:
        queue = self._parts.known_queue(queue_name)
        if queue is None:
            raise QueueNotFound(queue_name)
        return queue

    def _hook_failed(self, error: Exception) -> None:
        """Note that an after-actor hook could not enqueue its message; the current message is redelivered."""
        if after_actor_hooks.message is not None:
            after_actor_hooks.message.hook_error = error
