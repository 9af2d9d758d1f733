"""A message on its way in: pulled by credit, held under a lease, with the records of earlier attempts."""

from __future__ import annotations

from .actor_options import ActorOptions
from .after_actor import after_actor_hooks, is_permanent, run_after_actor_hooks
from .attempts import AttemptRecords
from .bookkeeping import Bookkeeping
from .delivery import ACK, MAX_DELAY, AttemptRecord, Delivery, JetStreamMessage, cut_text, nak
from .prefetch import Prefetch
from .puller import Puller

__all__ = [
    "ACK",
    "MAX_DELAY",
    "ActorOptions",
    "AttemptRecord",
    "AttemptRecords",
    "Bookkeeping",
    "Delivery",
    "JetStreamMessage",
    "Prefetch",
    "Puller",
    "after_actor_hooks",
    "cut_text",
    "is_permanent",
    "nak",
    "run_after_actor_hooks",
]
