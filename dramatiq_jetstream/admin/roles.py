"""Whether this user may do what a role needs, asked in ways that change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..broker import JetStreamBroker
from ..client import Session
from ..errors import PermissionDenied
from ..sending import Queue

#: Whoever publishes, whoever works, whoever sets up, and whoever operates this command line.
ROLES = ("producer", "worker", "provisioner", "operator")

#: Makes a stream refuse what is published, once the permission was found good.
_REFUSED = {"Nats-Expected-Stream": "no-such-stream"}

#: What an API subject does, with what it does it to.
_OPERATIONS = {
    "STREAM.MSG.GET": "streams",
    "STREAM.MSG.DELETE": "streams",
    "STREAM.INFO": "streams",
    "STREAM.CREATE": "streams",
    "STREAM.UPDATE": "streams",
    "STREAM.PURGE": "streams",
    "DIRECT.GET": "streams",
    "CONSUMER.MSG.NEXT": "consumers",
    "CONSUMER.INFO": "consumers",
    "CONSUMER.CREATE": "consumers",
    "CONSUMER.PAUSE": "consumers",
}

#: What the server tells of streams; ``events`` listens to it.
_ADVISORIES = "$JS.EVENT.ADVISORY.*.>"

#: Seconds to wait for an answer; being denied takes no longer than an answer.
TIMEOUT = 1.0


@dataclass(frozen=True)
class Probe:
    """One subject that a role publishes or subscribes to.

    Parameters:
      role(str): The role.
      subject(str): The subject.
      allowed(bool): Whether this user may.
      error(str): What the server said, if not.
      verb(str): ``"publish"`` or ``"subscribe"``.
    """

    role: str
    subject: str
    allowed: bool
    error: str | None
    verb: str = "publish"

    @property
    def pattern(self) -> str:
        """The subject without what tells one stream, consumer or queue from the others of its kind."""
        prefix, api, operation = self.subject.partition(".API.")
        found = next((known for known in _OPERATIONS if operation.startswith(f"{known}.")), None)
        if api and found:
            single = "." not in operation[len(found) + 1 :]
            return f"{prefix}.API.{found}.{'*' if single else '>'}"
        tokens = self.subject.split(".")
        # What is ours begins with "<namespace>.<purpose>", and the server's with "$JS.ACK" or "$KV".
        return ".".join([*tokens[: 1 if tokens[0] == "$KV" else 2], ">"])

    @property
    def things(self) -> str:
        """What such subjects are for."""
        operation = self.subject.partition(".API.")[2]
        known = (things for name, things in _OPERATIONS.items() if operation.startswith(f"{name}."))
        return next(known, "queues")


def probe(broker: JetStreamBroker, roles: Sequence[str] = ROLES) -> Iterator[Probe]:
    """Ask, subject by subject, whether this user may do what roles need.

    Nothing is stored, consumed or acknowledged by it.

    Parameters:
      broker(JetStreamBroker): The broker.
      roles(Sequence[str]): Which roles.
    """
    needs = {role: _needs(broker, role) for role in roles}
    asked = {subject: (body, headers) for needed in needs.values() for subject, body, headers in needed}
    errors = broker.connection.call(partial(_ask_all, asked=asked))
    for role, needed in needs.items():
        for subject, _, _ in needed:
            yield Probe(role, subject, errors[subject] is None, errors[subject])
        if role == "operator":
            error = _listen(broker)
            yield Probe(role, _ADVISORIES, error is None, error, "subscribe")


#: Subjects with what to publish to them.
Needs = Iterator[tuple[str, bytes, "dict[str, str] | None"]]


def _needs(broker: JetStreamBroker, role: str) -> list[tuple[str, bytes, dict[str, str] | None]]:
    queues = [broker.queue(name) for name in sorted(broker.get_declared_queues())]
    found = [need for queue in queues for need in _QUEUE_NEEDS[role](broker, queue)]
    return list({subject: (subject, body, headers) for subject, body, headers in found}.values())


def _producer(broker: JetStreamBroker, queue: Queue) -> Needs:
    yield queue.route.subject("probe"), b"", _REFUSED
    if queue.route.settings.allows_delays:
        yield broker.names.delayed_subject(queue.name, "probe", "probe"), b"", _REFUSED


def _worker(broker: JetStreamBroker, queue: Queue) -> Needs:
    yield from _producer(broker, queue)
    route, api = queue.route, _api(broker)
    # Not JSON: the server answers 400. A batch of -1 would be delivered.
    yield f"{api}.CONSUMER.MSG.NEXT.{route.stream}.{route.consumer}", b"{", None
    yield f"{api}.CONSUMER.INFO.{route.stream}.{route.consumer}", b"", None
    # Progress on a delivery that never was.
    yield f"$JS.ACK.{route.stream}.{route.consumer}.1.0.0.0.0", b"+WPI", None
    yield broker.names.dead_subject(queue.name, "probe"), b"", _REFUSED
    yield f"$KV.{broker.attempts.bucket}.probe", b"", _REFUSED
    yield f"{api}.DIRECT.GET.KV_{broker.attempts.bucket}.$KV.{broker.attempts.bucket}.probe", b"", None


def _provisioner(broker: JetStreamBroker, queue: Queue) -> Needs:
    for requirement in broker.requirements():
        path = f"{requirement.stream}.{requirement.consumer}" if requirement.consumer else requirement.stream
        yield f"{_api(broker)}.{requirement.kind.upper()}.INFO.{path}", b"", None
        # What is not JSON makes nothing.
        if requirement.consumer:
            yield f"{_api(broker)}.CONSUMER.CREATE.{path}.{requirement.subject}", b"{", None
        else:
            yield f"{_api(broker)}.STREAM.CREATE.{path}", b"{", None
            yield f"{_api(broker)}.STREAM.UPDATE.{path}", b"{", None


def _operator(broker: JetStreamBroker, queue: Queue) -> Needs:
    route, api = queue.route, _api(broker)
    yield f"{api}.STREAM.NAMES", b"", None
    for stream in (route.stream, broker.names.dead_letters):
        yield f"{api}.STREAM.INFO.{stream}", b"", None
        yield f"{api}.STREAM.MSG.GET.{stream}", b"{", None
        yield f"{api}.STREAM.MSG.DELETE.{stream}", b"{", None
        yield f"{api}.STREAM.PURGE.{stream}", b"{", None
        yield f"{api}.DIRECT.GET.{stream}", b"{", None
    yield f"{api}.CONSUMER.INFO.{route.stream}.{route.consumer}", b"", None
    yield f"{api}.DIRECT.GET.KV_{broker.attempts.bucket}", b"{", None
    yield f"{api}.CONSUMER.PAUSE.{route.stream}.{route.consumer}", b"{", None
    yield queue.route.subject("probe"), b"", _REFUSED


_QUEUE_NEEDS = {"producer": _producer, "worker": _worker, "provisioner": _provisioner, "operator": _operator}


def _api(broker: JetStreamBroker) -> str:
    return f"$JS.{broker.settings.domain}.API" if broker.settings.domain else "$JS.API"


async def _ask_all(session: Session, asked: Mapping[str, tuple[bytes, dict[str, str] | None]]) -> dict[str, str | None]:
    """Ask all at once: where a permission is there and nobody answers, it takes the whole timeout to know."""
    answers = await asyncio.gather(*(_ask(session, subject, *request) for subject, request in asked.items()))
    return dict(zip(asked, answers, strict=True))


def _listen(broker: JetStreamBroker) -> str | None:
    try:
        broker.subscribe(_ADVISORIES, lambda subject, body: None).close()
    except PermissionDenied as error:
        return str(error)
    return None


async def _ask(session: Session, subject: str, body: bytes, headers: dict[str, str] | None) -> str | None:
    """What the server says to a request that it does not allow; None if it allows it."""
    try:
        await session.probe(subject, body, headers, TIMEOUT)
    except PermissionDenied as error:
        return str(error)
    return None
