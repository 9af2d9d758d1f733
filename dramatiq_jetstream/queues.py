"""One declared queue with everything that belongs to it."""

from __future__ import annotations

import math
import time

from dramatiq.logging import get_logger

from .connection import Connection
from .errors import ApiError, BrokerError, DelayNotSupported, EnqueueRejected, MessageTooLarge, StreamNotFound
from .handling import QueueHandling
from .publisher import Receipt
from .session import Session
from .settings import DEFAULT_ACK_WAIT
from .topology import Limits, Route, ensure_consumer, ensure_queue
from .wire import PayloadFormat, Publication

#: Seconds between attempts to publish to a stream that does not answer.
PAUSE = 0.25

#: Bytes that a dead letter may need beside its message.
ROOM = 4_096

_TOO_LARGE = 10054
_NO_ATOMIC = 10174
_NO_SCHEDULES = frozenset({10188, 10189, 10190})


class Queue:
    """A declared queue: where it is, how its messages are written, what becomes of them.

    Parameters:
      route(Route): Its place on the server.
      payload(PayloadFormat): How its messages are written.
      handling(QueueHandling): What becomes of delivered messages.
      connection(Connection): The way to the server.
      managed(bool): Whether its stream may be made.
    """

    def __init__(
        self,
        route: Route,
        payload: PayloadFormat,
        handling: QueueHandling,
        connection: Connection,
        *,
        managed: bool,
    ) -> None:
        self.logger = get_logger(__name__, f"Queue({route.queue_name})")
        self.route = route
        self.payload = payload
        self.handling = handling
        self._connection = connection
        self._managed = managed
        self._ensured: Session | None = None

    @property
    def name(self) -> str:
        """dramatiq's name of the queue."""
        return self.route.queue_name

    async def ensure_stream(self, session: Session) -> None:
        """Make the stream unless it exists.  Raises ConfigMismatch."""
        await ensure_queue(session, self.route)
        self._ensured = session

    async def ensure_consumer(self, session: Session, max_deliver: int | None) -> Limits:
        """Make the durable consumer unless it exists.  Raises ConfigMismatch."""
        return await ensure_consumer(session, self.route, max_deliver)

    async def consume(self, session: Session, max_deliver: int | None) -> Limits:
        """Do the same for a worker, which need not stop where its actors have become more patient.

        What the consumer's max_deliver does not allow continues as a copy.
        """
        derived = not self.route.settings.bound and self.route.settings.max_deliver is None
        spare = ("max_deliver",) if derived else ()
        found = await ensure_consumer(session, self.route, max_deliver, spare=spare)
        if derived and (found.max_deliver or math.inf) < (max_deliver or 0):
            self.logger.warning(
                "The consumer of %s delivers a message %d times at most, its actors ask for %d: a message that kills "
                "its workers is a dead letter sooner. Raise max_deliver on the server.",
                self.route.describe(),
                found.max_deliver,
                max_deliver,
            )
        return found

    def assumed_limits(self, max_deliver: int | None) -> Limits:
        """What to go by where the server may not be asked."""
        return Limits(self.route.settings.ack_wait or DEFAULT_ACK_WAIT, max_deliver)

    def prepare(self, publication: Publication) -> None:
        """See to it that a message can be published.

        Raises:
          MessageTooLarge: If the server would not take it, or not its dead letter.
          ConfigMismatch, BrokerConnectionError: If its stream cannot be made.
        """
        session = self._connection.session()
        limit = session.client.max_payload - ROOM
        if publication.may_exceed(limit):
            # Only now, for the sentence takes longer than the check.
            publication.check_size(limit, f"{self.route.describe()} (the server's max_payload less {ROOM})")
        if self._managed and self._ensured is not session:
            self._connection.call(self.ensure_stream)

    def store(self, publication: Publication) -> Receipt:
        """Publish a message and wait until the stream has stored it.

        A stream that does not answer is made anew, or waited for: it may be without a leader.
        """
        deadline = time.monotonic() + self._connection.settings.timeout / 1000
        while True:
            try:
                self.prepare(publication)
                return self._connection.publish(publication)
            except StreamNotFound as error:
                self._ensured = None
                if time.monotonic() + PAUSE > deadline:
                    raise self._missing(publication) from error
                time.sleep(PAUSE)
            except ApiError as error:
                raise self.rejection(error, publication) from error

    def _missing(self, publication: Publication) -> StreamNotFound:
        return StreamNotFound(
            f"{self.route.describe()}: no stream listens on {publication.subject!r}; prepare it, for example with "
            f"'nats stream add {self.route.stream}', or let the broker do it (declare='auto')"
        )

    def rejection(self, error: ApiError, publication: Publication) -> BrokerError:
        """What to raise when the stream refuses a message."""
        where = self.route.describe()
        if error.err_code == _TOO_LARGE:
            return MessageTooLarge(
                f"{where} refused a message of {publication.size} bytes, headers included: {error.description}; raise "
                "the stream's max_msg_size, or send a reference to large data instead"
            )
        if error.err_code in _NO_SCHEDULES:
            return DelayNotSupported(
                f"{where} refused a delayed message: {error.description}; allow_msg_schedules must be on for the stream"
            )
        if error.err_code == _NO_ATOMIC:
            return EnqueueRejected(
                f"{where} does not store messages together: allow_atomic must be on for the stream, or leave "
                "atomic=True out"
            )
        return EnqueueRejected(f"{where} refused a message: {error.description} (error {error.err_code})")
