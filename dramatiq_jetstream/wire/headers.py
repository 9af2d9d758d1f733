"""The headers of messages: the server's, and those of this package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import quote, unquote

from ..options import LONGEST

Headers = Mapping[str, str]

MSG_ID = "Nats-Msg-Id"
TTL = "Nats-TTL"
BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
EXPECTED_LAST_ID = "Nats-Expected-Last-Msg-Id"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Sequence"
EXPECTED_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
SCHEDULE = "Nats-Schedule"
SCHEDULE_TARGET = "Nats-Schedule-Target"
#: Set by the server on scheduled messages that it delivers.
SCHEDULER = "Nats-Scheduler"

ACTOR = "Dramatiq-Actor"
MESSAGE_ID = "Dramatiq-Message-Id"
OPTIONS = "Dramatiq-Options"
TIMESTAMP = "Dramatiq-Timestamp"
#: This package's bookkeeping of a message, separate from the application's options.
STATE = "Dramatiq-State"


def ttl_value(milliseconds: float) -> str:
    """A time to live as the server takes it: whole seconds, rounded up, at least one and at most a hundred years.

    What the server cannot express in 64 bits of nanoseconds would expire at once.
    """
    return str(max(math.ceil(min(milliseconds, LONGEST) / 1000), 1))


def quote_text(text: str) -> str:
    """Encode any text as a header's value, which cannot contain line breaks or leading and trailing spaces."""
    return quote(text, safe="/:", errors="surrogatepass")


def unquote_text(value: str) -> str:
    """The text that :func:`quote_text` encoded as a header's value."""
    return unquote(value, errors="surrogatepass")
