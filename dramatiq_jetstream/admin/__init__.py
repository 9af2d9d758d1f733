"""Looking after queues: plain functions that any program can call, and frozen dataclasses that they return.

Each takes a :class:`~dramatiq_jetstream.JetStreamBroker`, whose queues it looks after.  A broker of an
application has them declared; :func:`discover` declares those that a server has.  Times are integer
milliseconds, and moments UNIX milliseconds.  Nothing here prints.
"""

from __future__ import annotations

from .attempts import AttemptsView, attempts
from .dead import DeadFilter, DeadSummary, Requeued, purge_dead, requeue_dead, select_dead, summarise_dead
from .delays import DelayedView, cancel_delayed, list_delayed, run_delayed
from .doctor import examine
from .events import Event, follow_events, read_event
from .finding import Finding
from .grouping import grouped
from .messages import StoredView, find_message, peek, show
from .outside import Unseen, dead_by_queue_and_actor, is_empty, namespaces, unseen
from .plan import Checked, Warned, check, make, nats_commands, update, warnings
from .queues import FOR_EVER, QueueView, discover, pause, purge, rates, resume, sample, total, view, views
from .roles import ROLES, Probe, probe
from .waiting import announced

__all__ = [
    "FOR_EVER",
    "ROLES",
    "AttemptsView",
    "Checked",
    "DeadFilter",
    "DeadSummary",
    "DelayedView",
    "Event",
    "Finding",
    "Probe",
    "QueueView",
    "Requeued",
    "StoredView",
    "Unseen",
    "Warned",
    "announced",
    "attempts",
    "cancel_delayed",
    "check",
    "dead_by_queue_and_actor",
    "discover",
    "examine",
    "find_message",
    "follow_events",
    "grouped",
    "is_empty",
    "list_delayed",
    "make",
    "namespaces",
    "nats_commands",
    "pause",
    "peek",
    "probe",
    "purge",
    "purge_dead",
    "rates",
    "read_event",
    "requeue_dead",
    "resume",
    "run_delayed",
    "sample",
    "select_dead",
    "show",
    "summarise_dead",
    "total",
    "unseen",
    "update",
    "view",
    "views",
    "warnings",
]
