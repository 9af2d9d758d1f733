"""Gives a message that this process holds another time to run: the one place that chooses how it waits.

A held message is returned with a delayed negative acknowledgement.  It stays one message with one
sequence, so it can be neither lost nor duplicated.  If the server would not deliver it again, it
continues as a scheduled copy.  The copy is stored before the original is removed, under a message id
by which the server detects a repeated publish.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from dramatiq import Message
from dramatiq.common import current_millis

from ..client import Connection
from ..deliveries import ACK, AttemptRecord, AttemptRecords, Bookkeeping, Delivery, JetStreamMessage, cut_text, nak
from ..errors import DelayNotSupported, StreamNotFound, described
from ..logs import get_logger, repeated
from ..sending import due_at, publication
from ..streams import Route
from ..wire import STATE, PayloadFormat, Publication

#: The longest a consumer holds a message back itself, in milliseconds.
MAX_HOLD = 1_000

#: The longest text that an attempt may leave in the options of a copy, in characters, where the whole is too large.
MAX_OPTION_TEXT = 4_000


class Redelivery:
    """Gives messages of one queue, held by this process, another time to run.

    Parameters:
      connection(Connection): The way to the server.
      route(Route): The queue.
      payload(PayloadFormat): How its messages are written.
      attempts(AttemptRecords): Where what must survive a redelivery is remembered.
    """

    def __init__(self, connection: Connection, route: Route, payload: PayloadFormat, attempts: AttemptRecords) -> None:
        self.logger = get_logger(__name__, type(self))
        self._connection = connection
        self._route = route
        self._payload = payload
        self._attempts = attempts

    def again(self, message: JetStreamMessage, delay: float, *, spent: bool) -> None:
        """Have a message run again after so many milliseconds.

        Parameters:
          message(JetStreamMessage): The message, with the options for its next attempt.
          delay(float): The milliseconds to wait.
          spent(bool): Whether this delivery counts as an attempt.

        Raises:
          BrokerConnectionError: If the server cannot be reached.
        """
        delivery = message.delivery
        if delivery.settled:
            # It was acknowledged before it ended: only a copy can run again.
            self.copy(message, delay)
        elif is_deliverable(delivery) or self._route.settings.bound:
            self.redeliver(message, delay, spent=spent)
        else:
            self.copy(message, delay)

    def redeliver(self, message: JetStreamMessage, delay: float, *, spent: bool) -> None:
        """Let the server deliver the same message again."""
        delivery = message.delivery
        self._remember(message, delivery.returned + (not spent), delay)
        self._give_back(delivery, delay)

    def redeliver_unread(self, delivery: Delivery, delay: float) -> None:
        """Let the server deliver a message again that was not decoded, its attempt not spent."""
        record = AttemptRecord(delivery.origin.deliveries, delivery.returned + 1, {})
        self._attempts.remember(self._connection.session(), delivery, record, delay)
        self._give_back(delivery, delay)

    def note_start(self, message: JetStreamMessage) -> None:
        """Record that an attempt begins; if its worker is killed, only this record shows it."""
        self._remember(message, message.delivery.returned, 0)

    def copy(self, message: JetStreamMessage, delay: float) -> None:
        """Store a copy that carries the options on, then remove the original.

        Raises:
          MessageTooLarge: If it has outgrown the queue.
        """
        delivery = message.delivery
        due = due_at(delay) if delay > 0 else None
        bookkeeping = replace(message.bookkeeping, origin=message.identity, not_before=0)
        if due is not None and not self._route.settings.allows_delays:
            bookkeeping, due = replace(bookkeeping, not_before=due), None
        try:
            outgoing = self._copied(message, message.copy(), bookkeeping, due)
        except DelayNotSupported:
            raise
        except Exception as error:
            # What attempts left there may be long, as a traceback is, or such that it cannot be written.
            self.logger.warning(
                "Message %s of queue %r is copied with shortened options, because the copy could not be written: %s",
                delivery,
                self._route.queue_name,
                described(error),
                extra=repeated(self._route.queue_name, message.actor_name, type(error)),
            )
            outgoing = self._copied(message, self._shortened(message), bookkeeping, due)
        # If this is repeated after a crash, nothing is stored twice.
        self._store(outgoing.named(delivery.copy_id))
        delivery.settle(ACK)

    def _store(self, copy: Publication) -> None:
        try:
            self._connection.publish(copy)
        except StreamNotFound:
            # A server that has just started, or a stream without a leader, does not answer yet.
            self._connection.call(lambda session: session.persist(lambda: session.store(copy), lambda _: None))

    def hold_back(self, message: JetStreamMessage) -> bool:
        """Have a message that was delivered too early, in a stream without a scheduler, delivered again."""
        wait = message.bookkeeping.not_before - current_millis()
        if wait <= 0:
            return False
        if is_deliverable(message.delivery):
            self.redeliver(message, wait, spent=False)
            return True
        # No other way is left; the delay limits the rate.
        held = min(wait, MAX_HOLD)
        time.sleep(held / 1000)
        if wait > held:
            self.copy(message, wait - held)
        return wait > held

    def _remember(self, message: JetStreamMessage, returned: int, delay: float) -> None:
        delivery = message.delivery
        record = AttemptRecord(
            delivery.origin.deliveries,
            returned,
            message.changed_options,
            message.removed_options,
            message.bookkeeping,
        )
        self._attempts.remember(self._connection.session(), delivery, record, delay)

    def _copied(
        self, message: JetStreamMessage, copied: Message[Any], bookkeeping: Bookkeeping, due: int | None
    ) -> Publication:
        outgoing = publication(self._route, self._payload, copied, due)
        outgoing = outgoing._replace(headers=outgoing.headers | {STATE: bookkeeping.header})
        outgoing.check_size(self._connection.session().max_payload, "the server (max_payload)")
        return outgoing

    def _shortened(self, message: JetStreamMessage) -> Message[Any]:
        changed = message.changed_options
        short = {name: cut_text(value, MAX_OPTION_TEXT) for name, value in changed.items() if isinstance(value, str)}
        kept = {name: value for name, value in message.options.items() if name not in changed}
        copied: Message[Any] = message.copy()
        return replace(copied, options=kept | short)

    def _give_back(self, delivery: Delivery, delay: float) -> None:
        # After the last delivery there is nothing to wait for, and only now does the server announce it.
        delivery.settle(nak(delay if is_deliverable(delivery) else 0))


def is_deliverable(delivery: Delivery) -> bool:
    """Whether the server would deliver a message once more."""
    limit = delivery.lease_keeper.limits.max_deliver
    return limit is None or delivery.origin.deliveries < limit
