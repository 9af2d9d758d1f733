"""One connection per process, and everything that knows how nats-py works inside."""

from __future__ import annotations

from .border import NoResponders, readable
from .commands import DESCRIPTION, STATUS, parse_headers, publish_command
from .connection import Connection
from .loop_thread import check_may_block
from .outbox import OnReconnect, OutboxItem
from .publisher import Outcome, Receipt
from .reconnecting_client import RESERVED_OPTIONS
from .requests import NO_LEADER_PAUSE
from .server_errors import (
    ALREADY_EXISTS,
    BATCH_INCOMPLETE,
    DUPLICATE_IN_BATCH,
    MESSAGE_NOT_FOUND,
    MESSAGE_TOO_LARGE,
    NO_ATOMIC_BATCHES,
    NO_SCHEDULES,
    SEQUENCE_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    is_unknown,
)
from .session import Session
from .subscriptions import Listening, Subscription
from .threads import Buffer, Slot, is_green, new_buffer, new_slot

__all__ = [
    "ALREADY_EXISTS",
    "BATCH_INCOMPLETE",
    "DESCRIPTION",
    "DUPLICATE_IN_BATCH",
    "MESSAGE_NOT_FOUND",
    "MESSAGE_TOO_LARGE",
    "NO_ATOMIC_BATCHES",
    "NO_LEADER_PAUSE",
    "NO_SCHEDULES",
    "RESERVED_OPTIONS",
    "SEQUENCE_NOT_FOUND",
    "STATUS",
    "WRONG_LAST_SEQUENCE",
    "Buffer",
    "Connection",
    "Listening",
    "NoResponders",
    "OnReconnect",
    "OutboxItem",
    "Outcome",
    "Receipt",
    "Session",
    "Slot",
    "Subscription",
    "check_may_block",
    "is_green",
    "is_unknown",
    "new_buffer",
    "new_slot",
    "parse_headers",
    "publish_command",
    "readable",
]
