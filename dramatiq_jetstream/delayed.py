"""Messages that the server's scheduler still holds back: look at them, or cancel them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import DecodeError

from . import stored
from .connection import Connection
from .errors import ApiError
from .key_value import EXPECTED, WRONG_LAST_SEQUENCE
from .session import Session
from .stored import Stored
from .topology import STREAM_NOT_FOUND, Route
from .wire import MSG_ID, SCHEDULE, Origin, PayloadFormat, Publication, Received


class DelayedMessage(NamedTuple):
    """A message that is held back.

    Parameters:
      message(Message): The message, or None if it cannot be decoded.
      due(int): When it is due, in UNIX milliseconds.
      sequence(int): Its sequence in the queue's stream.
    """

    message: Message[Any] | None
    due: int
    sequence: int = 0


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


async def run_now(session: Session, route: Route, message_id: str) -> int:
    """Have what is held back of a message delivered at once, and tell how many that were; on the loop.

    The schedule is replaced by one that is due, and only if it still stands: a message that fires
    meanwhile runs once all the same.
    """
    subject = route.names.delayed_subject(route.queue_name, message_id)
    held = await stored.read(session, route.stream, subject, 1, stored.PAGE)
    return sum([await _hasten(session, found) for found in held])


async def _hasten(session: Session, found: Stored) -> bool:
    headers = {name: value for name, value in found.headers.items() if name not in stored.OWN_HEADERS}
    headers |= {
        SCHEDULE: f"@at {datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S}Z",
        EXPECTED: str(found.sequence),
        MSG_ID: f"{found.headers.get(MSG_ID, found.sequence)}.now",
    }
    try:
        await session.store(Publication(found.subject, found.body, headers))
    except ApiError as error:
        if error.err_code not in WRONG_LAST_SEQUENCE:
            raise
        return False
    return True


def waiting(connection: Connection, route: Route, payload: PayloadFormat) -> Iterator[DelayedMessage]:
    """Go through the messages that are held back, in the order they were sent, a page at a time."""
    subject = route.names.delayed_subject(route.queue_name)
    for found in stored.walk(connection, route.stream, subject):
        yield DelayedMessage(_decode(route, payload, found), due_of(found), found.sequence)


def _decode(route: Route, payload: PayloadFormat, found: Stored) -> Message[Any] | None:
    origin = Origin(route.stream, route.consumer, 1, found.sequence, found.timestamp)
    try:
        return payload.decode(Received(found.body, found.headers, origin))
    except DecodeError:
        return None


def due_of(found: Stored) -> int:
    moment = datetime.fromisoformat(found.headers[SCHEDULE].removeprefix("@at ").replace("Z", "+00:00"))
    return round(moment.timestamp() * 1000)
