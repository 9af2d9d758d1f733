"""What must stand on the server: pure builders of its configuration, and an idempotent ensure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import ApiError, ConfigMismatch, ConsumerNotFound, Difference, StreamNotFound
from .names import Names, covers
from .session import Session
from .settings import DEFAULT_ACK_WAIT, DEFAULT_DUPLICATE_WINDOW, WorkQueue

Config = dict[str, Any]

#: For how long the dead-letter stream remembers message ids: a move that a crash interrupted is
#: repeated within this time and still yields one entry.
DEAD_LETTER_WINDOW = 86_400_000

#: For how long a bucket remembers message ids: longer than a write is repeated, and short, because
#: rate limiters write often.
BUCKET_WINDOW = 30_000

#: Pull requests that may wait at a queue's consumer.  The server's default of 512 would be used up
#: by some two hundred worker processes.
MAX_WAITING = 8_192

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
#: The stream or consumer was made by somebody else in the meantime.
ALREADY_EXISTS = frozenset({10058, 10065, 10148, 10105, 10013})

_NANOSECONDS = 1_000_000
_UNLIMITED = {
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msg_size": -1,
    "max_age": 0,
    "max_deliver": -1,
    "max_ack_pending": -1,
}
_DURATIONS = frozenset({"max_age", "duplicate_window", "ack_wait"})


class Limits(NamedTuple):
    """The server's settings that a worker has to go by.

    Parameters:
      ack_wait(int): In milliseconds.
      max_deliver(int): None if unlimited.
    """

    ack_wait: int
    max_deliver: int | None


@dataclass(frozen=True)
class Route:
    """One queue's place on the server.

    Parameters:
      queue_name(str): dramatiq's name of the queue.
      settings(WorkQueue): How it is kept.
      names(Names): The names of its namespace.
      replicas(int): How many servers keep it, unless its settings say.
    """

    queue_name: str
    settings: WorkQueue
    names: Names
    replicas: int = 1

    @property
    def stream(self) -> str:
        return self.settings.stream or self.names.stream(self.queue_name)

    @property
    def consumer(self) -> str:
        return self.settings.consumer or self.names.consumer

    @property
    def filter(self) -> str:
        """The subjects of messages that the consumer delivers."""
        return self.settings.subject or self.names.work_subject(self.queue_name)

    def subject(self, actor_name: str) -> str:
        """The subject of a message to an actor."""
        return self.settings.subject or self.names.work_subject(self.queue_name, actor_name)

    def describe(self) -> str:
        return f"queue {self.queue_name!r} (stream {self.stream!r})"

    def stream_config(self) -> Config:
        """The stream as it would be made."""
        ours = self.settings
        subjects = list(ours.stream_subjects) or [self.filter]
        config: Config = {
            "name": self.stream,
            "subjects": subjects,
            "retention": "workqueue",
            "storage": "file",
            "num_replicas": ours.replicas or self.replicas,
            "discard": ours.discard or "old",
            "max_msgs": ours.max_msgs or -1,
            "max_bytes": ours.max_bytes or -1,
            "max_msg_size": ours.max_msg_size or -1,
            "max_age": 0,
            "max_consumers": -1,
            "duplicate_window": (ours.duplicate_window or DEFAULT_DUPLICATE_WINDOW) * _NANOSECONDS,
        }
        if not ours.bound:
            config |= {"allow_direct": True, "allow_atomic": True}
        if ours.allows_delays:
            subjects.append(self.names.delayed_subject(self.queue_name))
            config["allow_msg_schedules"] = True
        return config

    def consumer_config(self, max_deliver: int | None) -> Config:
        """The durable consumer as it would be made."""
        config: Config = {
            "name": self.consumer,
            "durable_name": self.consumer,
            "filter_subject": self.filter,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_wait": (self.settings.ack_wait or DEFAULT_ACK_WAIT) * _NANOSECONDS,
            "max_deliver": self.settings.max_deliver or max_deliver or -1,
        }
        if not self.settings.bound:
            config |= {"max_ack_pending": -1, "max_waiting": MAX_WAITING}
        return config

    def stream_demands(self) -> frozenset[str]:
        """The fields that an existing stream is held to; of somebody else's, only what was set."""
        if not self.settings.bound:
            return frozenset(self.stream_config()) - {"name", "allow_direct", "allow_atomic", "max_consumers"}
        chosen = ("max_msgs", "max_bytes", "max_msg_size", "discard", "duplicate_window")
        given = {name for name in chosen if getattr(self.settings, name) is not None}
        return frozenset(given | {"retention"} | ({"num_replicas"} if self.settings.replicas else set()))

    def consumer_demands(self) -> frozenset[str]:
        """The fields that an existing consumer is held to."""
        always = {"filter_subject", "ack_policy"}
        if not self.settings.bound:
            return frozenset(always | {"deliver_policy", "ack_wait", "max_deliver", "max_ack_pending"})
        return frozenset(always | {name for name in ("ack_wait", "max_deliver") if getattr(self.settings, name)})


