"""A dramatiq message as subject, headers and body, and back; plain values, no I/O."""

from __future__ import annotations

from .headers import (
    ACTOR,
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    EXPECTED_LAST_ID,
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT_SEQUENCE,
    MESSAGE_ID,
    MSG_ID,
    OPTIONS,
    SCHEDULE,
    SCHEDULE_TARGET,
    SCHEDULER,
    STATE,
    TIMESTAMP,
    TTL,
    Headers,
    quote_text,
    ttl_value,
    unquote_text,
)
from .origin import Origin, Source, deliveries_of, pending_of
from .payloads import AnyMessage, DramatiqPayload, JsonPayload, PayloadFormat
from .publication import Publication, message_id_of, new_id

__all__ = [
    "ACTOR",
    "BATCH_COMMIT",
    "BATCH_ID",
    "BATCH_SEQUENCE",
    "EXPECTED_LAST_ID",
    "EXPECTED_SEQUENCE",
    "EXPECTED_SUBJECT_SEQUENCE",
    "MESSAGE_ID",
    "MSG_ID",
    "OPTIONS",
    "SCHEDULE",
    "SCHEDULER",
    "SCHEDULE_TARGET",
    "STATE",
    "TIMESTAMP",
    "TTL",
    "AnyMessage",
    "DramatiqPayload",
    "Headers",
    "JsonPayload",
    "Origin",
    "PayloadFormat",
    "Publication",
    "Source",
    "deliveries_of",
    "message_id_of",
    "new_id",
    "pending_of",
    "quote_text",
    "ttl_value",
    "unquote_text",
]
