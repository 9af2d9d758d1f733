"""Messages that the server's scheduler still holds back: look at them, or cancel them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import DecodeError

from ..client import WRONG_LAST_SEQUENCE, Connection, Session
from ..errors import ApiError, StreamNotFound
from ..streams import Route, StoredMessage, reading
from ..wire import EXPECTED_SUBJECT_SEQUENCE, MSG_ID, SCHEDULE, PayloadFormat, Publication


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
    subject = route.names.delayed_subject(route.queue_name, message_id)
    return bool(await reading.purge(session, route.stream, subject))


async def run_now(session: Session, route: Route, message_id: str) -> int:
    """Have what is held back of a message delivered at once, and tell how many that were; on the loop.

    The schedule is replaced by one that is due, and only if it still stands: a message that fires
    meanwhile runs once all the same.
    """
    subject = route.names.delayed_subject(route.queue_name, message_id)
    try:
        held = await reading.read(session, route.stream, subject, 1, reading.PAGE)
    except StreamNotFound:
        return 0
    return sum([await _hasten(session, found) for found in held])


async def _hasten(session: Session, found: StoredMessage) -> bool:
    headers = found.own_headers | {
        SCHEDULE: f"@at {datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S}Z",
        EXPECTED_SUBJECT_SEQUENCE: str(found.sequence),
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
    for found in reading.walk(connection, route.stream, subject):
        yield DelayedMessage(_decode(payload, found), due_of(found), found.sequence)


def _decode(payload: PayloadFormat, found: StoredMessage) -> Message[Any] | None:
    try:
        return payload.decode(found)
    except DecodeError:
        return None


def due_of(found: StoredMessage) -> int:
    moment = datetime.fromisoformat(found.headers[SCHEDULE].removeprefix("@at ").replace("Z", "+00:00"))
    return round(moment.timestamp() * 1000)
