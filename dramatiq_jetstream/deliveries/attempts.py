"""What is remembered beside a message between two deliveries of it.

A redelivery brings the message as it was sent; this brings back what its last attempt added.
Nothing here is needed for safety: without a record the attempt runs all the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dramatiq.logging import get_logger
from dramatiq.message import get_encoder

from ..client import OutboxItem, Session, publish_command
from ..errors import BrokerError
from ..names import Names, escape
from ..streams import StoredMessage, bucket_config, helper_requirement, reading
from ..wire import TTL
from .delivery import AttemptRecord, Delivery

#: Milliseconds that a record outlives the delay before the next delivery.
GRACE = 86_400_000

#: Seconds to wait for a record before the message is delivered without it.
RECALL_TIMEOUT = 2.0

ATTEMPT = "Dramatiq-Attempt"
RETURNED = "Dramatiq-Returned"


class AttemptRecords:
    """Keeps records in a KV bucket, each under its message's stream, sequence and time of storing.

    Parameters:
      names(Names): The names of the namespace.
      replicas(int): How many servers keep the bucket.
    """

    def __init__(self, names: Names, replicas: int) -> None:
        self.logger = get_logger(__name__, type(self))
        self.bucket = names.bucket("attempts")
        #: The bucket as it must exist.
        self.requirement = helper_requirement(bucket_config(self.bucket, replicas), "the attempts' records")

    async def ensure(self, session: Session) -> None:
        """Make the bucket, or go without it."""
        try:
            await self.requirement.ensure(session)
        except BrokerError as error:
            self.logger.warning("Retries will not see what earlier attempts left in their options: %s", error)

    def remember(
        self, session: Session, delivery: Delivery, options: dict[str, Any], delay: int, returned: int
    ) -> None:
        """Record how a delivery ended; sent without waiting."""
        headers = {
            TTL: str((delay + GRACE) // 1000),
            ATTEMPT: str(delivery.origin.deliveries),
            RETURNED: str(returned),
        }
        command = publish_command(self._subject(delivery), self._encode(options), headers=headers)
        if len(command) > session.max_payload:
            self.logger.warning("The options of message %s are too large to be kept for its next attempt.", delivery)
            command = publish_command(self._subject(delivery), b"", headers=headers)
        session.outbox.send(OutboxItem(command))

    async def recall(self, session: Session, delivery: Delivery) -> AttemptRecord | None:
        """Look up what is remembered of a message, if anything is."""
        subject = f"{session.api}.DIRECT.GET.KV_{self.bucket}.{self._subject(delivery)}"
        try:
            found = await session.ask(subject, b"", None, RECALL_TIMEOUT)
        except BrokerError as error:
            self.logger.debug("No record of %s: %s", delivery, error)
            return None
        headers = found.headers or {}
        if ATTEMPT not in headers:
            return None
        return AttemptRecord(int(headers[ATTEMPT]), int(headers[RETURNED]), self._decode(found.data))

    async def count_waiting(self, session: Session, stream: str, held: Sequence[StoredMessage]) -> int:
        """How many of a stream's messages wait for a retry, to the second; at most 1,024 can be asked about."""
        subjects = [self._subject_of(stream, message.sequence, message.timestamp) for message in held]
        records = await reading.read_last(session, f"KV_{self.bucket}", subjects)
        now = time.time_ns() // 1_000_000
        return sum(_due(record) > now for record in records)

    def _subject(self, delivery: Delivery) -> str:
        origin = delivery.origin
        return self._subject_of(origin.stream, origin.sequence, origin.timestamp)

    def _subject_of(self, stream: str, sequence: int, timestamp: int) -> str:
        return f"$KV.{self.bucket}.{escape(stream)}.{sequence}.{timestamp}"

    def _encode(self, options: dict[str, Any]) -> bytes:
        try:
            return get_encoder().encode(options)
        except Exception as error:
            self.logger.warning("An option that cannot be encoded is not kept for the next attempt: %s", error)
            return b""

    def _decode(self, data: bytes) -> dict[str, Any]:
        return dict(get_encoder().decode(data)) if data else {}


def _due(record: StoredMessage) -> int:
    """When the message of a record is delivered again, in UNIX milliseconds."""
    return record.timestamp // 1_000_000 + int(record.headers.get(TTL, 0)) * 1000 - GRACE
