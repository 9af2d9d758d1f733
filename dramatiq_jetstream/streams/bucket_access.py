"""Requests to a bucket's stream within the caller's deadline: the bucket is made again where it is missing."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from ..client import NO_LEADER_PAUSE, Receipt, Session
from ..errors import ApiError, CallTimeout, ConnectionClosed, PermissionDenied, StreamNotFound
from ..options import LONGEST
from ..wire import Publication
from .required import Ensured, bucket_requirement

T = TypeVar("T")

#: Seconds that a request may take even if its deadline has passed: a wait of no time still looks once.
BRIEFEST = 0.1

#: Seconds without an answer after which it is asked whether the bucket exists: whoever subscribes to its subjects
#: keeps the server from saying that nobody stores what is written there.
LOOK_AFTER = 0.25

#: Seconds to wait for the answer to that question.
LOOK_TIMEOUT = 1.0

#: Seconds for which a missing bucket that may not be made is waited for when a value is written.
BELIEVE_AFTER = 1.0

#: Seconds after which a request without an answer is repeated.
ASK_AGAIN = 2.0


class Deadline(NamedTuple):
    """A moment until which to wait.

    Parameters:
      at(float): The moment on the monotonic clock.
    """

    at: float

    @classmethod
    def after(cls, milliseconds: float | None) -> Deadline:
        """So many milliseconds from now, a hundred years at most; None for never."""
        # Locks take no longer times.
        return cls(math.inf if milliseconds is None else time.monotonic() + min(milliseconds, LONGEST) / 1000)

    @property
    def left(self) -> float:
        """The seconds that are left; 0 if it has passed."""
        return max(self.at - time.monotonic(), 0.0)


class Entry(NamedTuple):
    """What a key holds.

    Parameters:
      value(bytes): The value; None if it has none.
      revision(int): The sequence of the last write; 0 if there is none.
    """

    value: bytes | None = None
    revision: int = 0

    @classmethod
    def of(cls, body: bytes, revision: int) -> Entry:
        """Read a stored message; an empty one marks a key that was deleted."""
        return cls(body or None, revision)


class BucketAccess:
    """The way to one bucket's stream.  Methods are coroutines of the loop.

    Parameters:
      bucket(str): The bucket.
      replicas(int): How many servers of a cluster keep it.
      managed(bool): Whether it may be made.
    """

    def __init__(self, bucket: str, replicas: int, *, managed: bool) -> None:
        self.bucket = bucket
        self.stream = f"KV_{bucket}"
        #: The bucket as it must exist.
        self.requirement = bucket_requirement(bucket, replicas, f"the bucket {bucket!r}")
        self._ensured = Ensured(self.requirement, managed=managed)
        self._may_look = True

    async def store(self, session: Session, publication: Publication, deadline: Deadline) -> Receipt:
        """Publish a value and wait until it is stored.

        Raises:
          StreamNotFound: If the bucket does not exist and may not be made.
          ApiError: If the bucket refuses it.
          CallTimeout: If there is no answer before the deadline.
        """
        return await self._reach(session, lambda: self._store(session, publication, deadline), deadline)

    async def call_api(self, session: Session, operation: str, body: object, deadline: Deadline) -> dict[str, Any]:
        """Call JetStream's API for the bucket's stream; raises what :meth:`store` does."""
        subject = f"{operation}.{self.stream}"

        async def step() -> dict[str, Any]:
            return await session.call_api(subject, body, timeout=max(deadline.left, BRIEFEST))

        return await self._reach(session, step, deadline, patience=0)

    async def read(self, session: Session, subject: str, deadline: Deadline) -> Any:
        """The last message on a subject from whichever server is near; raises what :meth:`store` does."""
        question = f"{session.api}.DIRECT.GET.{self.stream}.{subject}"
        return await self._reach(session, lambda: self._ask(session, question, deadline), deadline, patience=0)

    async def _reach(
        self, session: Session, step: Callable[[], Awaitable[T]], deadline: Deadline, patience: float = BELIEVE_AFTER
    ) -> T:
        """Take a step, for which the bucket is made if it is missing, or waited for if it has no leader."""
        believing = time.monotonic() + patience

        async def attempt() -> T:
            await self._ensure(session, deadline)
            try:
                return await step()
            except StreamNotFound as error:
                self._ensured.forget()
                if not self._ensured.managed or not error.confirmed:
                    raise
            await self._ensure(session, deadline)
            return await step()

        def missed(error: StreamNotFound) -> None:
            self._ensured.forget()
            # Where JetStream itself says that there is no such stream, waiting is no use.
            if not self._ensured.managed and error.confirmed and time.monotonic() >= believing:
                raise error

        try:
            return await session.persist(attempt, missed, deadline.left)
        except StreamNotFound as error:
            if self._ensured.managed:
                raise
            missing = StreamNotFound(
                f"the bucket {self.bucket!r} does not exist, and declare='never' forbids to make it: let a process "
                "with declare='auto' use it once"
            )
            missing.confirmed = error.confirmed
            raise missing from error

    async def _ensure(self, session: Session, deadline: Deadline) -> None:
        if self._ensured.is_done(session):
            return
        try:
            await asyncio.wait_for(self._ensured.ensure(session), max(deadline.left, BRIEFEST))
        except asyncio.TimeoutError as error:
            raise CallTimeout(f"the bucket {self.bucket!r} could not be looked at in time") from error

    async def _store(self, session: Session, publication: Publication, deadline: Deadline) -> Receipt:
        storing = asyncio.ensure_future(session.store(publication, timeout=max(deadline.left, BRIEFEST)))
        pause = LOOK_AFTER
        try:
            while not (await asyncio.wait([storing], timeout=pause))[0]:
                await self._look(session)
                pause = ASK_AGAIN
            return await storing
        except StreamNotFound as error:
            if not error.confirmed and not self._ensured.managed:
                await self._look(session)
            raise
        finally:
            storing.cancel()

    async def _ask(self, session: Session, question: str, deadline: Deadline) -> Any:
        while True:
            try:
                return await session.ask(question, b"", None, max(min(deadline.left, ASK_AGAIN), BRIEFEST))
            except ConnectionClosed:
                # A broken connection comes back, and a leader is elected.
                if deadline.left <= 0 or not session.is_open:
                    raise
                await self._look(session)
            await asyncio.sleep(min(NO_LEADER_PAUSE, deadline.left))

    async def _look(self, session: Session) -> None:
        """Raise StreamNotFound if JetStream says that the bucket does not exist; what it does not say is no matter."""
        if not self._may_look:
            return
        question = {"last_by_subj": f"$KV.{self.bucket}.@look"}
        try:
            await session.call_api(f"STREAM.MSG.GET.{self.stream}", question, timeout=LOOK_TIMEOUT)
        except PermissionDenied:
            self._may_look = False
        except (ApiError, ConnectionClosed):
            return
