"""The streams and consumers that a broker needs: compare each with the server, make it, change it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..client import ALREADY_EXISTS, Session
from ..errors import ApiError, ConfigMismatch, ConsumerNotFound, Difference, StreamNotFound
from .differences import differences, eviction, missing_subjects, push_delivery
from .helpers import BUCKET_DEMANDS, HELPER_DEMANDS, bucket_config
from .route import Config, Route

_ADVICE = (
    "Nothing was changed. Declare the queue as the server has it, with WorkQueue(…), or change the server, for example "
    "with 'nats {kind} edit {name}'."
)


@dataclass(frozen=True)
class Requirement:
    """One stream or durable consumer.

    Parameters:
      what(str): What it is for, as a person would say it.
      stream(str): The stream.
      consumer(str): The durable consumer, or None if the stream itself is meant.
      config(dict): Its configuration, as it would be made.
      demands(frozenset): The fields of it that what exists is held to.
      subject(str): The subjects that must arrive in the stream, or that the consumer delivers.
      keeps_all(bool): Whether the stream must not drop messages to make room.
    """

    what: str
    stream: str
    consumer: str | None
    config: Config
    demands: frozenset[str]
    subject: str | None = None
    keeps_all: bool = False

    @property
    def kind(self) -> str:
        """``"stream"`` or ``"consumer"``."""
        return "consumer" if self.consumer else "stream"

    @property
    def name(self) -> str:
        """The name of the stream or consumer."""
        return self.consumer or self.stream

    @property
    def label(self) -> str:
        """The name, a consumer's after its stream's."""
        return f"{self.stream} > {self.consumer}" if self.consumer else self.stream

    @property
    def _path(self) -> str:
        return f"{self.stream}.{self.consumer}" if self.consumer else self.stream

    def differences(self, found: Config) -> list[Difference]:
        """The demanded fields in which what exists does not fit."""
        unfit = differences(self.config, found, self.demands)
        if self.consumer:
            return unfit + push_delivery(found)
        if self.keeps_all:
            unfit += eviction(found)
        return unfit if "subjects" in self.demands else unfit + missing_subjects(found, self.subject or "")

    async def find(self, session: Session) -> Config | None:
        """Its configuration on the server, or None if it does not exist; on the loop."""
        try:
            answer = await session.call_api(f"{self.kind.upper()}.INFO.{self._path}")
        except (StreamNotFound, ConsumerNotFound):
            return None
        config: Config = answer["config"]
        return config

    async def ensure(self, session: Session, *, tolerated: Iterable[str] = ()) -> Config:
        """Make it unless it exists, and return its configuration; on the loop.

        Parameters:
          session(Session): The live connection.
          tolerated(Iterable[str]): Fields that may differ if nothing else does.

        Raises:
          ConfigMismatch: If it exists and does not fit.
        """
        found = await self._find_or_make(session)
        unfit = self.differences(found)
        if any(difference.field not in tolerated for difference in unfit):
            name = self.label.replace(" > ", " ")
            advice = _ADVICE.format(kind=self.kind, name=name)
            raise ConfigMismatch(f"the {self.kind} {self.name!r} of {self.what}", unfit, advice)
        return found

    async def make(self, session: Session) -> None:
        """Create it, unless another process just did; on the loop."""
        try:
            await self._write(session, self.config, "create")
        except ApiError as error:
            if error.err_code not in ALREADY_EXISTS:
                raise

    async def change(self, session: Session, config: Config) -> None:
        """Give what exists another configuration; on the loop.

        Raises:
          ApiError: If the server does not change that in a stream or consumer that exists.
        """
        await self._write(session, config, "update")

    async def _find_or_make(self, session: Session) -> Config:
        """Many processes may start at once: all but the first find what the first one created."""
        found = await self.find(session)
        if found is None:
            await self.make(session)
            found = await self.find(session)
        if found is None:
            # It was made, and deleted at once.
            missing = ConsumerNotFound if self.consumer else StreamNotFound
            raise missing(f"the {self.kind} {self.name!r} of {self.what} does not exist")
        return found

    async def _write(self, session: Session, config: Config, action: str) -> None:
        if self.consumer is None:
            await session.call_api(f"STREAM.{action.upper()}.{self.stream}", config)
            return
        request: dict[str, Any] = {"stream_name": self.stream, "config": config, "action": action}
        subject = config.get("filter_subject")
        path = f"{self._path}.{subject}" if subject else self._path
        await session.call_api(f"CONSUMER.CREATE.{path}", request)


class Ensured:
    """Ensures a requirement once for each session.  Methods are called on the loop unless they say otherwise.

    Parameters:
      requirement(Requirement): What must exist.
      managed(bool): Whether it may be made; otherwise this does nothing.
    """

    def __init__(self, requirement: Requirement, *, managed: bool) -> None:
        self.requirement = requirement
        self.managed = managed
        self._session: Session | None = None

    def is_done(self, session: Session) -> bool:
        """Whether nothing is left to do in this session; from any thread."""
        return not self.managed or self._session is session

    def forget(self) -> None:
        """Look again next time: it was missing; from any thread."""
        self._session = None

    async def ensure(self, session: Session) -> None:
        """Make it unless it exists.  Raises ConfigMismatch."""
        if not self.is_done(session):
            await self.requirement.ensure(session)
            self._session = session


def queue_requirements(route: Route, max_deliver: int | None, what: str | None = None) -> list[Requirement]:
    """A queue's stream and its durable consumer."""
    return [stream_requirement(route, what), consumer_requirement(route, max_deliver, what)]


def stream_requirement(route: Route, what: str | None = None) -> Requirement:
    """A queue's stream."""
    what = what or f"queue {route.queue_name!r}"
    return Requirement(what, route.stream, None, route.stream_config(), route.stream_demands(), route.filter)


def consumer_requirement(route: Route, max_deliver: int | None, what: str | None = None) -> Requirement:
    """A queue's durable consumer."""
    what = what or f"queue {route.queue_name!r}"
    config, demands = route.consumer_config(max_deliver), route.consumer_demands()
    return Requirement(what, route.stream, route.consumer, config, demands, route.filter)


def helper_requirement(config: Config, what: str) -> Requirement:
    """A stream that keeps something beside the queues."""
    return Requirement(what, config["name"], None, config, HELPER_DEMANDS)


def bucket_requirement(bucket: str, replicas: int, what: str) -> Requirement:
    """A KV bucket whose keys stay until they expire or are replaced."""
    config = bucket_config(bucket, replicas)
    return Requirement(what, config["name"], None, config, BUCKET_DEMANDS, keeps_all=True)
