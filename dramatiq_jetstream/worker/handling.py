"""Handles a delivered message in named steps: admit, acknowledge, retry, reject, give back.

A delivery is always answered, even after an exception: a message that cannot be handled ends as a dead letter,
and where that cannot be stored it is given back with a growing delay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from dramatiq.common import compute_backoff, current_millis
from dramatiq.errors import ActorNotFound, DecodeError

from ..client import Connection
from ..dead_letters import DeadLetterStore, Failure, Reason, reason_of
from ..deliveries import ACK, ActorOptions, Delivery, JetStreamMessage, is_permanent, nak
from ..errors import BrokerConnectionError, BrokerError, described, text_of
from ..logs import get_logger, repeated
from ..streams import Route
from ..wire import PayloadFormat
from .dramatiq_internals import exception_of
from .keeping import MAX_BACKOFF, MIN_BACKOFF, KeptMessages
from .redelivery import Redelivery, is_deliverable

#: How often a message is redelivered because a hook could not enqueue its message.
MAX_HANDOFFS = 10

#: Milliseconds until a message comes back that could neither be handled nor made a dead letter, doubled each time,
#: and their limit.
MIN_GIVE_BACK = 5_000
MAX_GIVE_BACK = 600_000


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
      on_delayed(Callable): Called with each message that was delayed.
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
        self._kept = KeptMessages(route, actor_options, redelivery, dead_letter_store)
        self._unknown_actor_grace = unknown_actor_grace
        self._on_delayed = on_delayed

    def admit(self, message: JetStreamMessage) -> bool:
        """Whether a message may run here; one that may not is taken care of."""
        if not message.is_plain:
            self._recover(message)
            if message.bookkeeping.ended:
                self._dead_letter(message, Reason.of(message.bookkeeping.ended), None, ran=False)
                return False
            if self._redelivery.hold_back(message):
                return False
        if not self._actor_options.knows(message.actor_name):
            self._wait_for_actor(message)
            return False
        if message.bookkeeping.unknown_since:
            message.bookkeeping = replace(message.bookkeeping, unknown_since=0)
        if message.received_retries and not self._may_begin(message):
            self._dead_letter(message, Reason.ATTEMPTS_EXCEEDED, None, ran=False)
            return False
        if message.was_delayed:
            self._on_delayed(message)
        return True

    def knows(self, message: JetStreamMessage) -> bool:
        """Whether a message's actor is declared here."""
        return self._actor_options.knows(message.actor_name)

    def undecodable(self, delivery: Delivery, error: DecodeError) -> None:
        """Take care of an undecodable message."""
        if not self._route.settings.keeps_dead_letters:
            self.logger.error(
                "Message %s of queue %r cannot be decoded; it becomes a dead letter: %s",
                delivery,
                self._route.queue_name,
                text_of(error),
                extra=self._repeated(error),
            )
        self._fail(Failure(delivery, None, Reason.UNDECODABLE, error))

    def unhandled(self, delivery: Delivery, error: Exception, message: JetStreamMessage | None = None) -> None:
        """Take care of a message whose handling failed; never raises.

        Parameters:
          delivery(Delivery): The delivery.
          error(Exception): What its handling failed with.
          message(JetStreamMessage): The message, if it was decoded.
        """
        try:
            if isinstance(error, BrokerError):
                self._give_back_later(delivery, error)
                return
            self.logger.critical(
                "Message %s of queue %r could not be handled; it becomes a dead letter.",
                delivery,
                self._route.queue_name,
                exc_info=error,
                extra=self._repeated(error, message),
            )
            self._fail(Failure(delivery, message, Reason.UNHANDLED, error))
        except Exception as failure:
            self._give_back_later(delivery, failure)

    def acknowledge(self, message: JetStreamMessage) -> None:
        """Remove a message that is done."""
        delivery = message.delivery
        if self._route.settings.confirm_acks and not delivery.settled:
            delivery.lease_keeper.confirm(delivery, ACK)
            delivery.finish()
        else:
            delivery.settle(ACK)

    def retry(self, message: JetStreamMessage, delay: float) -> None:
        """Have a message delivered again later."""
        if self._route.settings.bound and not is_deliverable(message.delivery):
            self._dead_letter(message, Reason.RETRIES_EXHAUSTED, exception_of(message))
        else:
            self._again(message, delay, spent=True)

    def come_back(self, message: JetStreamMessage) -> None:
        """Have a message delivered again because a hook could not enqueue its message."""
        error = message.hook_error
        failures = message.counted_handoffs + 1
        if error is not None and is_permanent(error):
            self.logger.error(
                "The follow-up of message %s cannot be enqueued and is not retried: %s",
                message.delivery,
                text_of(error),
                extra=self._repeated(error, message),
            )
            self._dead_letter(message, Reason.HANDOFF_FAILED, error)
            return
        message.bookkeeping = replace(message.bookkeeping, handoffs=failures)
        if failures > MAX_HANDOFFS:
            self._dead_letter(message, Reason.HANDOFF_FAILED, error)
            return
        message.options["retries"] = message.received_retries
        _, delay = compute_backoff(failures - 1, factor=MIN_BACKOFF, max_backoff=MAX_BACKOFF)
        self.logger.error(
            "What follows message %s could not be enqueued; the message runs again in %.1f s: %s",
            message.delivery,
            delay / 1000,
            text_of(error) if error is not None else "",
            extra=self._repeated(error, message),
        )
        self._again(message, delay, spent=False)

    def reject(self, message: JetStreamMessage) -> None:
        """Dead-letter a message."""
        error = exception_of(message)
        self._dead_letter(message, reason_of(message, error), error)

    def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """Return messages that did not run, without spending an attempt; never raises."""
        unreachable: BrokerConnectionError | None = None
        for delivery in deliveries:
            try:
                if unreachable is not None:
                    # One timeout is enough for all.
                    raise unreachable
                self._return(delivery)
            except Exception as error:
                # If this were raised, the shutdown would end before running messages do.
                self.logger.warning(
                    "Message %s is back in its queue only after ack_wait: %s",
                    delivery,
                    described(error),
                    extra=repeated(self._route.queue_name),
                )
                unreachable = error if isinstance(error, BrokerConnectionError) else None
                delivery.drop()

    def _return(self, delivery: Delivery) -> None:
        try:
            message = JetStreamMessage(self._payload.decode(delivery), delivery)
            self._recover(message)
            self._redelivery.again(message, 0, spent=False)
        except BrokerConnectionError:
            raise
        except Exception as error:
            self.logger.debug(
                "Message %s is returned without an updated attempt record: %s", delivery, described(error)
            )
            self._redelivery.redeliver_unread(delivery, 0)

    def _give_back_later(
        self, delivery: Delivery, error: Exception, message: JetStreamMessage | None = None, *, spent: bool = True
    ) -> None:
        """Return a message that could neither be handled nor made a dead letter, with a growing delay."""
        _, pause = compute_backoff(
            min(delivery.origin.deliveries - 1, 10), factor=MIN_GIVE_BACK, max_backoff=MAX_GIVE_BACK, jitter=False
        )
        self.logger.critical(
            "Message %s of queue %r stays in the queue and is delivered again in %.0f s: %s",
            delivery,
            self._route.queue_name,
            pause / 1000,
            text_of(error),
            extra=self._repeated(error, message),
        )
        try:
            if message is not None:
                self._redelivery.again(message, pause, spent=spent)
            else:
                delivery.settle(nak(pause))
        except Exception as failure:
            # Its lease ends, and the server delivers it again.
            self.logger.debug(
                "Message %s could not be given back; it is delivered again after ack_wait: %s",
                delivery,
                described(failure),
            )
            delivery.drop()

    def _again(self, message: JetStreamMessage, delay: float, *, spent: bool) -> None:
        try:
            self._redelivery.again(message, delay, spent=spent)
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            self.logger.error(
                "Message %s of queue %r cannot be retried; it becomes a dead letter: %s",
                message.delivery,
                self._route.queue_name,
                error,
                extra=self._repeated(error, message),
            )
            self._dead_letter(message, Reason.HANDOFF_FAILED, exception_of(message) or error)

    def _may_begin(self, message: JetStreamMessage) -> bool:
        """Whether a message that was delivered before has an attempt left.

        The start of the last attempt is recorded; if its worker is killed, only this record shows it.  A message
        beyond its limit without a record was therefore returned unprocessed at least once, and the record of that
        is lost.
        """
        limit = self._actor_options.max_retries(message)
        if limit is None or message.received_retries < limit:
            return True
        known = message.delivery.record is not None or not message.redelivered
        if not known and is_deliverable(message.delivery):
            self._redelivery.note_start(message)
        return message.received_retries == limit or not known

    def _recover(self, message: JetStreamMessage) -> None:
        message.recover()
        if message.delivery.crashed:
            self.logger.warning(
                "Message %s of queue %r was delivered before, and its worker did not say how that ended: it was killed "
                "or cut off, perhaps by another message that it held. That counts as an attempt.",
                message.delivery,
                self._route.queue_name,
                extra=self._repeated(None, message),
            )

    def _repeated(self, error: BaseException | None, message: JetStreamMessage | None = None) -> dict[str, Any]:
        """The cause of a line: the queue, the actor and the type of the exception."""
        return repeated(self._route.queue_name, message.actor_name if message is not None else None, type(error))

    def _wait_for_actor(self, message: JetStreamMessage) -> None:
        delivery, bound, now = message.delivery, self._route.settings.bound, current_millis()
        since = message.bookkeeping.unknown_since or now
        waited = max(now - since, 0)
        message.bookkeeping = replace(message.bookkeeping, unknown_since=now - waited)
        if (
            self._route.settings.keeps_dead_letters
            or waited >= self._unknown_actor_grace
            or (bound and not is_deliverable(delivery))
        ):
            self.logger.error(
                "Message %s of queue %r: no worker knows its actor %r; it becomes a dead letter.",
                delivery,
                self._route.queue_name,
                message.actor_name,
                extra=repeated(self._route.queue_name, message.actor_name),
            )
            self._dead_letter(message, Reason.UNKNOWN_ACTOR, ActorNotFound(message.actor_name), ran=False)
            return

        delay = min(max(waited, MIN_BACKOFF), MAX_BACKOFF)
        self.logger.warning(
            "This worker does not know the actor %r of message %s of queue %r; it is delivered again in %.1f s.",
            message.actor_name,
            delivery,
            self._route.queue_name,
            delay / 1000,
            extra=repeated(self._route.queue_name, message.actor_name),
        )
        if bound:
            self._redelivery.redeliver(message, delay, spent=False)
        else:
            self._redelivery.copy(message, delay)

    def _dead_letter(
        self, message: JetStreamMessage, reason: Reason, error: BaseException | None, *, ran: bool = True
    ) -> None:
        self._fail(Failure(message.delivery, message, reason, error, ran=ran))

    def _fail(self, failure: Failure) -> None:
        # A message that was acknowledged before it ended is no longer in its stream.
        if self._route.settings.keeps_dead_letters and not failure.delivery.settled:
            self._kept.keep(failure._replace(kept=True))
            return
        try:
            self._dead_letter_store.store_and_wait(self._route, failure)
        except Exception as error:
            if isinstance(error, BrokerConnectionError) and not self._is_connected():
                # dramatiq tries again.
                raise
            self._postpone(failure, error)
        else:
            failure.delivery.settle(ACK)

    def _postpone(self, failure: Failure, error: Exception) -> None:
        """Leave a message in its queue whose dead letter cannot be stored; it does not run again for that."""
        message = failure.message
        if message is not None:
            message.bookkeeping = replace(message.bookkeeping, ended=failure.reason.value)
        self._give_back_later(failure.delivery, error, message, spent=failure.ran)

    def _is_connected(self) -> bool:
        session = self._connection.current()
        return session is not None and session.is_open and session.client.is_connected
