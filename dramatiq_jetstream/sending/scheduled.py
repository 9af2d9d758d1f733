"""Messages that the server's scheduler still holds back: look at them, or cancel them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import DecodeError

from ..client import WRONG_LAST_SEQUENCE, Connection, Session
from ..errors import ApiError, StreamNotFound
from ..names import covers
from ..streams import Route, StoredMessage, reading
from ..wire import EXPECTED_SUBJECT_SEQUENCE, MSG_ID, SCHEDULE, PayloadFormat, Publication

#: When a schedule of this package fires: a time with its zone, in RFC 3339 format.
_MOMENT = re.compile(r"@at (\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class DelayedMessage(NamedTuple):
    """A message that is held back.

    Parameters:
      message(Message): The message, or None if it cannot be decoded.
      due(int): When it is due, in UNIX milliseconds; None if that cannot be told, as of a schedule that repeats.
      sequence(int): Its sequence in the queue's stream.
      schedule(str): The server's schedule of it; None if it has none and is never delivered.
      subject(str): Its subject.
    """

    message: Message[Any] | None
    due: int | None
    sequence: int = 0
    schedule: str | None = None
    subject: str = ""


async def cancel(session: Session, route: Route, message_id: str) -> bool:
    """Remove the delayed copies of a message; return whether there were any.  On the loop."""
    subject = route.names.delayed_subject(route.queue_name, message_id)
    return bool(await reading.purge(session, route.stream, subject))


async def cancel_subject(session: Session, route: Route, subject: str) -> bool:
    """Remove the delayed messages of a subject, from any sender; return whether there were any.  On the loop."""
    if not covers(route.names.delayed_subject(route.queue_name), subject) or {"*", ">"} & set(subject.split(".")):
        return False
    return bool(await reading.purge(session, route.stream, subject))


async def cancel_sequence(session: Session, route: Route, sequence: int) -> bool:
    """Remove the delayed message at a sequence of the queue's stream, from any sender; on the loop."""
    try:
        found = await reading.get(session, route.stream, sequence)
    except StreamNotFound:
        return False
    # A repeating schedule may be stored again at any time, under the same subject.
    return found is not None and await cancel_subject(session, route, found.subject)


async def run_now(session: Session, route: Route, message_id: str) -> int:
    """Have the delayed copies of a message delivered at once; return their number.  On the loop.

    The schedule is replaced by one that is due, and only if it still stands: a message that fires
    meanwhile runs once all the same.  A schedule that repeats is left alone.
    """
    subject = route.names.delayed_subject(route.queue_name, message_id)
    try:
        held = await reading.read(session, route.stream, subject, 1, reading.PAGE)
    except StreamNotFound:
        return 0
    return sum([await _hasten(session, found) for found in held if due_of(found) is not None])


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
        message, schedule = _decode(payload, found), found.headers.get(SCHEDULE)
        yield DelayedMessage(message, due_of(found), found.sequence, schedule, found.subject)


def _decode(payload: PayloadFormat, found: StoredMessage) -> Message[Any] | None:
    try:
        return payload.decode(found)
    except DecodeError:
        return None


def due_of(found: StoredMessage) -> int | None:
    """When a message is due, in UNIX milliseconds; None if its schedule is missing or contains no time."""
    read = _MOMENT.fullmatch(found.headers.get(SCHEDULE, ""))
    if read is None:
        return None
    *numbers, fraction, sign, hours, minutes = read.groups()
    year, month, day, hour, minute, second = map(int, numbers)
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        return None
    zone = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    # Subtracted as lengths of time: moments end with the year 9999.
    since = moment - _EPOCH - (-zone if sign == "-" else zone)
    microseconds = int((fraction or "0").ljust(6, "0")[:6])
    return round((since + timedelta(microseconds=microseconds)) / timedelta(milliseconds=1))
