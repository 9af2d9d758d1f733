"""Builds the headers of a dead letter from its message and error; no I/O."""

from __future__ import annotations

import json
import os
import socket
import traceback
from enum import Enum
from typing import NamedTuple

from dramatiq.common import current_millis
from dramatiq.middleware import SkipMessage

from ..deliveries import Delivery, JetStreamMessage
from ..errors import text_of
from ..streams import Route
from ..wire import ACTOR, MESSAGE_ID, MSG_ID, OPTIONS, TIMESTAMP, Headers, Publication, quote_text

QUEUE = "Dramatiq-Queue"
REASON = "Dramatiq-Reason"
EXCEPTION = "Dramatiq-Exception"
EXCEPTION_TEXT = "Dramatiq-Exception-Text"
TRACEBACK = "Dramatiq-Traceback"
ATTEMPTS = "Dramatiq-Attempts"
ENQUEUED = "Dramatiq-Enqueued"
FAILED = "Dramatiq-Failed"
WORKER = "Dramatiq-Worker"
STREAM = "Dramatiq-Stream"
SEQUENCE = "Dramatiq-Sequence"
KEPT = "Dramatiq-Kept"
#: Which part of a body this is that does not fit into one letter, such as ``1/2``.
PART = "Dramatiq-Part"

#: The longest exception text and traceback, in characters and in bytes of the header.
MAX_TEXT = 1_000
MAX_TEXT_BYTES = 4_096
MAX_TRACEBACK = 8_000
MAX_TRACEBACK_BYTES = 24_576

#: The longest of the other headers, in bytes.  The server takes 64 kB of them all together.
MAX_HEADER = 1_024

#: The longest options of a plain JSON message that are carried along, in bytes.
MAX_OPTIONS = 16_384

#: The headers of a plain JSON message that are needed to requeue it.
_CARRIED = {ACTOR: MAX_HEADER, MESSAGE_ID: MAX_HEADER, OPTIONS: MAX_OPTIONS, TIMESTAMP: MAX_HEADER}

#: The headers that are dropped, in this order, while a letter is too large.
_DISPENSABLE = (TRACEBACK, EXCEPTION_TEXT, EXCEPTION, WORKER)


class Reason(str, Enum):
    """Why a message is a dead letter."""

    RETRIES_EXHAUSTED = "retries exhausted"
    ATTEMPTS_EXCEEDED = "attempts exceeded"
    UNDECODABLE = "undecodable"
    UNKNOWN_ACTOR = "unknown actor"
    SKIPPED = "skipped by middleware"
    AGE_LIMIT = "age limit"
    NOT_RETRIED = "exception that is not retried"
    HANDOFF_FAILED = "next message could not be enqueued"
    UNHANDLED = "error while it was handled"

    @classmethod
    def of(cls, text: str) -> Reason:
        """The reason for a text, which may come from any program."""
        return next((reason for reason in cls if reason.value == text), cls.UNHANDLED)


class Failure(NamedTuple):
    """A message that could not be handled.

    Parameters:
      delivery(Delivery): The delivery that ended it.
      message(JetStreamMessage): The decoded message, if it could be decoded.
      reason(Reason): Why it ended.
      error(BaseException): What it ended with, if it was an exception.
      kept(bool): Whether the message stays in its stream.
      ran(bool): Whether this delivery was an attempt itself.
    """

    delivery: Delivery
    message: JetStreamMessage | None
    reason: Reason
    error: BaseException | None
    kept: bool = False
    ran: bool = True

    @property
    def attempts(self) -> int:
        """How many attempts were made."""
        message = self.message
        if message is None:
            return self.delivery.earlier_attempts + self.ran
        earlier = max(message.received_retries, self.delivery.earlier_attempts)
        return earlier + message.bookkeeping.handoffs + self.ran


def reason_of(message: JetStreamMessage, exception: BaseException | None) -> Reason:
    """Tell from what dramatiq left on a rejected message why it was rejected."""
    if isinstance(exception, SkipMessage):
        return Reason.AGE_LIMIT if "age limit" in text_of(exception).lower() else Reason.SKIPPED
    if exception is None:
        return Reason.SKIPPED
    retried = message.options.get("retries", 0) > message.received_retries
    return Reason.RETRIES_EXHAUSTED if retried else Reason.NOT_RETRIED


