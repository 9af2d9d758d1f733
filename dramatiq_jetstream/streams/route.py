"""A queue's place on the server: the names and the configuration of its stream and its durable consumer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..names import Names
from ..settings import DEFAULT_ACK_WAIT, DEFAULT_DUPLICATE_WINDOW, WorkQueue

Config = dict[str, Any]

#: Pull requests that may wait at a queue's consumer.  The server's default of 512 would be used up
#: by some two hundred worker processes.
MAX_WAITING = 8_192

#: The largest number of deliveries that is asked for; the server's own numbers end at 64 bits.
MAX_DELIVER = 2**31

NANOSECONDS = 1_000_000


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
            "duplicate_window": (ours.duplicate_window or DEFAULT_DUPLICATE_WINDOW) * NANOSECONDS,
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
            "ack_wait": (self.settings.ack_wait or DEFAULT_ACK_WAIT) * NANOSECONDS,
            "max_deliver": min(self.settings.max_deliver or max_deliver or -1, MAX_DELIVER),
        }
        if not self.settings.bound:
            config |= {"max_ack_pending": -1, "max_waiting": MAX_WAITING}
        return config

    def stream_demands(self) -> frozenset[str]:
        """The fields that an existing stream must match; if it is owned by others, only those that were set."""
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


def limits(config: Config) -> Limits:
    """Read what workers go by from a consumer's configuration."""
    max_deliver = config.get("max_deliver", -1)
    return Limits(config.get("ack_wait", 0) // NANOSECONDS, max_deliver if max_deliver > 0 else None)
