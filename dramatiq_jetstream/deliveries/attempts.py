"""Records of attempts, stored apart from the message between two deliveries.

A redelivered message has the options with which it was sent; the record restores those its last attempt changed.
No message is lost without a record: the attempt runs anyway.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

from dramatiq.message import get_encoder

from ..client import OutboxItem, Session, publish_command
from ..errors import BrokerError, text_of
from ..logs import get_logger, repeated
from ..names import Names, escape
from ..streams import StoredMessage, bucket_config, helper_requirement, reading
from ..wire import STATE, TTL, Headers, quote_text, unquote_text
from .bookkeeping import Bookkeeping
from .delivery import MAX_DELAY, AttemptRecord, Delivery, cut_text

#: Milliseconds for which a record is kept after the delay before the next delivery.
GRACE = 86_400_000

#: Seconds to wait for a record before the message is delivered without it.
RECALL_TIMEOUT = 2.0

#: Seconds that storing a record may take.
STORING = 0.1

#: The largest value of one option in a record, in bytes of JSON.  A longer text is cut; any other larger value is
#: left out.  dramatiq stores a traceback there, which contains the exception's whole text.
MAX_OPTION = 32 * 1024

#: The largest record, in bytes of JSON.
MAX_RECORD = 256 * 1024

ATTEMPT = "Dramatiq-Attempt"
RETURNED = "Dramatiq-Returned"
REMOVED = "Dramatiq-Removed"

#: In records of earlier versions, the option that lists the options an attempt removed.
_OLD_REMOVED = "removed_options"


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
        """Create the bucket, or continue without it."""
        try:
            await self.requirement.ensure(session)
        except BrokerError as error:
            self.logger.warning("Options that an attempt changes are not passed on to the next attempt: %s", error)

    def remember(self, session: Session, delivery: Delivery, record: AttemptRecord, delay: float) -> None:
        """Record how a delivery ended; sent without waiting.

        Parameters:
          session(Session): The live connection.
          delivery(Delivery): The delivery.
          record(AttemptRecord): The record to store.
          delay(float): The milliseconds until the next delivery.
        """
        headers = {
            TTL: str(max(math.ceil((min(delay, MAX_DELAY) + GRACE) / 1000), 1)),
            ATTEMPT: str(record.attempt),
            RETURNED: str(record.returned),
            STATE: record.bookkeeping.header,
        }
        if record.removed:
            headers[REMOVED] = quote_text(json.dumps(record.removed))[:MAX_OPTION]
        body = self._encode(delivery, record.options)
        session.outbox.send(OutboxItem(publish_command(self._subject(delivery), body, headers=headers)))

    async def recall(self, session: Session, delivery: Delivery) -> AttemptRecord | None:
        """Read the attempt record of a message, if there is one; never raises."""
        record = None
        try:
            record = await self._ask(session, delivery)
            if record is None or record.attempt < delivery.origin.deliveries - 1:
                # The record was sent before the negative acknowledgement, but may be stored after it.
                await asyncio.sleep(STORING)
                record = await self._ask(session, delivery)
        except BrokerError as error:
            self.logger.debug("No record of %s: %s", delivery, error)
        except Exception:
            self.logger.exception(
                "The record of message %s cannot be read; it is delivered without it.",
                delivery,
                extra=repeated(delivery.origin.stream),
            )
        return record

    async def _ask(self, session: Session, delivery: Delivery) -> AttemptRecord | None:
        subject = f"{session.api}.DIRECT.GET.KV_{self.bucket}.{self._subject(delivery)}"
        found = await session.ask(subject, b"", None, RECALL_TIMEOUT)
        headers = found.headers or {}
        return self._read(headers, found.data) if ATTEMPT in headers else None

    async def due_times(self, session: Session, stream: str, held: Sequence[StoredMessage]) -> dict[int, int]:
        """When each retry of a stream's messages is due, in UNIX milliseconds, up to a second late, by sequence.

        At most 1,024 messages can be asked about; those without a record are left out.
        """
        sequences = {
            self._subject_of(stream, message.sequence, message.timestamp): message.sequence for message in held
        }
        records = await reading.read_last(session, f"KV_{self.bucket}", list(sequences))
        return {sequences[record.subject]: _due(record) for record in records}

    async def find(self, session: Session, message: StoredMessage) -> tuple[AttemptRecord, int, int] | None:
        """The record of a stored message, when it was stored and when the retry is due, in UNIX milliseconds.

        None if there is no record, or none that can be read.
        """
        subject = self._subject_of(message.stream, message.sequence, message.timestamp)
        for found in await reading.read_last(session, f"KV_{self.bucket}", [subject]):
            try:
                record = self._read(found.headers, found.body)
            except Exception as error:
                self.logger.debug("The record of %s:%d cannot be read: %r", message.stream, message.sequence, error)
                continue
            return record, found.timestamp // 1_000_000, _due(found)
        return None

    def _subject(self, delivery: Delivery) -> str:
        origin = delivery.origin
        return self._subject_of(origin.stream, origin.sequence, origin.timestamp)

    def _subject_of(self, stream: str, sequence: int, timestamp: int) -> str:
        return f"$KV.{self.bucket}.{escape(stream)}.{sequence}.{timestamp}"

    def _read(self, headers: Headers, body: bytes) -> AttemptRecord:
        options = dict(get_encoder().decode(body)) if body else {}
        removed: Any = json.loads(unquote_text(headers[REMOVED])) if REMOVED in headers else ()
        if STATE in headers:
            bookkeeping = Bookkeeping.read(headers)
        else:
            removed = options.pop(_OLD_REMOVED, ())
            bookkeeping = Bookkeeping.of_old_record(options)
        names = [name for name in removed if isinstance(name, str)] if isinstance(removed, (list, tuple)) else []
        return AttemptRecord(int(headers[ATTEMPT]), int(headers.get(RETURNED, 0)), options, names, bookkeeping)

    def _encode(self, delivery: Delivery, options: dict[str, Any]) -> bytes:
        kept: dict[str, Any] = {}
        size = 0
        for name, value in options.items():
            fitting, length = self._fit(delivery, name, value)
            size += length
            if length and size <= MAX_RECORD:
                kept[name] = fitting
        return get_encoder().encode(kept) if kept else b""

    def _fit(self, delivery: Delivery, name: str, value: Any) -> tuple[Any, int]:
        """A value as it is remembered, and its length in bytes; 0 if it cannot be."""
        if isinstance(value, str) and len(value) > MAX_OPTION // 6:
            # The end of a traceback is more useful than its beginning.
            value = cut_text(value, MAX_OPTION // 6)
        try:
            length = len(get_encoder().encode({name: value}))
        except Exception as error:
            reason = text_of(error)
        else:
            if length <= MAX_OPTION:
                return value, length
            reason = f"it takes {length} bytes"
        self.logger.warning(
            "Option %r of message %s is not passed on to the next attempt: %s",
            name,
            delivery,
            reason,
            extra=repeated(name),
        )
        return None, 0


def _due(record: StoredMessage) -> int:
    """When the message of a record is delivered again, in UNIX milliseconds; 0 if the record does not say."""
    seconds = record.headers.get(TTL, "")
    if not (seconds.isascii() and seconds.isdecimal()):
        # The server takes durations such as "1h", too.
        return 0
    return record.timestamp // 1_000_000 + int(seconds) * 1000 - GRACE
