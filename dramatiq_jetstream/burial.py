"""Where messages end that cannot be handled: stored and confirmed there before they are removed here."""

from __future__ import annotations

import json
import math
import os
import socket
import traceback
from enum import Enum
from typing import NamedTuple

from dramatiq.common import current_millis
from dramatiq.logging import get_logger
from dramatiq.middleware import SkipMessage

from .connection import Connection
from .delivery import Delivery, JetStreamMessage
from .errors import StreamNotFound
from .names import Names
from .publisher import Receipt
from .session import Session
from .topology import HELPER_DEMANDS, Route, dead_letter_config, ensure_stream
from .wire import ACTOR, MESSAGE_ID, MSG_ID, TTL, Publication, quote_text

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

#: The longest exception text and traceback in characters; an entry must fit beside its message.
MAX_TEXT = 1_000
MAX_TRACEBACK = 8_000

_PREFIX = "Dramatiq-"


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


class End(NamedTuple):
    """How a message ended.

    Parameters:
      delivery(Delivery): The delivery that ended it.
      message(JetStreamMessage): The decoded message, if it could be decoded.
      reason(Reason): Why it ended.
      error(BaseException): What it ended with, if it was an exception.
      ttl(int): The milliseconds to keep it; 0 for ever.
    """

    delivery: Delivery
    message: JetStreamMessage | None
    reason: Reason
    error: BaseException | None
    ttl: int

    @property
    def attempts(self) -> int:
        """How many attempts were made."""
        return max(self.message.received_retries if self.message else 0, self.delivery.earlier_attempts) + 1


def reason_of(message: JetStreamMessage) -> Reason:
    """Tell from what dramatiq left on a rejected message why it was rejected."""
    exception = message._exception
    if isinstance(exception, SkipMessage):
        return Reason.AGE_LIMIT if "age limit" in str(exception).lower() else Reason.SKIPPED
    if exception is None:
        return Reason.SKIPPED
    retried = message.options.get("retries", 0) > message.received_retries
    return Reason.RETRIES_EXHAUSTED if retried else Reason.NOT_RETRIED


class Graveyard:
    """Writes dead letters.

    Parameters:
      connection(Connection): The way to the server.
      names(Names): The names of the namespace.
      replicas(int): How many servers keep the stream.
      managed(bool): Whether the stream may be made.
    """

    def __init__(self, connection: Connection, names: Names, replicas: int, *, managed: bool) -> None:
        self.logger = get_logger(__name__, type(self))
        self._connection = connection
        self._names = names
        self._replicas = replicas
        self._managed = managed
        self._ensured: Session | None = None

    def bury(self, route: Route, end: End) -> None:
        """Store a dead letter; once, however often it is repeated.

        Raises:
          BrokerConnectionError: If it cannot be stored now.
        """
        self._connection.call(lambda session: self.store(session, route, end))

    async def ensure(self, session: Session) -> None:
        """Make the stream of dead letters unless it exists, or may not be made; on the loop."""
        if self._managed and self._ensured is not session:
            config = dead_letter_config(self._names, self._replicas)
            await ensure_stream(session, config, HELPER_DEMANDS, "dead letters")
            self._ensured = session

    async def store(self, session: Session, route: Route, end: End) -> None:
        """Do what :meth:`bury` does, on the loop."""
        actor = end.message.actor_name if end.message else ""
        subject = self._names.dead_subject(route.queue_name, actor)
        publication = _fitting(
            Publication(subject, end.delivery.body, _headers(route, end)), session.client.max_payload
        )

        async def attempt() -> Receipt:
            await self.ensure(session)
            return await session.store(publication)

        await session.persist(attempt, self._missed)
        self.logger.warning(
            "Message %s of queue %r is a dead letter: %s.", end.delivery, route.queue_name, end.reason.value
        )

    def _missed(self, _: StreamNotFound) -> None:
        # It was there when this session began; somebody may have deleted it since.
        self._ensured = None


def _fitting(publication: Publication, limit: int) -> Publication:
    """An entry that the server takes: beside a large message there may be no room for a traceback."""
    for name in (TRACEBACK, EXCEPTION_TEXT):
        if publication.size > limit:
            headers = {key: value for key, value in publication.headers.items() if key != name}
            publication = publication._replace(headers=headers)
    return publication


def _headers(route: Route, end: End) -> dict[str, str]:
    headers = {name: value for name, value in end.delivery.headers.items() if name.startswith(_PREFIX)}
    headers |= _origin_headers(route, end.delivery)
    headers |= {REASON: end.reason.value, ATTEMPTS: str(end.attempts)}
    if end.message is not None:
        headers |= {
            ACTOR: quote_text(end.message.actor_name),
            MESSAGE_ID: quote_text(end.message.message_id),
            ENQUEUED: str(end.message.message_timestamp),
        }
    headers |= _error_headers(end.error, end.message)
    if end.ttl > 0:
        headers[TTL] = str(math.ceil(end.ttl / 1000))
    return headers


def _origin_headers(route: Route, delivery: Delivery) -> dict[str, str]:
    origin = delivery.origin
    return {
        MSG_ID: delivery.identity,
        QUEUE: quote_text(route.queue_name),
        STREAM: origin.stream,
        SEQUENCE: str(origin.sequence),
        ENQUEUED: str(origin.milliseconds),
        FAILED: str(current_millis()),
        WORKER: f"{socket.gethostname()} {os.getpid()}",
        **({KEPT: "1"} if route.settings.keeps_dead_letters else {}),
    }


def _error_headers(error: BaseException | None, message: JetStreamMessage | None) -> dict[str, str]:
    headers = {}
    trace = message.options.get("traceback") if message else None
    if error is not None:
        headers[EXCEPTION] = f"{type(error).__module__}.{type(error).__qualname__}"
        headers[EXCEPTION_TEXT] = json.dumps(str(error)[:MAX_TEXT])
        trace = trace or "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if trace:
        headers[TRACEBACK] = json.dumps(str(trace)[-MAX_TRACEBACK:])
    return headers
