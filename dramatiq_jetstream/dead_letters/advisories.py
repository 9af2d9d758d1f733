"""The server's advisories about exhausted messages: how they are captured, bounded and read."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ..client import Session
from ..errors import BrokerError
from ..logs import get_logger
from ..names import Names
from ..settings import WorkQueue
from ..streams import Config, Limits, Requirement, Route, consumer_requirement, limits, reading, stream_requirement
from ..streams.route import MAX_WAITING, NANOSECONDS

SUBJECT = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"

#: The durable consumer of advisories.
ADVISORY_CONSUMER = "keeper"

#: Milliseconds for which an advisory is kept.  In a stream owned by this package, the sweep finds the message
#: anyway; in a stream owned by others, only the advisory reports it.
MAX_AGE = 86_400_000
MAX_AGE_BOUND = 7 * MAX_AGE

#: How many advisories are kept about one queue, and in all; the oldest make room.
MAX_PER_QUEUE = 10_000
MAX_ADVISORIES = 100_000

#: What a stream or consumer of an earlier version has where this one has a bound.  max_ack_pending is the server's
#: default: with it, a thousand advisories that no worker can handle block all others.
_UNBOUNDED: dict[str, dict[str, tuple[int, ...]]] = {
    "stream": {"max_age": (0,), "max_msgs": (-1,), "max_msgs_per_subject": (-1, 0)},
    "consumer": {"max_ack_pending": (1_000,)},
}

_NAME = re.compile(r"[^\s.*>]+")

_logger = get_logger(__name__)


class Advisory(NamedTuple):
    """The server's advisory about a message without attempts left.

    Parameters:
      stream(str): Its stream.
      consumer(str): The consumer that delivered it.
      sequence(int): Its sequence in the stream.
      deliveries(int): How often it was delivered.
      timestamp(int): When the server sent it, in UNIX nanoseconds.
    """

    stream: str
    consumer: str
    sequence: int
    deliveries: int
    timestamp: int

    @classmethod
    def read(cls, body: bytes) -> Advisory:
        """Parse an advisory; raises ValueError if it cannot be parsed."""
        try:
            fields: Any = json.loads(body)
            stream, consumer = names = fields["stream"], fields["consumer"]
            sequence, deliveries = numbers = fields["stream_seq"], fields["deliveries"]
            timestamp = reading.nanoseconds(fields["timestamp"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
            raise ValueError(f"{names} are not the names of a stream and its consumer")
        if not all(type(number) is int and number > 0 for number in numbers):
            raise ValueError(f"{numbers} are not a sequence and a number of deliveries")
        return cls(stream, consumer, sequence, deliveries, timestamp)


class AdvisoryRoute(Route):
    """A stream of advisories, whose subjects have wildcards that no queue's subject may have."""

    @property
    def filter(self) -> str:
        return self.settings.stream_subjects[0]

    @property
    def max_age(self) -> int:
        """The milliseconds for which it keeps advisories."""
        return MAX_AGE if self.stream == self.names.advisories else MAX_AGE_BOUND

    def stream_config(self) -> Config:
        return super().stream_config() | {
            "max_age": self.max_age * NANOSECONDS,
            "max_msgs": MAX_ADVISORIES,
            "max_msgs_per_subject": MAX_PER_QUEUE,
        }

    def consumer_config(self, max_deliver: int | None) -> Config:
        return super().consumer_config(max_deliver) | {"max_ack_pending": -1, "max_waiting": MAX_WAITING}


def advisory_route(names: Names, route: Route, replicas: int) -> AdvisoryRoute:
    """Where the advisories about a queue's consumer are captured; one stream for all streams owned by this package."""
    stream, subject = names.advisories, f"{SUBJECT}.*.{names.consumer}"
    if route.settings.bound:
        stream, subject = names.advisories_of(route.queue_name), f"{SUBJECT}.{route.stream}.{route.consumer}"
    settings = WorkQueue(
        stream=stream,
        subject=f"{SUBJECT}.{route.stream}.{route.consumer}",
        consumer=ADVISORY_CONSUMER,
        stream_subjects=[subject],
    )
    return AdvisoryRoute(f"{stream} (advisories)", settings, names, replicas)


async def ensure(session: Session, route: Route) -> Limits:
    """Make the stream of advisories and its consumer, or bound those that an earlier version made."""
    await _ensure_bounded(session, stream_requirement(route))
    return limits(await _ensure_bounded(session, consumer_requirement(route, None)))


async def _ensure_bounded(session: Session, requirement: Requirement) -> Config:
    found = await requirement.ensure(session)
    unbounded = _UNBOUNDED[requirement.kind]
    changes = {name: requirement.config[name] for name, values in unbounded.items() if found.get(name) in values}
    if changes:
        try:
            await requirement.change(session, found | changes)
        except BrokerError as error:
            # This still works, unless there are very many advisories that no worker can handle.
            _logger.debug("The %s %r stays without bounds: %s", requirement.kind, requirement.label, error)
    return found
