"""A message on its way out: encoded, published, delayed, or one of a batch."""

from __future__ import annotations

from . import scheduled
from .atomic_batch import AtomicBatch
from .batch import Batch, PipelinedBatch
from .outgoing import Sender, check_delay, due_at, publication
from .queue import Queue
from .scheduled import DelayedMessage, due_of

__all__ = [
    "AtomicBatch",
    "Batch",
    "DelayedMessage",
    "PipelinedBatch",
    "Queue",
    "Sender",
    "check_delay",
    "due_at",
    "due_of",
    "publication",
    "scheduled",
]
