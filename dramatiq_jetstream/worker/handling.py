"""What becomes of a delivered message, as named steps: admit, acknowledge, retry, reject, give back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dramatiq.common import compute_backoff, current_millis
from dramatiq.errors import ActorNotFound, DecodeError
from dramatiq.logging import get_logger

from ..client import Connection
from ..dead_letters import DeadLetterStore, Failure, Reason, reason_of
from ..deliveries import ACK, ActorOptions, Delivery, JetStreamMessage
from ..errors import BrokerConnectionError, BrokerError
from ..streams import Route
from ..wire import PayloadFormat
from .redelivery import Redelivery

#: Milliseconds before the first repetition of a message that could not be handled, doubled each
#: time, and their limit.  Five tries of the walkthrough's queue take well under a minute.
MIN_BACKOFF = 500
MAX_BACKOFF = 10_000

#: How often a message comes back because a hook could not hand its work on.
MAX_HANDOFFS = 10

#: The option that counts those times.
HANDOFFS = "handoff_failures"

#: The option that says since when, in UNIX milliseconds, no worker was found that knows the actor.
UNKNOWN_SINCE = "unknown_actor_since"


class QueueHandling:
    """Takes care of one queue's messages.

    Parameters:
      connection(Connection): The way to the server.
      route(Route): The queue.
      payload(PayloadFormat): How its messages are written.
      actor_options(ActorOptions): What actors and middleware ask for.
      redelivery(Redelivery): Gives messages another time to run.
      dead_letter_store(DeadLetterStore): Where dead letters go.
      unknown_actor_grace(int): The milliseconds to wait for a worker that knows an actor.
      on_delayed(Callable): Told of each message that was delayed on its way here.
    """

    def __init__(
        self,
        connection: Connection,
        route: Route,
        payload: PayloadFormat,
        actor_options: ActorOptions,
        redelivery: Redelivery,
        dead_letter_store: DeadLetterStore,
        *,
        unknown_actor_grace: int,
        on_delayed: Callable[[JetStreamMessage], None],
    ) -> None:
        self.logger = get_logger(__name__, f"Queue({route.queue_name})")
        self._connection = connection
        self._route = route
        self._payload = payload
        self._actor_options = actor_options
        self._redelivery = redelivery
        self._dead_letter_store = dead_letter_store
        self._unknown_actor_grace = unknown_actor_grace
        self._on_delayed = on_delayed

    def admit(self, message: JetStreamMessage) -> bool:
        """Whether a message may run here; one that may not is taken care of."""
        if message.redelivered or message.options:
            self._recover(message)
            if self._redelivery.hold_back(message):
                return False
        if not self._actor_options.knows(message.actor_name):
            self._wait_for_actor(message)
            return False
        if message.received_retries and self._is_beyond_limit(message):
            self._dead_letter(message, Reason.ATTEMPTS_EXCEEDED, None)
            return False
        if message.was_delayed:
            self._on_delayed(message)
        return True

    def knows(self, message: JetStreamMessage) -> bool:
        """Whether a message's actor is declared here."""
        return self._actor_options.knows(message.actor_name)

    def undecodable(self, delivery: Delivery, error: DecodeError) -> None:
        """Take care of a message that is none."""
        self.logger.error("Message %s of queue %r: %s", delivery, self._route.queue_name, error)
        self._fail(Failure(delivery, None, Reason.UNDECODABLE, error))

    def acknowledge(self, message: JetStreamMessage) -> None:
        """Remove a message that is done."""
        delivery = message.delivery
        if self._route.settings.confirm_acks and not delivery.settled:
            self._connection.call(lambda _: delivery.lease_keeper.confirm(delivery, ACK))
            delivery.finish()
        else:
            delivery.settle(ACK)

    def retry(self, message: JetStreamMessage, delay: int) -> None:
        """Have a message delivered again later."""
        if self._route.settings.bound and _is_last(message.delivery):
            self._dead_letter(message, Reason.RETRIES_EXHAUSTED, message._exception)
        else:
            self._again(message, delay, spent=True)

    def come_back(self, message: JetStreamMessage) -> None:
        """Have a message delivered again because a hook could not hand its work on."""
        failures = _earlier_handoffs(message) + 1
        message.options[HANDOFFS] = failures
        if failures > MAX_HANDOFFS:
            self._dead_letter(message, Reason.HANDOFF_FAILED, message.hook_error)
            return
        self.logger.error("Message %s comes back, for what follows it failed: %s", message.delivery, message.hook_error)
        message.options["retries"] = message.received_retries
        _, delay = compute_backoff(failures - 1, factor=MIN_BACKOFF, max_backoff=MAX_BACKOFF)
        self._again(message, delay, spent=False)

    def reject(self, message: JetStreamMessage) -> None:
        """Dead-letter a message."""
        try:
            self._dead_letter(message, reason_of(message), message._exception)
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            # dramatiq would report a bug of its own and forget the message.
            self.logger.error("Message %s stays in its queue, out of attempts: %s", message.delivery, error)
            self._redelivery.redeliver(message.delivery, MAX_BACKOFF, message.changed_options(), spent=True)

    def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """Return messages that did not run, without spending an attempt."""
        unreachable: BrokerConnectionError | None = None
        for delivery in deliveries:
            try:
                if unreachable is not None:
                    # One timeout is enough for all.
                    raise unreachable
                message = JetStreamMessage(self._decode(delivery), delivery)
                self._recover(message)
                self._redelivery.again(message, 0, spent=False)
            except DecodeError:
                self._redelivery.redeliver(delivery, 0, {}, spent=False)
            except BrokerError as error:
                # Raised on, it would end the shutdown, and with it what still runs.
                self.logger.warning("Message %s is back in its queue only after ack_wait: %s", delivery, error)
                unreachable = error if isinstance(error, BrokerConnectionError) else None

    def _again(self, message: JetStreamMessage, delay: int, *, spent: bool) -> None:
        try:
            self._redelivery.again(message, delay, spent=spent)
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            self.logger.error("Message %s cannot be tried again: %s", message.delivery, error)
            self._dead_letter(message, Reason.HANDOFF_FAILED, message._exception or error)

    def _is_beyond_limit(self, message: JetStreamMessage) -> bool:
        limit = self._actor_options.max_retries(message)
        return limit is not None and message.received_retries > limit

    def _decode(self, delivery: Delivery) -> Any:
        return self._payload.decode(delivery)

    def _recover(self, message: JetStreamMessage) -> None:
        message.recover()
        if message.delivery.crashed:
            self.logger.warning(
                "Message %s of queue %r was delivered before, and its worker did not say how that ended: it was killed "
                "or cut off.",
                message.delivery,
                self._route.queue_name,
            )

    def _wait_for_actor(self, message: JetStreamMessage) -> None:
        delivery, bound, now = message.delivery, self._route.settings.bound, current_millis()
        waited = now - min(message.options.get(UNKNOWN_SINCE, now), now)
        message.options[UNKNOWN_SINCE] = now - waited
        if (
            self._route.settings.keeps_dead_letters
            or waited >= self._unknown_actor_grace
            or (bound and _is_last(delivery))
        ):
            self.logger.error("No worker knows the actor %r of message %s.", message.actor_name, delivery)
            self._dead_letter(message, Reason.UNKNOWN_ACTOR, ActorNotFound(message.actor_name))
            return

        self.logger.warning(
            "This worker does not know the actor %r of message %s: leaving it to others.", message.actor_name, delivery
        )
        delay = min(max(waited, MIN_BACKOFF), MAX_BACKOFF)
        if bound:
            self._redelivery.redeliver(delivery, delay, message.changed_options(), spent=False)
        else:
            self._redelivery.copy(message, delay)

    def _dead_letter(self, message: JetStreamMessage, reason: Reason, error: BaseException | None) -> None:
        self._fail(Failure(message.delivery, message, reason, error))

    def _fail(self, failure: Failure) -> None:
        if self._route.settings.keeps_dead_letters:
            self._keep(failure)
        else:
            self._dead_letter_store.store_and_wait(self._route, failure)
            failure.delivery.settle(ACK)

    def _keep(self, failure: Failure) -> None:
        """Use up the attempts of a message that stays in its stream, and point at it after the last."""
        delivery = failure.delivery
        self.logger.warning(
            "Message %s of queue %r failed, attempt %d of %s: %s",
            delivery,
            self._route.queue_name,
            delivery.origin.deliveries,
            delivery.lease_keeper.limits.max_deliver or "any number",
            failure.reason.value if failure.error is None else f"{type(failure.error).__name__}: {failure.error}",
        )
        delay = _backoff(delivery)
        if _is_last(delivery):
            # The server notices on its next attempt to deliver it, which need not wait.
            delay = 0
            self._point_at(failure)
        options = failure.message.changed_options() if failure.message else {}
        self._redelivery.redeliver(delivery, delay, options, spent=True)

    def _point_at(self, failure: Failure) -> None:
        try:
            self._dead_letter_store.store_and_wait(self._route, failure)
        except BrokerError as error:
            # The message itself is not lost: it is where its owner looks for it.
            self.logger.warning("No dead letter points at message %s: %s", failure.delivery, error)


def _earlier_handoffs(message: JetStreamMessage) -> int:
    """How often it came back before; not what an answer that dramatiq repeats has counted already."""
    record = message.delivery.record
    kept = record.options if record is not None and HANDOFFS in record.options else message.received_options
    failures: int = kept.get(HANDOFFS, 0)
    return failures


def _is_last(delivery: Delivery) -> bool:
    limit = delivery.lease_keeper.limits.max_deliver
    return limit is not None and delivery.origin.deliveries >= limit


def _backoff(delivery: Delivery) -> int:
    _, delay = compute_backoff(delivery.earlier_attempts, factor=MIN_BACKOFF, max_backoff=MAX_BACKOFF)
    return int(delay)
