"""What a namespace has on the server besides the queues that are declared here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

from ..broker import JetStreamBroker
from ..client import Session
from ..errors import StreamNotFound
from ..names import escape, unescape


@dataclass(frozen=True)
class Unseen:
    """A queue that is not declared here, and whose stream the server alone does not tell.

    Parameters:
      queue(str): The queue; its name on the server if that is cut.
      dead(int): How many dead letters it has.
    """

    queue: str
    dead: int

    def __str__(self) -> str:
        if not self.dead:
            return f"queue {self.queue!r} is in a stream of somebody else: use --app"
        letters = "1 dead letter" if self.dead == 1 else f"{self.dead} dead letters"
        return f"{letters} of queue {self.queue!r}, in no stream of ours: use --app"


def dead_by_queue_and_actor(broker: JetStreamBroker) -> Counter[tuple[str, str]]:
    """Count the dead letters of each queue and actor; a name that is cut stands as it does on the server."""
    subjects = broker.connection.call(partial(_subjects, broker=broker))
    found: Counter[tuple[str, str]] = Counter()
    for subject, count in subjects.items():
        queue, actor = subject.split(".")[-2:]
        found[_readable(queue), "" if actor == "=" else _readable(actor)] += count
    return found


def unseen(broker: JetStreamBroker) -> list[Unseen]:
    """The queues that have something on the server and are not declared here."""
    declared = {escape(name) for name in broker.get_declared_queues()}
    dead: Counter[str] = Counter()
    for (queue, _), count in dead_by_queue_and_actor(broker).items():
        dead[queue] += count
    bound = f"{broker.names.advisories}-"
    for stream in _streams(broker):
        if stream.startswith(bound):
            dead[_readable(stream.removeprefix(bound))] += 0
    return [Unseen(queue, count) for queue, count in sorted(dead.items()) if escape(queue) not in declared]


def is_empty(broker: JetStreamBroker) -> bool:
    """Whether the server has no stream at all of the broker's namespace."""
    prefix = broker.names.prefix
    return not any(stream.startswith((f"{prefix}_", f"{prefix}-")) for stream in _streams(broker))


def namespaces(broker: JetStreamBroker) -> list[str]:
    """The namespaces that the server has, as far as their dead letters or advisories tell."""
    tokens = {_prefix_of(stream) for stream in _streams(broker)} - {""}
    return sorted(_readable(token) for token in tokens)


def _prefix_of(stream: str) -> str:
    return next((stream.removesuffix(end) for end in ("-dead-letters", "-advisories") if stream.endswith(end)), "")


def _readable(token: str) -> str:
    return unescape(token) or token


def _streams(broker: JetStreamBroker) -> list[str]:
    return broker.connection.call(stream_names)


async def stream_names(session: Session, subject: str | None = None) -> list[str]:
    """The names of the streams that listen on a subject, or of all; on the loop."""
    streams: list[str] = []
    while True:
        request = {"offset": len(streams), **({} if subject is None else {"subject": subject})}
        answer = await session.call_api("STREAM.NAMES", request)
        page = answer.get("streams") or []
        streams += page
        if not page or len(streams) >= answer["total"]:
            return streams


async def _subjects(session: Session, broker: JetStreamBroker) -> dict[str, int]:
    operation = f"STREAM.INFO.{broker.names.dead_letters}"
    try:
        answer = await session.call_api(operation, {"subjects_filter": broker.names.dead_subject()})
    except StreamNotFound:
        return {}
    return dict(answer["state"].get("subjects") or {})