def dead_letter_config(names: Names, replicas: int) -> Config:
    """The stream that keeps dead letters: each expires by itself, none is dropped to make room."""
    return {
        "name": names.dead_letters,
        "subjects": [names.dead_subject()],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "old",
        "duplicate_window": DEAD_LETTER_WINDOW * _NANOSECONDS,
        "allow_msg_ttl": True,
        "allow_direct": True,
    }


def bucket_config(bucket: str, replicas: int) -> Config:
    """A KV bucket whose keys may expire one by one."""
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
        "max_msgs_per_subject": 1,
        "duplicate_window": BUCKET_WINDOW * _NANOSECONDS,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_msg_ttl": True,
        "allow_direct": True,
    }


#: What our own helper streams must have to do their work.
HELPER_DEMANDS = frozenset({"subjects", "retention", "allow_msg_ttl", "allow_direct"})


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


def limits(config: Config) -> Limits:
    """Read what workers go by from a consumer's configuration."""
    max_deliver = config.get("max_deliver", -1)
    return Limits(config.get("ack_wait", 0) // _NANOSECONDS, max_deliver if max_deliver > 0 else None)


def deafness(stream: Config, subject: str) -> list[Difference]:
    """What is different in a stream that does not listen on a subject."""
    subjects = stream.get("subjects") or []
    return [] if any(covers(wide, subject) for wide in subjects) else [Difference("subjects", [subject], subjects)]


def pushing(consumer: Config) -> list[Difference]:
    """What is different in a consumer that pushes its messages instead of having them pulled."""
    target = consumer.get("deliver_subject")
    return [Difference("deliver_subject", "none (a pull consumer)", target)] if target else []


async def ensure_stream(session: Session, config: Config, demands: Iterable[str], what: str) -> Config:
    """Make a stream unless it exists, and return its configuration.

    Raises:
      ConfigMismatch: If it exists and does not fit.
    """
    name = config["name"]
    found = await _find_or_make(
        session, f"STREAM.INFO.{name}", f"STREAM.CREATE.{name}", config, missing=STREAM_NOT_FOUND
    )
    unfit = differences(config, found, demands)
    if unfit:
        raise ConfigMismatch(f"the stream {name!r} of {what}", unfit, _ADVICE.format(kind="stream", name=name))
    return found


async def ensure_queue(session: Session, route: Route) -> None:
    """Make a queue's stream unless it exists."""
    found = await ensure_stream(session, route.stream_config(), route.stream_demands(), route.describe())
    unfit = deafness(found, route.filter)
    if unfit:
        advice = _ADVICE.format(kind="stream", name=route.stream)
        raise ConfigMismatch(f"the stream {route.stream!r} of {route.describe()}", unfit, advice)


async def ensure_consumer(
    session: Session, route: Route, max_deliver: int | None, *, spare: Iterable[str] = ()
) -> Limits:
    """Make a queue's durable consumer unless it exists, and return what workers go by.

    Parameters:
      session(Session): The live connection.
      route(Route): The queue.
      max_deliver(int): How often a message may be delivered, where the settings do not say.
      spare(Iterable[str]): Fields that do not matter if nothing else is different.

    Raises:
      ConfigMismatch: If it exists and does not fit.
    """
    config = route.consumer_config(max_deliver)
    path = f"{route.stream}.{route.consumer}"
    found = await _find_or_make(
        session,
        f"CONSUMER.INFO.{path}",
        f"CONSUMER.CREATE.{path}.{route.filter}",
        {"stream_name": route.stream, "config": config, "action": "create"},
        missing=CONSUMER_NOT_FOUND,
    )
    unfit = differences(config, found, route.consumer_demands()) + pushing(found)
    if any(difference.field not in spare for difference in unfit):
        advice = _ADVICE.format(kind="consumer", name=f"{route.stream} {route.consumer}")
        raise ConfigMismatch(f"the consumer {route.consumer!r} of {route.describe()}", unfit, advice)
    return limits(found)


async def _find_or_make(session: Session, find: str, make: str, request: Config, *, missing: int) -> Config:
    """Return the configuration of what exists or was just made.

    Many processes start at once: whoever loses the race finds what the winner made.
    """
    try:
        return _config(await session.call_api(find))
    except ApiError as error:
        if error.err_code != missing:
            raise _not_found(error, find) from error
    try:
        return _config(await session.call_api(make, request))
    except ApiError as error:
        if error.err_code not in ALREADY_EXISTS:
            raise _not_found(error, find) from error
    return _config(await session.call_api(find))


def _not_found(error: ApiError, find: str) -> Exception:
    if error.err_code == STREAM_NOT_FOUND:
        return StreamNotFound(f"{find}: the stream does not exist")
    if error.err_code == CONSUMER_NOT_FOUND:
        return ConsumerNotFound(f"{find}: the consumer does not exist")
    return error


def _config(answer: Config) -> Config:
    config: Config = answer["config"]
    return config


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

_ADVICE = (
    "Nothing was changed. Declare the queue as the server has it, with WorkQueue(…), or change the server, for example "
    "with 'nats {kind} edit {name}'."
)


def _readable(name: str, value: Any) -> Any:
    if name in _DURATIONS and value:
        return f"{value / 1_000_000_000:.12g}s"
    return "unlimited" if name in _UNLIMITED and value == _UNLIMITED[name] else value
