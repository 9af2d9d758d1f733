"""A message as it is published: judged, addressed, encoded, scheduled if it is to wait, and handed to its queue."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Protocol

from dramatiq import Broker, Message

from ..client import Connection
from ..errors import DelayNotSupported
from ..options import check_message
from ..streams import Route
from ..wire import MSG_ID, SCHEDULE, SCHEDULE_TARGET, AnyMessage, PayloadFormat, Publication
from .batch import Batch
from .queue import Queue


class Parent(Protocol):
    """The message whose hooks enqueue another one."""

    @property
    def succeeded(self) -> bool:
        """Whether its actor returned."""

    def name_successor(self, message_id: str) -> str:
        """A Nats-Msg-Id for a message that it leads to, the same whenever the hooks run again."""


class Sender:
    """Takes a message through dramatiq's hooks to its queue, or to the batch that the caller fills.

    Parameters:
      broker(Broker): Whose hooks are called.
      connection(Connection): The way to the server.
      queue(Callable): Gives a queue by name.
    """

    def __init__(self, broker: Broker, connection: Connection, queue: Callable[[str], Queue]) -> None:
        self._broker = broker
        self._connection = connection
        self._queue = queue

    def send(self, message: Message[Any], delay: int | None, parent: Parent | None) -> Message[Any]:
        """Send a message.

        Parameters:
          message(Message): The message.
          delay(int): The milliseconds to delay it by, or None.
          parent(Parent): The message whose hooks enqueue it, if any do.

        Returns:
          Message: The message as it is sent.
        """
        plain = check_message(message.actor_name, message.options, delay)
        if plain:
            message = message.copy(options=plain)
        queue = self._queue(message.queue_name)
        due = None
        if delay is not None and delay > 0:
            check_delay(queue.route)
            due = due_at(delay)
            message = message.copy(options={"eta": due})

        self._broker.logger.debug("Enqueueing message %r on queue %r.", message.message_id, queue.name)
        self._broker.emit_before("enqueue", message, delay)
        outgoing = publication(queue.route, queue.payload, message, due)
        if parent is not None and parent.succeeded:
            # If the parent's acknowledgement is lost, it runs again; under this name, the copy is not stored twice.
            outgoing = outgoing.named(parent.name_successor(message.message_id))
        batch = Batch.of(self._connection)
        if batch is not None:
            batch.add(message, delay, queue, outgoing)
        else:
            queue.store(outgoing)
            self.stored(message, delay)
        return message

    def stored(self, message: Message[Any], delay: int | None) -> None:
        """Call the hooks of a message that its stream has stored."""
        self._broker.emit_after("enqueue", message, delay)


def due_at(delay: float) -> int:
    """The UNIX time in milliseconds at which a delay that starts now has passed, never earlier."""
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
