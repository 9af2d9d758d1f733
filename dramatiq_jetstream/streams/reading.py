"""Reading messages that are stored in a stream, without consuming them."""

from __future__ import annotations

import base64
import calendar
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ..client import (
    MESSAGE_NOT_FOUND,
    SEQUENCE_NOT_FOUND,
    STATUS,
    Connection,
    NoResponders,
    Session,
    parse_headers,
    readable,
)
from ..errors import ApiError, StreamNotFound
from ..wire import Origin

#: How many messages are read at a time, and how many of their bytes.
PAGE = 256
PAGE_BYTES = 8 * 1024 * 1024

#: The server's sequences have 64 bits; it refuses larger ones.
MAX_SEQUENCE = 2**64 - 1

_SUBJECT = "Nats-Subject"
_SEQUENCE = "Nats-Sequence"
_TIMESTAMP = "Nats-Time-Stamp"
_PENDING = "Nats-Num-Pending"

#: Headers that a direct read adds to those of the message.
OWN_HEADERS = frozenset({"Nats-Stream", "Nats-Last-Sequence", _SUBJECT, _SEQUENCE, _TIMESTAMP, _PENDING})

#: The server's status at the end of a page, and where there is nothing to read.
_END_OF_PAGE = "204"
_NO_MESSAGES = "404"
#: Nobody serves direct reads of the stream.
_NO_RESPONDERS = "503"


class StoredMessage(NamedTuple):
    """One message as a stream keeps it.

    Parameters:
      stream(str): The stream.
      sequence(int): Its sequence there.
      subject(str): Its subject.
      headers(Mapping): Its headers.
      body(bytes): Its body.
      timestamp(int): When it was stored, in UNIX nanoseconds.
    """

    stream: str
    sequence: int
    subject: str
    headers: Mapping[str, str]
    body: bytes
    timestamp: int

    @property
    def origin(self) -> Origin:
        """Its position in the stream, as in a delivery of it."""
        return Origin(self.stream, "", 1, self.sequence, self.timestamp)

    @property
    def own_headers(self) -> dict[str, str]:
        """Its headers, without those that a direct read adds."""
        return {name: value for name, value in self.headers.items() if name not in OWN_HEADERS}


class Page(NamedTuple):
    """Some messages of a stream.

    Parameters:
      messages(list): The messages; fewer than were asked for where they are large.
      pending(int): How many more there are; at least one if it is not known.
    """

    messages: list[StoredMessage]
    pending: int


