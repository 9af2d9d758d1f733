"""Stores dead letters: confirmed there before the message is removed here."""

from __future__ import annotations

import logging

from ..client import Connection, Receipt, Session
from ..deliveries import ActorOptions, JetStreamMessage
from ..errors import ApiError, BrokerError, MessageTooLarge, described
from ..logs import FirstLines, get_logger, repeated
from ..names import Names
from ..streams import Ensured, Route, dead_letter_config, helper_requirement
from ..wire import MSG_ID, TTL, Publication, quote_text, ttl_value
from .letter import QUEUE, REASON, SEQUENCE, STREAM, Failure, Reason, in_parts, letters


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
        self._first_lines = FirstLines()
        requirement = helper_requirement(dead_letter_config(names, replicas), "dead letters")
        self._ensured = Ensured(requirement, managed=managed)

    def store_and_wait(self, route: Route, failure: Failure) -> None:
        """Store a dead letter; once, however often it is repeated.

        Raises:
          BrokerError: If it cannot be stored now.
        """
        self._connection.call(lambda session: self.store(session, route, failure))

    async def ensure(self, session: Session) -> None:
        """Make the stream of dead letters unless it exists, or may not be made; on the loop."""
        await self._ensured.ensure(session)

    async def store(self, session: Session, route: Route, failure: Failure) -> None:
        """Do what :meth:`store_and_wait` does, on the loop.

        Whatever the message and its error hold, there is a letter: where it cannot be made, or the server
        refuses it, one with nothing but the body, the reason and the position.
        """
        actor = failure.message.actor_name if failure.message else ""
        subject = self._names.dead_subject(route.queue_name, actor)
        ttl, limit = self._ttl_header(failure), session.max_payload
        try:
            new = await self._publish(session, letters(subject, route, failure, ttl, limit))
        except BrokerError as error:
            if not _may_be_the_letters_fault(error):
                raise
            new = await self._store_reduced(session, route, failure, error)
        except Exception as error:
            new = await self._store_reduced(session, route, failure, error)
        # Of a kept message the server tells every worker, which find that it has its letter.
        if new:
            self._log(route, failure)

    def level_of(self, failure: Failure) -> int:
        """The level to log a failure at: that of dramatiq for an exception that the actor declares it throws."""
        message = failure.message
        expected = message is not None and failure.reason is Reason.NOT_RETRIED and self._is_expected(message, failure)
        return logging.INFO if expected else logging.WARNING

    async def _store_reduced(self, session: Session, route: Route, failure: Failure, error: Exception) -> bool:
        self.logger.error(
            "The dead letter of message %s of queue %r is reduced: %s",
            failure.delivery,
            route.queue_name,
            described(error),
            extra=repeated(route.queue_name, type(error)),
        )
        return await self._publish(session, in_parts(self._reduced(route, failure), session.max_payload))

    def _reduced(self, route: Route, failure: Failure) -> Publication:
        delivery = failure.delivery
        headers = {
            MSG_ID: f"{delivery.identity}.reduced",
            QUEUE: quote_text(route.queue_name),
            STREAM: delivery.origin.stream,
            SEQUENCE: str(delivery.origin.sequence),
            REASON: failure.reason.value,
        }
        return Publication(self._names.dead_subject(route.queue_name, ""), delivery.body, headers)

    async def _publish(self, session: Session, publications: list[Publication]) -> bool:
        """Store publications, and return whether one of them was not stored already."""
        new = False
        for publication in publications:

            async def attempt(publication: Publication = publication) -> Receipt:
                await self._ensured.ensure(session)
                return await session.store(publication)

            # The stream existed when this session started; it may have been deleted since.
            receipt = await session.persist(attempt, lambda _: self._ensured.forget())
            new = new or not receipt.duplicate
        return new

    def _ttl_header(self, failure: Failure) -> dict[str, str]:
        message = failure.message
        own = self._actor_options.dead_message_ttl(message) if message is not None else None
        ttl = self._ttl if own is None else own
        return {TTL: ttl_value(ttl)} if ttl > 0 else {}

    def _log(self, route: Route, failure: Failure) -> None:
        self.logger.log(
            self.level_of(failure),
            "Message %s of queue %r is a dead letter: %s.",
            failure.delivery,
            route.queue_name,
            failure.reason.value,
            extra=self._first_lines.extra(
                route.queue_name,
                failure.message.actor_name if failure.message else None,
                failure.reason,
                type(failure.error),
            ),
        )

    def _is_expected(self, message: JetStreamMessage, failure: Failure) -> bool:
        """Whether the actor declares the exception as one that it throws."""
        throws = self._actor_options.option(message, "throws")
        try:
            return throws is not None and isinstance(failure.error, throws)
        except TypeError:
            return False


def _may_be_the_letters_fault(error: BrokerError) -> bool:
    """Whether another letter may be stored where this one was not: it is too large, or a header is refused."""
    return isinstance(error, (ApiError, MessageTooLarge))