def letters(subject: str, route: Route, failure: Failure, ttl: dict[str, str], limit: int) -> list[Publication]:
    """The letter of a message; several, each with a part of the body, if the server takes no message that large.

    Parameters:
      subject(str): Where letters of its queue and actor are stored.
      route(Route): Its queue.
      failure(Failure): How it ended.
      ttl(dict): The header that says how long to keep it.
      limit(int): The bytes that the server takes at most in one message.
    """
    body = failure.delivery.body
    publication = Publication(subject, body, _headers(route, failure) | ttl)
    for name in _DISPENSABLE:
        if publication.size > limit:
            left = {key: value for key, value in publication.headers.items() if key != name}
            publication = publication._replace(headers=left)
    return in_parts(publication, limit)


def in_parts(publication: Publication, limit: int) -> list[Publication]:
    """A letter as it is, or as several with a part of the body each, if the server takes none that large."""
    if publication.size <= limit:
        return [publication]
    room = max(limit - publication._replace(body=b"").size - MAX_HEADER, MAX_HEADER)
    bodies = [publication.body[start : start + room] for start in range(0, len(publication.body), room)]
    parts = []
    for number, body in enumerate(bodies, 1):
        msg_id = publication.headers[MSG_ID] if number == 1 else f"{publication.headers[MSG_ID]}.{number}"
        headers = publication.headers | {MSG_ID: msg_id, PART: f"{number}/{len(bodies)}"}
        parts.append(Publication(publication.subject, body, headers))
    return parts


def _headers(route: Route, failure: Failure) -> dict[str, str]:
    headers = _carried(failure.delivery.headers)
    headers |= _origin_headers(route, failure)
    headers |= {REASON: failure.reason.value, ATTEMPTS: str(failure.attempts)}
    if failure.message is not None:
        headers |= {
            ACTOR: _fitting(quote_text(failure.message.actor_name)),
            MESSAGE_ID: _fitting(quote_text(failure.message.message_id)),
            ENQUEUED: str(failure.message.message_timestamp),
        }
    return headers | _error_headers(failure)


def _carried(headers: Headers) -> dict[str, str]:
    """The message's own headers that are known, as far as they are short and of one line."""
    found = {name: headers[name] for name in _CARRIED if name in headers}
    return {
        name: value
        for name, value in found.items()
        if len(value.encode("utf-8", "replace")) <= _CARRIED[name] and not set("\r\n\0") & set(value)
    }


def _origin_headers(route: Route, failure: Failure) -> dict[str, str]:
    origin = failure.delivery.origin
    return {
        MSG_ID: failure.delivery.identity,
        QUEUE: _fitting(quote_text(route.queue_name)),
        STREAM: origin.stream,
        SEQUENCE: str(origin.sequence),
        ENQUEUED: str(origin.milliseconds),
        FAILED: str(current_millis()),
        WORKER: _fitting(quote_text(f"{socket.gethostname()} {os.getpid()}")).replace("%20", " "),
        **({KEPT: "1"} if failure.kept else {}),
    }


def _error_headers(failure: Failure) -> dict[str, str]:
    headers, error = {}, failure.error
    trace = failure.message.options.get("traceback") if failure.message else None
    if error is not None:
        kind = type(error)
        headers[EXCEPTION] = _fitting(quote_text(f"{kind.__module__}.{kind.__qualname__}"))
        headers[EXCEPTION_TEXT] = _quoted(text_of(error)[:MAX_TEXT], MAX_TEXT_BYTES)
        trace = trace or _traceback(error)
    if trace:
        headers[TRACEBACK] = _quoted(str(trace)[-MAX_TRACEBACK:], MAX_TRACEBACK_BYTES)
    return headers


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception as failure:
        return f"<its traceback cannot be had: {type(failure).__name__}>"


def _quoted(text: str, limit: int) -> str:
    """A text as JSON, in one line and in so many bytes at most."""
    quoted = json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
    while len(quoted.encode()) > limit:
        text = text[-len(text) * 3 // 4 :]
        quoted = json.dumps("…" + text.encode("utf-8", "replace").decode(), ensure_ascii=False)
    return quoted


def _fitting(value: str) -> str:
    """A header's value, cut if it is too long; what is quoted is ASCII."""
    return value if len(value) <= MAX_HEADER else value[: MAX_HEADER - 3].rsplit("%", 1)[0] + "..."
