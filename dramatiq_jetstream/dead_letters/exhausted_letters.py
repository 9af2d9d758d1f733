"""Dead letters of exhausted messages, made from what their stream and the attempts' records keep of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dramatiq import Message
from dramatiq.errors import DecodeError

from ..client import Session
from ..deliveries import AttemptRecords, Delivery, JetStreamMessage
from ..errors import ApiError
from ..logs import get_logger, repeated
from ..options import retry_limit
from ..sending import Queue, publication
from ..streams import Limits, Route, StoredMessage, reading
from ..wire import EXPECTED_LAST_ID, EXPECTED_SEQUENCE, MSG_ID, STATE, Origin, Publication
from .letter import Failure, Reason
from .storing import DeadLetterStore


class ExhaustedLetters:
    """Stores the dead letters of messages that no worker holds.

    Parameters:
      dead_letter_store(DeadLetterStore): Where dead letters go.
      attempts(AttemptRecords): What is remembered of their attempts.
    """

    def __init__(self, dead_letter_store: DeadLetterStore, attempts: AttemptRecords) -> None:
        self.logger = get_logger(__name__, type(self))
        self._dead_letter_store = dead_letter_store
        self._attempts = attempts

    async def store(self, session: Session, queue: Queue, found: StoredMessage, deliveries: int) -> None:
        """Store the dead letter of a message, then remove the message, unless its stream is owned by others.

        Parameters:
          session(Session): The live connection.
          queue(Queue): Its queue.
          found(StoredMessage): The message.
          deliveries(int): How often it was delivered.

        Raises:
          BrokerError: If that is not possible now.
        """
        route = queue.route
        origin = Origin(route.stream, route.consumer, max(deliveries, 1), found.sequence, found.timestamp)
        delivery = Delivery("", found.body, found.own_headers, _NoLease(), origin)
        if not route.settings.bound and await _was_copied(session, route, delivery):
            await reading.delete(session, route.stream, found.sequence)
            return
        delivery.record = await self._attempts.recall(session, delivery)
        failure = self._failure(queue, delivery)
        continuation = self._continuation(queue, failure)
        if continuation is not None:
            await session.store(continuation)
        else:
            await self._dead_letter_store.store(session, route, failure)
        if not route.settings.keeps_dead_letters:
            await reading.delete(session, route.stream, found.sequence)

    def _continuation(self, queue: Queue, failure: Failure) -> Publication | None:
        """The copy by which a message goes on that allows itself more retries than its queue's actors; None if it ends.

        The server delivers a message as often as the most patient actor of its queue asks for.
        """
        message = failure.message
        if message is None or queue.route.settings.bound or "max_retries" not in message.options:
            return None
        own, spent = message.options["max_retries"], message.received_retries + 1
        limit = None if own is None else retry_limit(own)
        if limit is not None and spent > limit:
            return None
        copied: Message[Any] = message.copy(options={"retries": spent})
        self.logger.warning(
            "Message %s of queue %r goes on as a copy: it allows itself more retries than its queue.",
            failure.delivery,
            queue.name,
            extra=repeated(queue.name, message.actor_name),
        )
        bookkeeping = replace(message.bookkeeping, origin=message.identity)
        outgoing = publication(queue.route, queue.payload, copied)
        headers = outgoing.headers | {STATE: bookkeeping.header}
        return outgoing._replace(headers=headers).named(failure.delivery.copy_id)

    def _failure(self, queue: Queue, delivery: Delivery) -> Failure:
        kept = queue.route.settings.keeps_dead_letters
        try:
            message = JetStreamMessage(queue.payload.decode(delivery), delivery)
            message.recover()
        except DecodeError as error:
            return Failure(delivery, None, Reason.UNDECODABLE, error, kept)
        except Exception as error:
            # Whatever it holds, it gets its dead letter.
            self.logger.exception(
                "Message %s of queue %r cannot be read.", delivery, queue.name, extra=repeated(queue.name, type(error))
            )
            return Failure(delivery, None, Reason.UNDECODABLE, error, kept)
        record = delivery.record
        # A worker that recorded the end of the last attempt was neither killed nor disconnected.
        said = record is not None and record.attempt >= delivery.origin.deliveries
        reason = Reason.RETRIES_EXHAUSTED if said else Reason.ATTEMPTS_EXCEEDED
        return Failure(delivery, message, reason, None, kept)


class _NoLease:
    """Holds what was read from a stream instead of delivered: there is nothing to answer."""

    limits = Limits(0, None)

    def settle(self, delivery: Delivery, answer: bytes) -> None:
        return

    def confirm(self, delivery: Delivery, answer: bytes) -> None:
        return

    def drop(self, delivery: Delivery) -> None:
        return


async def _was_copied(session: Session, route: Route, delivery: Delivery) -> bool:
    """Whether a worker died after it stored the copy that a message continues as, and before it removed the original.

    The stream knows the copy's message id for a while.  This asks with a condition that never holds,
    which keeps it from storing anything.  A single server looks at the last sequence before it looks
    at ids; a replicated stream does not, but stops for good when it is asked about the last id.
    """
    stream = await session.call_api(f"STREAM.INFO.{route.stream}")
    never = {EXPECTED_LAST_ID: f"not {delivery.copy_id}"}
    if stream["config"]["num_replicas"] > 1:
        never = {EXPECTED_SEQUENCE: str(2**62)}
    headers = {MSG_ID: delivery.copy_id, **never}
    try:
        receipt = await session.store(Publication(route.subject(""), b"", headers))
    except ApiError:
        return False
    return receipt.duplicate
