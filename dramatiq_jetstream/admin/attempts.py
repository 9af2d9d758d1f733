"""What is known of a message's attempts while it waits for the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dramatiq import Message

from ..broker import JetStreamBroker
from ..client import Session
from ..deliveries import ActorOptions
from ..options import is_number, retry_limit
from ..streams import counts, reading
from .messages import StoredView

#: Milliseconds after an attempt's end below which a next try needs no waiting.
AT_ONCE = 1_000


@dataclass(frozen=True)
class AttemptsView:
    """The attempts of a message that has failed and has not ended.

    Parameters:
      made(int): How many attempts have failed.
      allowed(int): How many there may be; None if that is not limited, or cannot be told.
      exact(bool): Whether that is the message's or its actor's own limit, and not the one of its queue.
      exception(str): What the last one failed with, if that is known.
      next_try(int): When the next one is due, in UNIX milliseconds; None if that is not known.
    """

    made: int
    allowed: int | None
    exact: bool
    exception: str | None
    next_try: int | None


def attempts(broker: JetStreamBroker, view: StoredView) -> AttemptsView | None:
    """Look at the attempts of a stored message; None if none has failed, or nothing is known of them.

    Parameters:
      broker(JetStreamBroker): The broker.  One of the application knows the limits of its actors.
      view(StoredView): The message.

    Raises:
      BrokerConnectionError: If the server cannot be reached.
    """
    options = view.options
    made = options.get("retries", 0)
    made = made if isinstance(made, int) and 0 <= made < 2**31 else 0
    next_try = view.due
    if view.state not in ("ready", "delayed"):
        recorded = broker.connection.call(partial(_recorded, broker=broker, view=view))
        if recorded is not None:
            spent, changed, next_try = recorded
            made, options = made + spent, options | changed
    if not made:
        return None
    if view.state == "exhausted":
        next_try = None
    found = AttemptsView(made, None, False, last_exception(options.get("traceback")), next_try)
    return _limited(broker, replace(view, options=options), found)


def last_exception(traceback: object) -> str | None:
    """The exception at the end of a traceback as Python prints it: its class and text."""
    if not isinstance(traceback, str) or not traceback.strip():
        return None
    lines = traceback.rstrip().split("\n")
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    after = lines[frames[-1] + 1 :] if frames else lines[-1:]
    while after and after[0].startswith("    "):
        del after[0]
    return "\n".join(after).strip() or lines[-1].strip()


async def _recorded(
    session: Session, broker: JetStreamBroker, view: StoredView
) -> tuple[int, dict[str, Any], int | None] | None:
    """By a message's record, how many attempts have failed, the options they changed, and when the next is due."""
    message = await reading.get(session, view.stream, view.sequence)
    found = None if message is None else await broker.attempts.find(session, message)
    if found is None:
        return None
    record, stored_at, due = found
    return max(record.attempt - record.returned, 0), record.options, due if due > stored_at + AT_ONCE else None


def _limited(broker: JetStreamBroker, view: StoredView, found: AttemptsView) -> AttemptsView:
    """What is known, with the limit: the message's own, its actor's, or that of its queue's consumer."""
    route = broker.queue(view.queue).route
    consumer = broker.connection.call(lambda session: counts.inspect(session, route)).consumer
    limit = consumer.get("config", {}).get("max_deliver", -1)
    own = _own_limit(broker, view)
    if own is None:
        return replace(found, allowed=limit if limit > 0 else None)
    allowed = min(own + 1, limit) if route.settings.bound and limit > 0 else own + 1
    return replace(found, allowed=max(allowed, found.made), exact=True)


def _own_limit(broker: JetStreamBroker, view: StoredView) -> int | None:
    message: Message[Any] = Message(view.queue, view.actor or "", (), {}, view.options)
    known = ActorOptions(broker).max_retries(message)
    own = view.options.get("max_retries")
    return retry_limit(own) if known is None and is_number(own) and own is not None else known
