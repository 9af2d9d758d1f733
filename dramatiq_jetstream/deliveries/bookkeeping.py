"""This package's state of a message, kept apart from the application's options.

It is stored in one header of copies and of attempt records.  Earlier versions stored it in the options; this form is
still read where it is unambiguous.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..wire import STATE, Headers

#: The longest header that is read, in characters.
MAX_STATE = 4_096

#: What an earlier version's copy names as the message it continues: stream, sequence and time of storing.
#: The time is of nineteen digits, as nanoseconds have been since 2001: no application writes that by chance.
_OLD_ORIGIN = re.compile(r"[^:]+:\d+\.\d{19}")

#: The longest text that is accepted as an identity: a stream's name has at most 255 characters.
MAX_NAME = 300

#: The names under which earlier versions kept things among the options.
_OLD_NAMES = {
    "origin": "origin",
    "not_before": "not_before",
    "handoff_failures": "handoffs",
    "unknown_actor_since": "unknown_since",
}


@dataclass(frozen=True)
class Bookkeeping:
    """This package's state of a message.

    Parameters:
      origin(str): The identity of the message that a copy continues; None if this is not a copy.
      not_before(int): The earliest time to run a copy in a stream without a scheduler, in UNIX milliseconds; 0 for now.
      handoffs(int): How often it was redelivered because a hook could not enqueue its message.
      unknown_since(int): Since when no worker declares its actor, in UNIX milliseconds; 0 if one does.
      ended(str): Why it is a dead letter, if that could not be stored yet.
    """

    origin: str | None = None
    not_before: int = 0
    handoffs: int = 0
    unknown_since: int = 0
    ended: str | None = None

    @classmethod
    def read(cls, headers: Headers) -> Bookkeeping:
        """Read the header; a value in another format is ignored."""
        text = headers.get(STATE, "")
        if not text or len(text) > MAX_STATE:
            return cls()
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        return cls.of(found) if isinstance(found, dict) else cls()

    @classmethod
    def of(cls, found: dict[str, Any]) -> Bookkeeping:
        """The fields of an object that have the right types."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in names and _is_sound(name, value)})

    @classmethod
    def of_old_record(cls, options: dict[str, Any]) -> Bookkeeping:
        """Remove the state that an earlier version's attempt record stored in the options, and return it."""
        return cls.of({ours: options.pop(name) for name, ours in _OLD_NAMES.items() if name in options})

    @classmethod
    def take_old(cls, options: dict[str, Any]) -> Bookkeeping:
        """Remove the state that an earlier version's copy stored in its options, and return it."""
        origin = options.get("origin")
        if not (isinstance(origin, str) and _OLD_ORIGIN.fullmatch(origin)):
            return cls()
        return cls.of_old_record(options)

    @property
    def header(self) -> str:
        """The header's value."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, separators=(",", ":"))


def _is_sound(name: str, value: object) -> bool:
    if name in ("origin", "ended"):
        return isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**63
