"""Messages that could not be handled: stored, listed, requeued; those of crash loops included."""

from __future__ import annotations

from .archive import OUTSTANDING, DeadLetters
from .entry import DeadLetter
from .exhausted import ExhaustedMessages
from .letter import Failure, Reason, reason_of
from .storing import DeadLetterStore

__all__ = [
    "OUTSTANDING",
    "DeadLetter",
    "DeadLetterStore",
    "DeadLetters",
    "ExhaustedMessages",
    "Failure",
    "Reason",
    "reason_of",
]
