"""The streams and consumers that a broker needs, one by one: compare each with the server, make it, change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import ApiError, Difference
from .session import Session
from .topology import (
    CONSUMER_NOT_FOUND,
    HELPER_DEMANDS,
    STREAM_NOT_FOUND,
    Config,
    Route,
    deafness,
    differences,
    pushing,
)


@dataclass(frozen=True)
class Piece:
    """One stream or durable consumer.

    Parameters:
      what(str): What it is for, as a person would say it.
      stream(str): The stream.
      consumer(str): The durable consumer, or None if the stream itself is meant.
      config(dict): Its configuration, as it would be made.
      demands(frozenset): The fields of it that what exists is held to.
      subject(str): The subjects that must arrive in the stream, or that the consumer delivers.
    """

    what: str
    stream: str
    consumer: str | None
    config: Config
    demands: frozenset[str]
    subject: str | None = None

    @property
    def kind(self) -> str:
        """``"stream"`` or ``"consumer"``."""
        return "consumer" if self.consumer else "stream"

    @property
    def name(self) -> str:
        """The name of what is meant."""
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
            return unfit + pushing(found)
        return unfit if "subjects" in self.demands else unfit + deafness(found, self.subject or "")

    async def find(self, session: Session) -> Config | None:
        """Its configuration on the server, or None if it is not there."""
        try:
            answer = await session.call_api(f"{self.kind.upper()}.INFO.{self._path}")
        except ApiError as error:
            if error.err_code in (STREAM_NOT_FOUND, CONSUMER_NOT_FOUND):
                return None
            raise
        config: Config = answer["config"]
        return config

    async def make(self, session: Session) -> None:
        """Make it, unless somebody just made the same."""
        await self._write(session, self.config, "create")

    async def change(self, session: Session, config: Config) -> None:
        """Give what exists another configuration.

        Raises:
          ApiError: If the server does not change that in a stream or consumer that exists.
        """
        await self._write(session, config, "update")

    async def _write(self, session: Session, config: Config, action: str) -> None:
        if self.consumer is None:
            await session.call_api(f"STREAM.{action.upper()}.{self.stream}", config)
            return
        request: dict[str, Any] = {"stream_name": self.stream, "config": config, "action": action}
        subject = config.get("filter_subject")
        path = f"{self._path}.{subject}" if subject else self._path
        await session.call_api(f"CONSUMER.CREATE.{path}", request)


def queue_pieces(route: Route, max_deliver: int | None, what: str | None = None) -> list[Piece]:
    """A queue's stream and its durable consumer."""
    what = what or f"queue {route.queue_name!r}"
    stream = Piece(what, route.stream, None, route.stream_config(), route.stream_demands(), route.filter)
    config, demands = route.consumer_config(max_deliver), route.consumer_demands()
    return [stream, Piece(what, route.stream, route.consumer, config, demands, route.filter)]


def helper_piece(config: Config, what: str) -> Piece:
    """A stream that keeps something beside the queues."""
    return Piece(what, config["name"], None, config, HELPER_DEMANDS)
