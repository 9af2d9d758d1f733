"""Reading messages that are stored in a stream, without consuming them."""

from __future__ import annotations

import asyncio
import base64
import calendar
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from .connection import Connection
from .errors import ApiError, CallTimeout
from .protocol import parse_headers
from .session import Session

#: How many messages are read at a time.
PAGE = 256

MESSAGE_NOT_FOUND = 10037
#: Deleting what is gone.
SEQUENCE_NOT_FOUND = 10057

_SUBJECT = "Nats-Subject"
_SEQUENCE = "Nats-Sequence"
_TIMESTAMP = "Nats-Time-Stamp"

#: Headers that a direct read adds to those of the message.
OWN_HEADERS = frozenset({"Nats-Stream", "Nats-Num-Pending", "Nats-Last-Sequence", _SUBJECT, _SEQUENCE, _TIMESTAMP})


class Stored(NamedTuple):
    """One message as a stream keeps it.

    Parameters:
      sequence(int): Its sequence in the stream.
      subject(str): Its subject.
      headers(Mapping): Its headers.
      body(bytes): Its body.
      timestamp(int): When it was stored, in UNIX nanoseconds.
    """

    sequence: int
    subject: str
    headers: Mapping[str, str]
    body: bytes
    timestamp: int


def nanoseconds(moment: str) -> int:
    """The UNIX time of a moment as the server writes it: RFC 3339 with up to nine decimals, in UTC."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


async def read(session: Session, stream: str, subject: str, start: int, count: int) -> list[Stored]:
    """Read messages in order, from a stream with direct access.

    Parameters:
      session(Session): The live connection.
      stream(str): The stream.
      subject(str): Which subjects; it may have wildcards.
      start(int): The sequence to begin at.
      count(int): How many at most.

    Raises:
      CallTimeout: If the answer is not complete within the timeout.
    """
    return await _collect(session, stream, {"seq": start, "next_by_subj": subject, "batch": count})


async def read_last(session: Session, stream: str, subjects: Sequence[str]) -> list[Stored]:
    """Read the last message of each subject, up to 1,024 of them, from a stream with direct access.

    Raises:
      CallTimeout: If the answer is not complete within the timeout.
    """
    return await _collect(session, stream, {"multi_last": subjects}) if subjects else []


async def next_of(session: Session, stream: str, subject: str, start: int) -> Stored | None:
    """Get the first message on a subject from a sequence on, of any stream, or None if there is none."""
    return await _get(session, stream, {"seq": start, "next_by_subj": subject})


async def _collect(session: Session, stream: str, request: Mapping[str, object]) -> list[Stored]:
    found: list[Stored] = []
    complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def collect(subject: bytes, reply: bytes, block: bytes, body: bytes) -> None:
        headers = parse_headers(block)
        if _SEQUENCE in headers:
            timestamp = nanoseconds(headers[_TIMESTAMP])
            found.append(Stored(int(headers[_SEQUENCE]), headers[_SUBJECT], headers, body, timestamp))
        elif not complete.done():
            complete.set_result(None)

    inbox, subscription = await session.receive(collect)
    try:
        await session.client.publish(f"{session.api}.DIRECT.GET.{stream}", json.dumps(request).encode(), inbox)
        await asyncio.wait_for(complete, session.timeout)
    except asyncio.TimeoutError as error:
        raise CallTimeout(f"reading the stream {stream!r}: the answer did not arrive in time") from error
    finally:
        await session.unsubscribe(subscription, drain=False)
    return found


def walk(connection: Connection, stream: str, subject: str, after: int = 0) -> Iterator[Stored]:
    """Go through a stream with direct access, a page at a time; from any thread but the loop's.

    Parameters:
      connection(Connection): The way to the server.
      stream(str): The stream; one that does not exist is empty.
      subject(str): Which subjects; it may have wildcards.
      after(int): The sequence to begin behind.
    """
    while True:
        page = connection.call(partial(read, stream=stream, subject=subject, start=after + 1, count=PAGE))
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].sequence


def walk_slowly(connection: Connection, stream: str, subject: str, after: int = 0) -> Iterator[Stored]:
    """Go through any stream, as :func:`walk` does, one message at a time."""
    while True:
        found = connection.call(partial(next_of, stream=stream, subject=subject, start=after + 1))
        if found is None:
            return
        yield found
        after = found.sequence


async def get(session: Session, stream: str, sequence: int) -> Stored | None:
    """Get one message of any stream, or None if it is gone."""
    return await _get(session, stream, {"seq": sequence})


async def _get(session: Session, stream: str, request: Mapping[str, object]) -> Stored | None:
    try:
        answer = await session.call_api(f"STREAM.MSG.GET.{stream}", request)
    except ApiError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise
    message = answer["message"]
    headers = parse_headers(base64.b64decode(message.get("hdrs", "")))
    body = base64.b64decode(message.get("data", ""))
    return Stored(message["seq"], message["subject"], headers, body, nanoseconds(message["time"]))


async def delete(session: Session, stream: str, sequence: int) -> bool:
    """Delete one message, and tell whether it was still there."""
    try:
        await session.call_api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
    except ApiError as error:
        if error.err_code in (SEQUENCE_NOT_FOUND, MESSAGE_NOT_FOUND):
            return False
        raise
    return True
