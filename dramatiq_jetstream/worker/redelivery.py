"""Gives a message that this process holds another time to run: the one place that chooses how it waits.

A message that is held waits under its negative acknowledgement: it stays one message with one
sequence, so there is no moment at which it could be lost or doubled.  Where the server would not
deliver it once more, it continues as a scheduled copy, stored before the original goes, under a
message id that makes repeating harmless.
"""

from __future__ import annotations

import time
from typing import Any

from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from ..client import Connection
from ..deliveries import ACK, ORIGIN, AttemptRecords, Delivery, JetStreamMessage, nak
from ..sending import due_at, publication
from ..streams import Route
from ..wire import PayloadFormat

#: The option that says when, in UNIX milliseconds, a copy may run whose stream has no scheduler.
NOT_BEFORE = "not_before"

#: The longest a consumer holds a message back itself, in milliseconds.
MAX_HOLD = 1_000


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

    def again(self, message: JetStreamMessage, delay: int, *, spent: bool) -> None:
        """Have a message run again after so many milliseconds.

        Parameters:
          message(JetStreamMessage): The message, with the options its next attempt shall see.
          delay(int): The milliseconds to wait.
          spent(bool): Whether this delivery counts as an attempt.

        Raises:
          BrokerConnectionError: If the server cannot be told now.
        """
        delivery = message.delivery
        if self._deliverable(delivery) or self._route.settings.bound:
            self.redeliver(delivery, delay, message.changed_options(), spent=spent)
        else:
            self.copy(message, delay)

    def redeliver(self, delivery: Delivery, delay: int, options: dict[str, Any], *, spent: bool) -> None:
        """Let the server deliver the same message again."""
        returned = delivery.returned + (not spent)
        self._attempts.remember(self._connection.session(), delivery, options, delay, returned)
        # After the last delivery there is nothing to wait for, and only now does the server announce it.
        delivery.settle(nak(delay if self._deliverable(delivery) else 0))

    def copy(self, message: JetStreamMessage, delay: int) -> None:
        """Store a copy that carries the options on, then remove the original.

        Raises:
          MessageTooLarge: If its options have outgrown the queue.
        """
        delivery = message.delivery
        due = due_at(delay) if delay > 0 else None
        copied = message.copy(options={ORIGIN: message.identity})
        if due is not None and not self._route.settings.allows_delays:
            copied, due = copied.copy(options={NOT_BEFORE: due}), None
        outgoing = publication(self._route, self._payload, copied, due)
        # Whoever repeats this after a crash stores nothing new.
        self._connection.publish(outgoing.named(delivery.copy_id))
        delivery.settle(ACK)

    def hold_back(self, message: JetStreamMessage) -> bool:
        """Have a message that comes too early, from a stream without a scheduler, delivered once more."""
        wait: int = message.options.pop(NOT_BEFORE, 0) - current_millis()
        if wait <= 0:
            return False
        if self._deliverable(message.delivery):
            self.redeliver(message.delivery, wait, message.changed_options(), spent=False)
            return True
        # The only way left; at least no faster than this.
        held = min(wait, MAX_HOLD)
        time.sleep(held / 1000)
        if wait > held:
            self.copy(message, wait - held)
        return wait > held

    def _deliverable(self, delivery: Delivery) -> bool:
        limit = delivery.lease_keeper.limits.max_deliver
        return limit is None or delivery.origin.deliveries < limit
