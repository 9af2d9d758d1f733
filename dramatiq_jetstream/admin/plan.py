"""What an application needs on the server: compare, make, change, or write it down as ``nats`` commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..broker import JetStreamBroker
from ..client import Session
from ..errors import Difference
from ..streams import Config, Requirement, counts, limits
from .nats_cli import command

#: What the server changes in streams and consumers that exist.
CHANGEABLE = frozenset(
    {
        *(
            "subjects",
            "max_msgs",
            "max_bytes",
            "max_msgs_per_subject",
            "max_msg_size",
            "max_age",
            "duplicate_window",
            "num_replicas",
            "discard",
        ),
        *("allow_msg_ttl", "allow_direct", "allow_msg_schedules", "allow_atomic"),
        *("ack_wait", "max_deliver", "max_ack_pending", "filter_subject"),
    }
)


@dataclass(frozen=True)
class Checked:
    """A stream or consumer as it is needed, beside what the server has.

    Parameters:
      piece(Requirement): What is needed.
      found(dict): Its configuration on the server, or None if it is not there.
      differences(tuple): The fields that do not fit.
    """

    requirement: Requirement
    found: Config | None
    differences: tuple[Difference, ...]

    @property
    def state(self) -> str:
        """``"fits"``, ``"missing"`` or ``"differs"``."""
        return "missing" if self.found is None else "differs" if self.differences else "fits"

    @property
    def changeable(self) -> bool:
        """Whether the server can change all that differs without a new stream or consumer."""
        return not self.keeps_schedules and all(difference.field in CHANGEABLE for difference in self.differences)

    @property
    def keeps_schedules(self) -> bool:
        """Whether it differs in ``discard``, which the server does not change while messages may be scheduled."""
        scheduling = bool((self.found or {}).get("allow_msg_schedules"))
        return scheduling and any(
            difference.field == "discard" and difference.expected == "new" for difference in self.differences
        )

    @property
    def advice(self) -> str:
        """What to do about the differences."""
        stream = self.requirement.stream
        if self.keeps_schedules:
            return (
                "the server cannot switch message schedules off in a stream that exists, and refuses discard='new' "
                "along with them: leave discard out of the queue's WorkQueue; or let workers finish its messages, "
                f"remove the stream with 'nats stream rm {stream}', and run 'dramatiq-jetstream setup'"
            )
        if not self.changeable:
            remove = (
                f"nats consumer rm {stream} {self.requirement.consumer}"
                if self.requirement.consumer
                else (f"nats stream rm {stream}")
            )
            return (
                f"the server cannot change that in a {self.requirement.kind} that exists: declare it as the server has "
                f"it; or let workers finish its messages, remove it with '{remove}', and run 'dramatiq-jetstream setup'"
            )
        return "declare it as the server has it, or run 'dramatiq-jetstream setup --apply-updates'"


@dataclass(frozen=True)
class Warned:
    """Why to think twice before a change.

    Parameters:
      field(str): What would change.
      danger(str): What may come of it.
    """

    field: str
    danger: str


def check(broker: JetStreamBroker) -> list[Checked]:
    """Compare everything that the declared queues and the middleware's backends need with the server."""
    return [broker.connection.call(partial(_check, requirement=requirement)) for requirement in broker.requirements()]


def make(broker: JetStreamBroker, checked: Iterable[Checked]) -> Iterator[Checked]:
    """Make what is missing, and give each thing that was made; nothing that exists is changed."""
    for part in checked:
        if part.found is None:
            yield broker.connection.call(partial(_make, requirement=part.requirement))


def warnings(broker: JetStreamBroker, part: Checked) -> list[Warned]:
    """Why to think twice before changing what differs."""
    waiting = broker.connection.call(partial(_count_held, requirement=part.requirement))
    found = [warned for difference in part.differences for warned in _warnings(difference, part, waiting)]
    if part.requirement.kind == "stream" and waiting:
        found.append(
            Warned(
                "stream",
                f"workers hold {waiting} of its messages, or these wait for a retry: servers before 2.15 lost such "
                "messages in a cluster when their stream was changed (nats-server#5526); change it while the queue is "
                "empty, or update the servers first",
            )
        )
    return found


def update(broker: JetStreamBroker, part: Checked) -> Checked:
    """Change what differs, and only that, and look at it again.

    Raises:
      ApiError: If the server refuses.
    """
    config = dict(part.found or {})
    for difference in part.differences:
        config[difference.field] = _wanted(difference.field, part)
    broker.connection.call(partial(part.requirement.change, config=config))
    return broker.connection.call(partial(_check, requirement=part.requirement))


def nats_commands(broker: JetStreamBroker) -> list[str]:
    """The commands of the ``nats`` tool that make everything; nothing is asked of the server."""
    return [command(requirement) for requirement in broker.requirements()]


async def _check(session: Session, requirement: Requirement) -> Checked:
    found = await requirement.find(session)
    return Checked(requirement, found, () if found is None else tuple(requirement.differences(found)))


async def _make(session: Session, requirement: Requirement) -> Checked:
    await requirement.make(session)
    return await _check(session, requirement)


async def _count_held(session: Session, requirement: Requirement) -> int:
    consumers = [requirement.consumer] if requirement.consumer else await _consumers(session, requirement.stream)
    return sum([await counts.count_held(session, requirement.stream, consumer) for consumer in consumers])


async def _consumers(session: Session, stream: str) -> list[str]:
    answer = await session.call_api(f"CONSUMER.NAMES.{stream}")
    return list(answer.get("consumers") or [])


def _warnings(difference: Difference, part: Checked, waiting: int) -> Iterator[Warned]:
    field, found = difference.field, part.found or {}
    if field == "ack_wait" and waiting:
        yield Warned(field, f"the delays of {waiting} messages that wait for a retry shift by the difference")
    if field == "max_deliver" and _lower(part.requirement.config, found):
        yield Warned(
            field,
            "messages with more deliveries than the new limit are exhausted without an advisory (nats-server#7148); "
            "workers find them when nothing else is in flight",
        )
    if field == "filter_subject":
        yield Warned(field, "messages on newly covered subjects that the consumer has already passed are skipped")
    if field == "allow_msg_schedules":
        yield Warned(field, "it cannot be switched off again, and lets every publisher purge subjects by a header")
    if field == "subjects":
        yield Warned(field, "the subjects are added; those that the stream has stay")


def _lower(wanted: Config, found: Config) -> bool:
    want, have = limits(wanted).max_deliver, limits(found).max_deliver
    return want is not None and (have is None or want < have)


def _wanted(field: str, part: Checked) -> Any:
    wanted = part.requirement.config.get(field)
    if field != "subjects":
        return wanted
    had = list((part.found or {}).get("subjects") or [])
    return had + [subject for subject in wanted or [part.requirement.subject] if subject not in had]
