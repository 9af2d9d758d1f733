"""Checks that refuse messages which would end dramatiq's threads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dramatiq import Actor

#: The maximum nesting of lists and objects.  dramatiq's threads log their messages; if that reaches
#: Python's recursion limit, the thread ends.  Each step of a pipeline takes two levels.
MAX_NESTING = 500

_NESTING = (dict, list, tuple)
_NUMBER = (int, float)
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "retries": (int,),
    "max_retries": (int,),
    "min_backoff": _NUMBER,
    "max_backoff": _NUMBER,
    "max_age": _NUMBER,
    "time_limit": _NUMBER,
    "on_retry_exhausted": (str,),
    "pipe_target": (dict,),
    "group_completion_callbacks": (list,),
    "throws": (type, tuple),
    "dead_message_ttl": (int,),
}

#: Options that may be infinite.
_UNBOUNDED = frozenset({"max_age", "time_limit"})


_FIELD_TYPES: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("queue_name", (str,)),
    ("actor_name", (str,)),
    ("args", (list, tuple)),
    ("kwargs", (dict,)),
    ("options", (dict,)),
    ("message_id", (str,)),
    ("message_timestamp", (int,)),
)


def check_fields(fields: Any) -> None:
    """Refuse fields that dramatiq's decoder accepts but its threads fail on."""
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object, found {type(fields).__name__}")
    for name, types in _FIELD_TYPES:
        if not isinstance(fields.get(name), types):
            raise ValueError(f"{name} must be {types[0].__name__}, found {fields.get(name)!r:.80}")
    args, kwargs, options = fields["args"], fields["kwargs"], fields["options"]
    if args or kwargs or options:
        if not all(isinstance(name, str) for name in kwargs):
            raise ValueError("kwargs must have names for keys")
        check_nesting(fields)
        check_options(options)


def check_options(options: dict[str, Any]) -> None:
    """Refuse options on which dramatiq's middleware would fail after the actor ran.

    Null counts as not set, so it is removed; except for max_retries, where it means no limit.
    """
    for name in _OPTION_TYPES.keys() & options.keys():
        types, value = _OPTION_TYPES[name], options[name]
        if value is None:
            if name != "max_retries":
                del options[name]
        elif not isinstance(value, types):
            raise ValueError(f"option {name} must be {types[0].__name__}, found {value!r:.80}")
        elif isinstance(value, _NUMBER) and not _in_range(name, value):
            raise ValueError(f"option {name} is out of range")


def _in_range(name: str, value: float) -> bool:
    return abs(value) <= 2**63 or (name in _UNBOUNDED and value == math.inf)


def check_targets(options: dict[str, Any], actors: Mapping[str, Actor[..., Any]]) -> None:
    """Refuse options that send follow-up messages to actors or queues that are not declared here.

    Otherwise a sender of plain JSON could have streams with arbitrary names created.
    """
    waiting = [options]
    while waiting:
        current = waiting.pop()
        callbacks = current.get("group_completion_callbacks")
        for target in (current.get("pipe_target"), *(callbacks if isinstance(callbacks, list) else ())):
            if target is not None:
                waiting.append(_options_of_target(target, actors))


def _options_of_target(target: Any, actors: Mapping[str, Actor[..., Any]]) -> dict[str, Any]:
    check_fields(target)
    actor = actors.get(target["actor_name"])
    if actor is None or actor.queue_name != target["queue_name"]:
        raise ValueError(
            f"it leads on to the actor {target['actor_name']!r:.80} of queue {target['queue_name']!r:.80}, which is "
            "not declared here"
        )
    options: dict[str, Any] = target["options"]
    return options


def check_nesting(value: Any) -> None:
    """Refuse values that are nested too deeply.  Works level by level, without recursion, each value once."""
    level = [value]
    for _ in range(MAX_NESTING):
        inner = [item for outer in level for item in _items(outer) if isinstance(item, _NESTING)]
        if not inner:
            return
        level = list({id(item): item for item in inner}.values())
    raise ValueError(f"it is nested more than {MAX_NESTING} levels deep")


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
