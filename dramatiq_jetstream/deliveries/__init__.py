"""A message on its way in: pulled by credit, held under a lease, with what is known of earlier attempts."""

from __future__ import annotations

from .actor_options import ActorOptions
from .after_actor import after_actor_hooks, run_after_actor_hooks
from .attempts import AttemptRecords
from .delivery import ACK, ORIGIN, AttemptRecord, Delivery, JetStreamMessage, nak
from .prefetch import Prefetch
from .puller import Puller

__all__ = [
    "ACK",
    "ORIGIN",
    "ActorOptions",
    "AttemptRecord",
    "AttemptRecords",
    "Delivery",
    "JetStreamMessage",
    "Prefetch",
    "Puller",
    "after_actor_hooks",
    "nak",
    "run_after_actor_hooks",
]
