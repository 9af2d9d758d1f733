"""The one place that chooses how a wait is realised.

A new message waits in the server's scheduler.  A message that this process holds waits under its
negative acknowledgement: it stays one message with one sequence, so there is no moment at which
it could be lost or doubled.  Where the server would not deliver it once more, it continues as a
scheduled copy, stored before the original goes, under a message id that makes repeating harmless.
"""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from typing import Any

from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from .attempts import Attempts
from .connection import Connection
from .delivery import ACK, ORIGIN, Delivery, JetStreamMessage, nak
from .errors import DelayNotSupported
from .topology import Route
from .wire import MSG_ID, SCHEDULE, SCHEDULE_TARGET, AnyMessage, PayloadFormat, Publication

#: The option that says when, in UNIX milliseconds, a copy may run whose stream has no scheduler.
NOT_BEFORE = "not_before"

#: The longest a consumer holds a message back itself, in milliseconds.
MAX_HOLD = 1_000


def due_at(delay: float) -> int:
    """The UNIX time in milliseconds at which a delay that begins now has passed, never earlier."""
    return math.ceil(time.time() * 1000) + math.ceil(delay)


def publication(route: Route, payload: PayloadFormat, message: AnyMessage, due: int | None = None) -> Publication:
    """A message as it is published, for now or for later.

    Raises:
      DelayNotSupported: If the queue's stream holds no messages back.
      UnsupportedMessage, MessageTooLarge: If the queue's settings do not allow the message.
    """
    body, headers = payload.encode(message)
    subject = route.subject(message.actor_name)
    if due is not None:
        check_delay(route)
        headers[SCHEDULE] = f"@at {_rfc3339(due)}"
        headers[SCHEDULE_TARGET] = subject
        subject = route.names.delayed_subject(route.queue_name, message.message_id, headers[MSG_ID])
    result = Publication(subject, body, headers)
    if route.settings.max_msg_size is not None:
        result.check_size(route.settings.max_msg_size, f"the stream {route.stream!r} (max_msg_size)")
    return result


class Waits:
    """Gives messages of one queue, held by this process, another time to run.

    Parameters:
      connection(Connection): The way to the server.
      route(Route): The queue.
      payload(PayloadFormat): How its messages are written.
      attempts(Attempts): Where what must survive a redelivery is remembered.
    """

    def __init__(self, connection: Connection, route: Route, payload: PayloadFormat, attempts: Attempts) -> None:
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
        limit = delivery.holder.limits.max_deliver
        return limit is None or delivery.origin.deliveries < limit


def check_delay(route: Route) -> None:
    """Raise DelayNotSupported if a queue's stream holds no messages back."""
    if route.settings.bound:
        raise DelayNotSupported(
            f"queue {route.queue_name!r} is bound to the stream {route.stream!r}, which is not ours, so nothing can be "
            "delayed in it: send without delay, or use a queue without WorkQueue(stream=…)"
        )
    if not route.settings.allows_delays:
        raise DelayNotSupported(
            f"queue {route.queue_name!r} refuses messages when full (discard='new'), and the server cannot delay in "
            "such a stream (allow_msg_schedules): send without delay, or leave discard out of its WorkQueue"
        )


def _rfc3339(milliseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(milliseconds // 1000, timezone.utc)
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"a delay until {milliseconds} ms after 1970 is too long to be a date") from error
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
