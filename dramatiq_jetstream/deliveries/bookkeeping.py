"""What this package remembers of a message, kept apart from the application's options.

It travels in one header of copies and of attempt records.  Earlier versions kept it among the options; that is
still read where nothing else can be meant.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..wire import STATE, Headers

#: The longest header that is read as ours, in characters.
MAX_STATE = 4_096

#: What an earlier version's copy names as the message it continues: stream, sequence and time of storing.
#: The time is of nineteen digits, as nanoseconds have been since 2001: no application writes that by chance.
_OLD_ORIGIN = re.compile(r"[^:]+:\d+\.\d{19}")

#: The longest text that is taken for ours: a stream's name has 255 characters at most.
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
    """This package's own notes on a message.

    Parameters:
      origin(str): What tells the message that a copy continues from every other; None if it is no copy.
      not_before(int): When a copy may run whose stream has no scheduler, in UNIX milliseconds; 0 for at once.
      handoffs(int): How often it came back because a hook could not hand its work on.
      unknown_since(int): Since when no worker was found that knows its actor, in UNIX milliseconds; 0 if one was.
      ended(str): Why it is a dead letter, if that could not be stored yet.
    """

    origin: str | None = None
    not_before: int = 0
    handoffs: int = 0
    unknown_since: int = 0
    ended: str | None = None

    @classmethod
    def read(cls, headers: Headers) -> Bookkeeping:
        """Read the header; what anybody else wrote there counts as nothing."""
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
        """What is of the right types in an object."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in names and _is_sound(name, value)})

    @classmethod
    def of_old_record(cls, options: dict[str, Any]) -> Bookkeeping:
        """Take what an earlier version's attempt record kept among the options out of them."""
        return cls.of({ours: options.pop(name) for name, ours in _OLD_NAMES.items() if name in options})

    @classmethod
    def take_old(cls, options: dict[str, Any]) -> Bookkeeping:
        """Take what an earlier version's copy kept among its options out of them."""
        origin = options.get("origin")
        if not (isinstance(origin, str) and _OLD_ORIGIN.fullmatch(origin)):
            return cls()
        return cls.of_old_record(options)

    @property
    def header(self) -> str | None:
        """The header's value; None if there is nothing to say."""
        said = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(said, separators=(",", ":")) if said else None


def _is_sound(name: str, value: object) -> bool:
    if name in ("origin", "ended"):
        return isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**63