def nanoseconds(moment: str) -> int:
    """The UNIX time of a timestamp in the server's format: RFC 3339 with up to nine decimals, in UTC."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


async def read(session: Session, stream: str, subject: str, start: int, count: int) -> list[StoredMessage]:
    """Read messages in order.

    Parameters:
      session(Session): The live connection.
      stream(str): The stream.
      subject(str): Which subjects; it may have wildcards.
      start(int): The first sequence to read.
      count(int): How many at most.

    Raises:
      StreamNotFound: If the stream does not exist.
      CallTimeout: If there is no answer within the timeout.
    """
    found: list[StoredMessage] = []
    while len(found) < count:
        page = await read_page(session, stream, subject, start, count - len(found))
        found += page.messages
        if not page.messages or not page.pending:
            break
        start = page.messages[-1].sequence + 1
    return found


async def read_last(session: Session, stream: str, subjects: Sequence[str]) -> list[StoredMessage]:
    """Read the last message of each subject, up to 1,024 of them, from a stream with direct access.

    Raises:
      CallTimeout: If there is no answer within the timeout.
    """
    found: list[StoredMessage] = []
    start = 1
    while subjects:
        request = {"seq": start, "multi_last": subjects, "max_bytes": PAGE_BYTES}
        page = await _collect(session, stream, request)
        found += page.messages
        if not page.messages or not page.pending:
            break
        start = page.messages[-1].sequence + 1
    return found


async def next_of(session: Session, stream: str, subject: str, start: int) -> StoredMessage | None:
    """Get the first message on a subject from a sequence on, of any stream, or None if there is none."""
    return await _get(session, stream, {"seq": start, "next_by_subj": subject})


async def read_page(session: Session, stream: str, subject: str, start: int, count: int) -> Page:
    """Read some messages as :func:`read` does, up to :data:`PAGE_BYTES` of them."""
    request = {"seq": start, "next_by_subj": subject, "batch": count, "max_bytes": PAGE_BYTES}
    try:
        return await _collect(session, stream, request)
    except NoResponders:
        # Without allow_direct such reads have no responder; reading one at a time always works.
        return await _read_singly(session, stream, subject, start, count)


async def _read_singly(session: Session, stream: str, subject: str, start: int, count: int) -> Page:
    found: list[StoredMessage] = []
    size = 0
    while len(found) < count and size < PAGE_BYTES:
        message = await next_of(session, stream, subject, start)
        if message is None:
            return Page(found, 0)
        found.append(message)
        size += len(message.body)
        start = message.sequence + 1
    return Page(found, 1)


async def _collect(session: Session, stream: str, request: Mapping[str, object]) -> Page:
    found: list[StoredMessage] = []
    what, pending = f"reading the stream {stream!r}", 0

    def collect(block: bytes, body: bytes) -> bool:
        nonlocal pending
        with readable(what):
            headers = parse_headers(block)
            if _SEQUENCE in headers:
                timestamp = nanoseconds(headers[_TIMESTAMP])
                sequence = int(headers[_SEQUENCE])
                found.append(StoredMessage(stream, sequence, headers[_SUBJECT], headers, body, timestamp))
                return False
            status = headers.get(STATUS, "")
            if status == _NO_RESPONDERS:
                raise NoResponders(f"{what}: nobody serves direct reads of it")
            if status not in (_END_OF_PAGE, _NO_MESSAGES):
                raise ApiError(what, int(status or 0), 0, headers.get("Description", ""))
            pending = int(headers.get(_PENDING, 0))
            return True

    await session.ask_for_many(f"{session.api}.DIRECT.GET.{stream}", json.dumps(request).encode(), collect)
    return Page(found, pending)


def walk(connection: Connection, stream: str, subject: str, after: int = 0) -> Iterator[StoredMessage]:
    """Go through a stream, a page at a time; from any thread but the loop's.

    Parameters:
      connection(Connection): The way to the server.
      stream(str): The stream; one that does not exist is empty.
      subject(str): Which subjects; it may have wildcards.
      after(int): The sequence after which to start.
    """
    while True:
        try:
            page = connection.call(partial(read_page, stream=stream, subject=subject, start=after + 1, count=PAGE))
        except StreamNotFound:
            return
        yield from page.messages
        if not page.messages or not page.pending:
            return
        after = page.messages[-1].sequence


async def get(session: Session, stream: str, sequence: int) -> StoredMessage | None:
    """Get one message of any stream, or None if there is none."""
    if not 0 < sequence <= MAX_SEQUENCE:
        return None
    return await _get(session, stream, {"seq": sequence})


async def _get(session: Session, stream: str, request: Mapping[str, object]) -> StoredMessage | None:
    try:
        answer = await session.call_api(f"STREAM.MSG.GET.{stream}", request)
    except ApiError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise
    with readable(f"reading the stream {stream!r}"):
        message = answer["message"]
        headers = parse_headers(base64.b64decode(message.get("hdrs", "")))
        body = base64.b64decode(message.get("data", ""))
        return StoredMessage(stream, message["seq"], message["subject"], headers, body, nanoseconds(message["time"]))


async def delete(session: Session, stream: str, sequence: int) -> bool:
    """Delete one message; return whether it still existed."""
    try:
        await session.call_api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
    except ApiError as error:
        if error.err_code in (SEQUENCE_NOT_FOUND, MESSAGE_NOT_FOUND):
            return False
        raise
    return True


async def purge(session: Session, stream: str, subject: str | None = None) -> int:
    """Delete the messages of a stream, or those on a subject, and tell how many; none if it does not exist."""
    try:
        answer = await session.call_api(f"STREAM.PURGE.{stream}", {"filter": subject} if subject else None)
    except StreamNotFound:
        return 0
    return int(answer["purged"])
