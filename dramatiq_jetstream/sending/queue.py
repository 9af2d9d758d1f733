"""One declared queue: where it is, how its messages are written, and how they get there."""

from __future__ import annotations

import math

from ..client import MESSAGE_TOO_LARGE, NO_ATOMIC_BATCHES, NO_SCHEDULES, Connection, Receipt, Session, is_unknown
from ..errors import (
    ApiError,
    BrokerError,
    CallTimeout,
    DelayNotSupported,
    EnqueueRejected,
    MessageTooLarge,
    PermissionDenied,
    StreamNotFound,
)
from ..logs import get_logger
from ..settings import DEFAULT_ACK_WAIT
from ..streams import Config, Ensured, Limits, Route, consumer_requirement, limits, stream_requirement
from ..wire import PayloadFormat, Publication

#: Bytes that a dead letter may need beside its message.
ROOM = 4_096

#: Seconds to wait for an answer whether the stream exists.
LOOK_TIMEOUT = 1.0


class Queue:
    """A declared queue.

    Parameters:
      route(Route): Its place on the server.
      payload(PayloadFormat): How its messages are written.
      connection(Connection): The way to the server.
      managed(bool): Whether its stream may be made.
    """

    def __init__(
        self,
        route: Route,
        payload: PayloadFormat,
        connection: Connection,
        *,
        managed: bool,
    ) -> None:
        self.logger = get_logger(__name__, f"Queue({route.queue_name})")
        self.route = route
        self.payload = payload
        self._connection = connection
        self._may_ask = self._may_look = True
        self._ensured = Ensured(stream_requirement(route), managed=managed)

    @property
    def name(self) -> str:
        """dramatiq's name of the queue."""
        return self.route.queue_name

    async def ensure_stream(self, session: Session) -> None:
        """Make the stream unless it exists; on the loop.  Raises ConfigMismatch."""
        self._ensured.forget()
        await self._ensured.ensure(session)

    async def ensure_consumer(self, session: Session, max_deliver: int | None) -> Limits:
        """Make the durable consumer unless it exists; on the loop.  Raises ConfigMismatch."""
        return limits(await consumer_requirement(self.route, max_deliver).ensure(session))

    async def consume(self, session: Session, max_deliver: int | None) -> Limits:
        """Do the same for a worker, which need not stop where its actors have become more patient.

        What the consumer's max_deliver does not allow continues as a copy.
        """
        derived = not self.route.settings.bound and self.route.settings.max_deliver is None
        tolerated = ("max_deliver",) if derived else ()
        found = limits(await consumer_requirement(self.route, max_deliver).ensure(session, tolerated=tolerated))
        if derived and (found.max_deliver or math.inf) < (max_deliver or 0):
            self.logger.warning(
                "The consumer of %s delivers a message %d times at most, its actors ask for %d: a message that kills "
                "its workers is a dead letter sooner. Raise max_deliver on the server.",
                self.route.describe(),
                found.max_deliver,
                max_deliver,
            )
        return found

    async def assumed_limits(self, session: Session, max_deliver: int | None) -> Limits:
        """The limits for a worker that may not create anything: the consumer's, if it may read them; on the loop."""
        config = await self._ask_consumer(session, max_deliver)
        if config is None:
            return Limits(self.route.settings.ack_wait or DEFAULT_ACK_WAIT, max_deliver)
        return limits(config)

    async def _ask_consumer(self, session: Session, max_deliver: int | None) -> Config | None:
        """The consumer's configuration; None if it does not exist, or may not be asked for."""
        if not self._may_ask:
            return None
        try:
            return await consumer_requirement(self.route, max_deliver).find(session)
        except PermissionDenied as error:
            self._may_ask = False
            self.logger.warning(
                "This user may not read the settings of the consumer of %s; the worker assumes that it delivers a "
                "message %s times. If it delivers less often, a failed message stays in its stream without a dead "
                "letter: %s",
                self.route.describe(),
                max_deliver or "any number of",
                error,
            )
            return None

    def prepare(self, publication: Publication) -> None:
        """See to it that a message can be published.

        Raises:
          MessageTooLarge: If the server would not take it, or not its dead letter.
          ConfigMismatch, BrokerConnectionError: If its stream cannot be made.
        """
        session = self._connection.session()
        limit = session.max_payload - ROOM
        if publication.may_exceed(limit):
            # Only now, for the sentence takes longer than the check.
            publication.check_size(limit, f"{self.route.describe()} (the server's max_payload less {ROOM})")
        if not self._ensured.is_done(session):
            self._connection.call(self._ensured.ensure)

    def store(self, publication: Publication) -> Receipt:
        """Publish a message and wait until the stream has stored it.

        A stream that does not answer is created again, or waited for: it may have no leader.
        """
        try:
            self.prepare(publication)
            return self._connection.publish(publication, self._look)
        except StreamNotFound as error:
            if error.confirmed and not self._ensured.managed:
                raise self._missing(publication) from error
            return self.store_persistently(publication, repeated=error.repeated)
        except ApiError as error:
            raise self.rejection(error, publication) from error

    def _look(self, left: float) -> None:
        """Raise StreamNotFound if JetStream says so; a subscriber to the subject keeps it from saying so unasked."""
        session = self._connection.current()
        if session is None or not self._may_look or not session.client.is_connected:
            return
        subject, timeout = f"STREAM.INFO.{self.route.stream}", min(LOOK_TIMEOUT, left)
        try:
            session.thread.run(lambda: session.call_optional_api(subject, timeout))
        except StreamNotFound:
            raise
        except PermissionDenied:
            self._may_look = False
        except BrokerError:
            return

    def store_persistently(self, publication: Publication, *, repeated: bool) -> Receipt:
        """Publish a message whose stream did not answer.

        Parameters:
          publication(Publication): The message.
          repeated(bool): Whether it was sent more than once, so that an earlier copy may be stored.
        """
        try:
            return self._connection.call(lambda session: self._persist(session, publication))
        except StreamNotFound as error:
            raise (self.unknown(error) if repeated else self._missing(publication)) from error
        except ApiError as error:
            raise self.rejection(error, publication) from error

    async def find_stream(self, session: Session) -> None:
        """Create a stream that the server did not find, or wait for it; on the loop."""

        async def attempt() -> None:
            await self._ensured.ensure(session)

        self._ensured.forget()
        await session.persist(attempt, lambda _: self._ensured.forget())

    async def _persist(self, session: Session, publication: Publication) -> Receipt:
        async def attempt() -> Receipt:
            await self._ensured.ensure(session)
            return await session.store(publication)

        self._ensured.forget()
        return await session.persist(attempt, lambda _: self._ensured.forget())

    def _missing(self, publication: Publication) -> StreamNotFound:
        return StreamNotFound(
            f"{self.route.describe()}: no stream listens on {publication.subject!r}; prepare it, for example with "
            f"'nats stream add {self.route.stream}', or let the broker do it (declare='auto')"
        )

    def unknown(self, error: BrokerError) -> CallTimeout:
        """What to raise when only a later copy of a message is known to be refused."""
        return CallTimeout(
            f"{self.route.describe()} refused a message that was sent again, as there was no answer to the first copy: "
            f"{error}. That copy may or may not be stored; send again if running twice does no harm"
        )

    def rejection(self, error: ApiError, publication: Publication) -> BrokerError:
        """What to raise when the stream refuses a message."""
        where = self.route.describe()
        if is_unknown(error):
            return self.unknown(error)
        if error.err_code == MESSAGE_TOO_LARGE:
            return MessageTooLarge(
                f"{where} refused a message of {publication.size} bytes, headers included: {error.description}; raise "
                "the stream's max_msg_size, or send a reference to large data instead"
            )
        if error.err_code in NO_SCHEDULES:
            return DelayNotSupported(
                f"{where} refused a delayed message: {error.description}; allow_msg_schedules must be on for the stream"
            )
        if error.err_code == NO_ATOMIC_BATCHES:
            return EnqueueRejected(
                f"{where} does not store messages together: allow_atomic must be on for the stream, or leave "
                "atomic=True out"
            )
        return EnqueueRejected(f"{where} refused a message: {error.description} (error {error.err_code})")
