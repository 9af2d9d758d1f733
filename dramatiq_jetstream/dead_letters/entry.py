"""One entry of the dead letters, read from whatever headers it has."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ..streams import StoredMessage
from ..wire import ACTOR, MESSAGE_ID, Headers, unquote_text
from . import letter

#: No integer of a moment that anybody means has more digits.
_TIMESTAMP = re.compile(r"-?[0-9]{1,40}")


@dataclass(frozen=True)
class DeadLetter:
    """A message that could not be handled, and why.

    Parameters:
      number(int): Its number among the dead letters.
      queue_name(str): The queue it was in.
      actor_name(str): The actor it was for, if that is known.
      message_id(str): dramatiq's id of the message, if that is known.
      reason(str): Why it ended here.
      exception(str): The class of the exception it ended with, if any.
      exception_text(str): That exception's text.
      traceback(str): That exception's traceback.
      attempts(int): How many attempts were made.
      enqueued_at(int): When it was first enqueued, in UNIX milliseconds.
      failed_at(int): When it ended here, in UNIX milliseconds.
      worker(str): The host and process that gave up on it.
      stream(str): The stream it was in.
      sequence(int): Its sequence there.
      kept(bool): Whether it still is there, as in streams of others.
      body(bytes): The message as it was sent.
      headers(dict): Its headers, and those of this entry.
    """

    number: int
    queue_name: str
    actor_name: str | None
    message_id: str | None
    reason: str
    exception: str | None
    exception_text: str | None
    traceback: str | None
    attempts: int
    enqueued_at: int
    failed_at: int
    worker: str
    stream: str
    sequence: int
    kept: bool
    body: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, entry: StoredMessage) -> DeadLetter:
        """Read an entry as the dead-letter stream keeps it; what cannot be read is shown as it stands."""
        headers = entry.own_headers
        return cls(
            number=entry.sequence,
            queue_name=_text(headers, letter.QUEUE) or "",
            actor_name=_text(headers, ACTOR),
            message_id=_text(headers, MESSAGE_ID),
            reason=headers.get(letter.REASON, ""),
            exception=_text(headers, letter.EXCEPTION),
            exception_text=_json_text(headers, letter.EXCEPTION_TEXT),
            traceback=_json_text(headers, letter.TRACEBACK),
            attempts=_number(headers, letter.ATTEMPTS),
            enqueued_at=_timestamp(headers, letter.ENQUEUED),
            failed_at=_number(headers, letter.FAILED) or entry.timestamp // 1_000_000,
            worker=_text(headers, letter.WORKER) or "",
            stream=headers.get(letter.STREAM, ""),
            sequence=_number(headers, letter.SEQUENCE),
            kept=letter.KEPT in headers,
            body=entry.body,
            headers=headers,
        )

    @property
    def part(self) -> str | None:
        """Which part of a message too large for one letter this is, such as ``"1/2"``; None if it is whole."""
        return self.headers.get(letter.PART)


def _text(headers: Headers, name: str) -> str | None:
    if name not in headers:
        return None
    try:
        return unquote_text(headers[name])
    except ValueError:
        return headers[name]


def _json_text(headers: Headers, name: str) -> str | None:
    if name not in headers:
        return None
    try:
        return str(json.loads(headers[name]))
    except (ValueError, RecursionError):
        return headers[name]


def _timestamp(headers: Headers, name: str) -> int:
    """What a sender gave as the time, which may be before 1970, or never."""
    value = headers.get(name, "")
    return int(value) if _TIMESTAMP.fullmatch(value) else 0


def _number(headers: Headers, name: str) -> int:
    value = headers.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else 0
