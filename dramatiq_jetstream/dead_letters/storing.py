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

from ..client import Connection, Receipt, Session
from ..deliveries import ActorOptions, Delivery, JetStreamMessage
from ..names import Names
from ..streams import Ensured, Route, dead_letter_config, helper_requirement
from ..wire import ACTOR, MESSAGE_ID, MSG_ID, TTL, Publication, quote_text

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


class Failure(NamedTuple):
    """A message that could not be handled.

    Parameters:
      delivery(Delivery): The delivery that ended it.
      message(JetStreamMessage): The decoded message, if it could be decoded.
      reason(Reason): Why it ended.
      error(BaseException): What it ended with, if it was an exception.
    """

    delivery: Delivery
    message: JetStreamMessage | None
    reason: Reason
    error: BaseException | None

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


class DeadLetterStore:
    """Writes dead letters.

    Parameters:
      connection(Connection): The way to the server.
      names(Names): The names of the namespace.
      actor_options(ActorOptions): What actors and middleware ask for.
      replicas(int): How many servers keep the stream.
      managed(bool): Whether the stream may be made.
      ttl(int): The milliseconds to keep dead letters, unless the actor or message says; 0 for ever.
    """

    def __init__(
        self,
        connection: Connection,
        names: Names,
        actor_options: ActorOptions,
        replicas: int,
        *,
        managed: bool,
        ttl: int,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._connection = connection
        self._names = names
        self._actor_options = actor_options
        self._ttl = ttl
        requirement = helper_requirement(dead_letter_config(names, replicas), "dead letters")
        self._ensured = Ensured(requirement, managed=managed)

    def store_and_wait(self, route: Route, failure: Failure) -> None:
        """Store a dead letter; once, however often it is repeated.

        Raises:
          BrokerConnectionError: If it cannot be stored now.
        """
        self._connection.call(lambda session: self.store(session, route, failure))

    async def ensure(self, session: Session) -> None:
        """Make the stream of dead letters unless it exists, or may not be made; on the loop."""
        await self._ensured.ensure(session)

    async def store(self, session: Session, route: Route, failure: Failure) -> None:
        """Do what :meth:`store_and_wait` does, on the loop."""
        actor = failure.message.actor_name if failure.message else ""
        subject = self._names.dead_subject(route.queue_name, actor)
        headers = _headers(route, failure) | self._ttl_header(failure)
        publication = _fitting(Publication(subject, failure.delivery.body, headers), session.max_payload)

        async def attempt() -> Receipt:
            await self._ensured.ensure(session)
            return await session.store(publication)

        # It was there when this session began; somebody may have deleted it since.
        await session.persist(attempt, lambda _: self._ensured.forget())
        self.logger.warning(
            "Message %s of queue %r is a dead letter: %s.", failure.delivery, route.queue_name, failure.reason.value
        )

    def _ttl_header(self, failure: Failure) -> dict[str, str]:
        message = failure.message
        own = self._actor_options.option(message, "dead_message_ttl") if message is not None else None
        ttl = self._ttl if own is None else own
        return {TTL: str(math.ceil(ttl / 1000))} if ttl > 0 else {}


def _fitting(publication: Publication, limit: int) -> Publication:
    """An entry that the server takes: beside a large message there may be no room for a traceback."""
    for name in (TRACEBACK, EXCEPTION_TEXT):
        if publication.size > limit:
            headers = {key: value for key, value in publication.headers.items() if key != name}
            publication = publication._replace(headers=headers)
    return publication


def _headers(route: Route, failure: Failure) -> dict[str, str]:
    headers = {name: value for name, value in failure.delivery.headers.items() if name.startswith(_PREFIX)}
    headers |= _origin_headers(route, failure.delivery)
    headers |= {REASON: failure.reason.value, ATTEMPTS: str(failure.attempts)}
    if failure.message is not None:
        headers |= {
            ACTOR: quote_text(failure.message.actor_name),
            MESSAGE_ID: quote_text(failure.message.message_id),
            ENQUEUED: str(failure.message.message_timestamp),
        }
    headers |= _error_headers(failure.error, failure.message)
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
