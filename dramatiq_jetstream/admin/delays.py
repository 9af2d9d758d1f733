"""Messages that the server holds back, across queues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..broker import JetStreamBroker
from ..sending import DelayedMessage, scheduled


@dataclass(frozen=True)
class DelayedView:
    """A message that is held back.

    Parameters:
      queue(str): The queue.
      sequence(int): Its sequence in the queue's stream.
      actor(str): The actor it is for, if it can be decoded.
      message_id(str): dramatiq's id of it, if it can be decoded.
      args(tuple): Its positional arguments.
      kwargs(dict): Its keyword arguments.
      due(int): When it is due, in UNIX milliseconds; None if that cannot be told.
      schedule(str): The server's schedule of it; None if it has none and is never delivered.
      subject(str): Its subject.
    """

    queue: str
    sequence: int
    actor: str | None
    message_id: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    due: int | None
    schedule: str | None
    subject: str


def list_delayed(broker: JetStreamBroker, queue_names: Sequence[str] | None = None) -> Iterator[DelayedView]:
    """Go through the messages that are held back, queue by queue, in the order they were sent.

    Parameters:
      broker(JetStreamBroker): The broker.
      queue_names(Sequence[str]): Only those of these queues.

    Raises:
      QueueNotFound: If a given queue was never declared.
    """
    for queue_name in _delaying(broker, queue_names):
        for waiting in broker.delayed(queue_name):
            yield _view(queue_name, waiting)


def cancel_delayed(broker: JetStreamBroker, message: str, queue_name: str | None = None) -> bool:
    """Cancel what is held back, whoever sent it, and tell whether there was anything.

    Parameters:
      broker(JetStreamBroker): The broker.
      message(str): dramatiq's id of the message; or its subject; or, with a queue, its sequence in the queue's stream.
      queue_name(str): Only in this queue.  Defaults to all that are declared.

    Raises:
      QueueNotFound: If the given queue was never declared.
    """
    routes = [broker.queue(name).route for name in _delaying(broker, None if queue_name is None else [queue_name])]
    call = broker.connection.call
    held = sum([call(partial(scheduled.cancel, route=route, message_id=message)) for route in routes])
    if not held:
        held = sum([call(partial(scheduled.cancel_subject, route=route, subject=message)) for route in routes])
    if not held and queue_name is not None and message.isascii() and message.isdecimal():
        # No sequence has more than twenty digits.
        sequence = int(message[:21])
        held = sum([call(partial(scheduled.cancel_sequence, route=route, sequence=sequence)) for route in routes])
    return held > 0


def run_delayed(broker: JetStreamBroker, message_id: str, queue_name: str | None = None) -> bool:
    """Have a message that is held back in a queue, or in any declared one, delivered now; tell whether there was one.

    Raises:
      QueueNotFound: If the given queue was never declared.
    """
    routes = [broker.queue(name).route for name in _delaying(broker, None if queue_name is None else [queue_name])]
    held = [broker.connection.call(partial(scheduled.run_now, route=route, message_id=message_id)) for route in routes]
    return sum(held) > 0


def _delaying(broker: JetStreamBroker, queue_names: Sequence[str] | None) -> list[str]:
    names = sorted(broker.get_declared_queues()) if queue_names is None else queue_names
    return [name for name in names if not broker.queue(name).route.settings.bound]


def _view(queue_name: str, waiting: DelayedMessage) -> DelayedView:
    message = waiting.message
    return DelayedView(
        queue=queue_name,
        sequence=waiting.sequence,
        actor=message.actor_name if message else None,
        message_id=message.message_id if message else None,
        args=tuple(message.args) if message else (),
        kwargs=dict(message.kwargs) if message else {},
        due=waiting.due,
        schedule=waiting.schedule,
        subject=waiting.subject,
    )
