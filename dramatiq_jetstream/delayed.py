"""Messages that the server's scheduler still holds back: look at them, or cancel them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import DecodeError

from . import stored
from .connection import Connection
from .errors import ApiError
from .session import Session
from .stored import Stored
from .topology import STREAM_NOT_FOUND, Route
from .wire import SCHEDULE, Origin, PayloadFormat


class DelayedMessage(NamedTuple):
    """A message that is held back.

    Parameters:
      message(Message): The message, or None if it cannot be decoded.
      due(int): When it is due, in UNIX milliseconds.
    """

    message: Message[Any] | None
    due: int


async def cancel(session: Session, route: Route, message_id: str) -> bool:
    """Remove what is held back of a message, and tell whether there was anything; on the loop."""
    request = {"filter": route.names.delayed_subject(route.queue_name, message_id)}
    try:
        answer = await session.call_api(f"STREAM.PURGE.{route.stream}", request)
    except ApiError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return False
        raise
    return bool(answer["purged"])


def waiting(connection: Connection, route: Route, payload: PayloadFormat) -> Iterator[DelayedMessage]:
    """Go through the messages that are held back, in the order they were sent, a page at a time."""
    subject = route.names.delayed_subject(route.queue_name)
    for found in stored.walk(connection, route.stream, subject):
        yield DelayedMessage(_decode(route, payload, found), _due(found))


def _decode(route: Route, payload: PayloadFormat, found: Stored) -> Message[Any] | None:
    origin = Origin(route.stream, route.consumer, 1, found.sequence, found.timestamp)
    try:
        return payload.decode(found.body, found.headers, origin)
    except DecodeError:
        return None


def _due(found: Stored) -> int:
    moment = datetime.fromisoformat(found.headers[SCHEDULE].removeprefix("@at ").replace("Z", "+00:00"))
    return round(moment.timestamp() * 1000)
