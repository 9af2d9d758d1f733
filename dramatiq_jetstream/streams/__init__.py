"""What exists on the server: streams, consumers and buckets, how they are made, read and counted."""

from __future__ import annotations

from .changes import Change
from .counts import QueueCounts, QueueState, count, count_held, inspect, purge, wait_until_done
from .helpers import bucket_config, dead_letter_config
from .key_value import KeyValue
from .reading import StoredMessage
from .required import (
    Ensured,
    Requirement,
    bucket_requirement,
    consumer_requirement,
    helper_requirement,
    queue_requirements,
    stream_requirement,
)
from .route import Config, Limits, Route, limits

__all__ = [
    "Change",
    "Config",
    "Ensured",
    "KeyValue",
    "Limits",
    "QueueCounts",
    "QueueState",
    "Requirement",
    "Route",
    "StoredMessage",
    "bucket_config",
    "bucket_requirement",
    "consumer_requirement",
    "count",
    "count_held",
    "dead_letter_config",
    "helper_requirement",
    "inspect",
    "limits",
    "purge",
    "queue_requirements",
    "stream_requirement",
    "wait_until_done",
]
