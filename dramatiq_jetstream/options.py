"""The allowed values of the options of actors, messages and middleware.

dramatiq's middleware reads options only while a message runs or after it failed.  Values on which it would fail are
refused earlier, when they are declared or sent.  All other values have the same meaning as in dramatiq.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeGuard

#: The longest time in milliseconds, a hundred years: the server counts nanoseconds since 1970 in 64 bits.
LONGEST = 36_525 * 86_400_000

#: This number of retries or more counts as no limit.
UNLIMITED = 2**31

_ATTRIBUTES = ("max_retries", "min_backoff", "max_backoff", "retry_when", "time_limit", "max_age")


class Rule(NamedTuple):
    """The allowed values of an option.

    Parameters:
      allowed(str): A description of the allowed values, for error texts.
      accepts(Callable): Whether a value is allowed.
      plain(Callable): The value as it is sent: an integer instead of a float, which every consumer can read.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    plain: Callable[[Any], Any] = lambda value: value


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is an integer or a float, and not NaN."""
    return isinstance(value, int | float) and value == value


def milliseconds(value: Any) -> int | None:
    """A time as integer milliseconds from 0 to a hundred years; None if the value is not a time."""
    if isinstance(value, timedelta):
        value = value.total_seconds() * 1000
    if not is_number(value):
        return None
    return math.ceil(min(max(value, 0), LONGEST))


def retry_limit(value: float) -> int | None:
    """How many retries a number allows; None if it does not limit them."""
    return math.ceil(max(value, 0)) if value < UNLIMITED else None


def _none_or(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _is_count(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_time(value: Any) -> bool:
    return is_number(value) and 0 <= value <= LONGEST


def _is_time_or_infinite(value: Any) -> bool:
    return _is_time(value) or value == math.inf


def _is_throws(value: Any) -> bool:
    try:
        return isinstance(Exception(), value) in (True, False)
    except TypeError:
        return not value


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _plain_ttl(value: float) -> int:
    # 0 keeps a dead letter for ever.
    return 0 if value == math.inf else math.ceil(value)


_TIME = f"a number of milliseconds from 0 to {LONGEST} (100 years)"
_NAME = Rule("the name of an actor", _none_or(_is_name))

_RULES: dict[str, Rule] = {
    "max_retries": Rule("a number from 0 up, or None for no limit", _none_or(_is_count), retry_limit),
    "min_backoff": Rule(_TIME, _is_time),
    "max_backoff": Rule(f'{_TIME}, or float("inf")', _is_time_or_infinite, lambda value: min(value, LONGEST)),
    "time_limit": Rule(f'{_TIME}, or float("inf") for no limit', _is_time_or_infinite),
    "max_age": Rule(f"{_TIME}, or None for no limit", _none_or(_is_time_or_infinite)),
    "dead_message_ttl": Rule(
        f"{_TIME}, 0 for ever, or None for the broker's", _none_or(_is_time_or_infinite), _plain_ttl
    ),
    "throws": Rule("an exception class or a tuple of such", _is_throws, lambda value: value or None),
    "retry_when": Rule("a function of the retries and the exception, or None", _none_or(callable)),
    "on_retry_exhausted": _NAME,
    "on_success": _NAME,
    "on_failure": _NAME,
}

#: The options of messages; dramatiq does not read a retry_when of a message.
_MESSAGE_RULES = {name: rule for name, rule in _RULES.items() if name != "retry_when"} | {
    "retries": Rule("a whole number", lambda value: isinstance(value, int) and abs(value) <= 2**63),
    "pipe_target": Rule("a message as a dictionary", lambda value: isinstance(value, dict)),
    "group_completion_callbacks": Rule("a list of messages", lambda value: isinstance(value, list)),
}


def check_actor(name: str, priority: Any, options: Mapping[str, Any]) -> None:
    """Refuse options and priorities on which dramatiq's middleware or its work queue would fail.

    Parameters:
      name(str): The actor's name.
      priority(int): Its priority.
      options(Mapping): Its options.

    Raises:
      ValueError: If an option is invalid.  The text names the actor, the option and the allowed values.
    """
    if not is_number(priority):
        raise ValueError(_sentence(f"actor {name!r}", "priority", "a number", priority))
    for option in _RULES.keys() & options.keys():
        _check(f"actor {name!r}", option, _RULES[option], options[option])


def check_middleware(middleware: object) -> None:
    """Raise ValueError for defaults on which a middleware of dramatiq would fail."""
    for option in _ATTRIBUTES:
        if hasattr(middleware, option):
            _check(f"middleware {type(middleware).__name__}", option, _RULES[option], getattr(middleware, option))


def check_message(actor_name: str, options: Mapping[str, Any], delay: Any) -> dict[str, Any]:
    """Check the options and delay of a message, and of messages that follow it in a pipeline or after a group.

    Parameters:
      actor_name(str): The actor that the message is for.
      options(Mapping): Its options.
      delay(int): The delay in milliseconds, or None.

    Raises:
      ValueError: If one of them is invalid.  The text names the actor, the option and the allowed values.

    Returns:
      dict[str, Any]: The options whose values are converted before sending.
    """
    _check_delay(actor_name, delay)
    if not options:
        return {}
    plain = {option: _MESSAGE_RULES[option].plain(value) for option, value in _judged(actor_name, options)}
    for name, following in _following(options):
        _check_delay(name, following.get("delay"))
        for _ in _judged(name, following):
            pass
    return {option: value for option, value in plain.items() if value is not options[option]}


def _check_delay(actor_name: str, delay: Any) -> None:
    if delay is not None and not (is_number(delay) and delay <= LONGEST):
        allowed = f"a number of milliseconds up to {LONGEST} (100 years)"
        raise ValueError(_sentence(f"a message to actor {actor_name!r}", "delay", allowed, delay))


def _judged(actor_name: str, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The checked options that have a rule.  None counts as not set, so it is always allowed."""
    for option in _MESSAGE_RULES.keys() & options.keys():
        value = options[option]
        if value is not None:
            _check(f"a message to actor {actor_name!r}", option, _MESSAGE_RULES[option], value)
            yield option, value


def _following(options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The actors and options of messages contained in other messages' options, each once."""
    pending, seen = [options], set[int]()
    while pending:
        outer = pending.pop()
        for target in (outer.get("pipe_target"), *(outer.get("group_completion_callbacks") or ())):
            inner = target.get("options") if isinstance(target, dict) else None
            if isinstance(inner, dict) and id(inner) not in seen:
                seen.add(id(inner))
                pending.append(inner)
                yield str(target.get("actor_name")), inner


def _check(whose: str, option: str, rule: Rule, value: Any) -> None:
    if not rule.accepts(value):
        raise ValueError(_sentence(whose, option, rule.allowed, value))


def _sentence(whose: str, option: str, allowed: str, value: Any) -> str:
    return f"{whose}: {option} must be {allowed}, not {_shown(value)}"


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:
        # The repr of an integer with thousands of digits raises, and so may a custom __repr__.
        return f"a value of type {type(value).__name__}"
