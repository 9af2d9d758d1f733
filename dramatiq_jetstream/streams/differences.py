"""Compares the configuration on the server with the declared one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import Difference
from ..names import covers
from .route import Config

_UNLIMITED = {
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msg_size": -1,
    "max_age": 0,
    "max_deliver": -1,
    "max_ack_pending": -1,
}
_DURATIONS = frozenset({"max_age", "duplicate_window", "ack_wait"})


def differences(expected: Config, found: Config, demands: Iterable[str]) -> list[Difference]:
    """Compare the demanded fields.

    A looser limit, a longer memory, more replicas and further subjects on the server are fine, and
    so is a shorter ack_wait, because workers renew by what the server has.
    """
    unfit = []
    for name in sorted(demands):
        want, have = expected.get(name), found.get(name)
        if not _RULES.get(name, _same)(name, want, have):
            unfit.append(Difference(name, _readable(name, want), _readable(name, have)))
    return unfit


def missing_subjects(stream: Config, subject: str) -> list[Difference]:
    """What is different in a stream that does not listen on a subject."""
    subjects = stream.get("subjects") or []
    return [] if any(covers(wide, subject) for wide in subjects) else [Difference("subjects", [subject], subjects)]


def push_delivery(consumer: Config) -> list[Difference]:
    """What is different in a consumer that pushes its messages instead of having them pulled."""
    target = consumer.get("deliver_subject")
    return [Difference("deliver_subject", "none (a pull consumer)", target)] if target else []


def eviction(stream: Config) -> list[Difference]:
    """What is different in a stream that drops its oldest messages to make room."""
    limited = any(stream.get(name, -1) > 0 for name in ("max_msgs", "max_bytes"))
    found = stream.get("discard", "old")
    return [Difference("discard", "new", found)] if limited and found != "new" else []


def _bound(name: str, value: Any) -> float:
    return math.inf if value is None or value == _UNLIMITED.get(name, object()) else float(value)


def _same(name: str, want: Any, have: Any) -> bool:
    return bool(want == have)


def _at_least(name: str, want: Any, have: Any) -> bool:
    return _bound(name, have) >= _bound(name, want)


def _at_most(name: str, want: Any, have: Any) -> bool:
    return _bound(name, have) <= _bound(name, want)


def _superset(name: str, want: Any, have: Any) -> bool:
    return all(any(covers(pattern, subject) for pattern in have or []) for subject in want)


_RULES: dict[str, Callable[[str, Any, Any], bool]] = {
    "subjects": _superset,
    "ack_wait": _at_most,
    **dict.fromkeys([*_UNLIMITED, "num_replicas", "duplicate_window"], _at_least),
}


def _readable(name: str, value: Any) -> Any:
    if name in _DURATIONS and value:
        return f"{value / 1_000_000_000:.12g}s"
    return "unlimited" if name in _UNLIMITED and value == _UNLIMITED[name] else value
