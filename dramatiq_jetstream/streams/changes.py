"""Changes to the keys of a bucket: those of one process wait in line and are written together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from ..client import Session
from ..errors import CallTimeout, ConnectionClosed
from .bucket_access import Deadline, Entry

#: The milliseconds before the first repetition of a write that lost a race, doubled each time up to the second; a
#: random part of it is waited, so that the losers do not meet again.
MIN_PAUSE = 1
MAX_PAUSE = 50

#: Gives the keys to look at besides, for the value of the key that is to be changed.
Besides = Callable[[bytes | None], Sequence[str]]

#: Takes a key's value and those of the keys besides, and returns the new one, or None to leave it.
Change = Callable[[bytes | None, Sequence[bytes | None]], bytes | None]

#: For how many milliseconds a new value is kept, or what tells it from the value.
TimeToLive = float | Callable[[bytes], float]


class Values(Protocol):
    """What changes are read from and written to."""

    bucket: str

    async def read_last(self, session: Session, key: str, deadline: Deadline) -> Entry: ...

    async def read_all(self, session: Session, keys: Sequence[str], deadline: Deadline) -> Sequence[bytes | None]: ...

    async def write(
        self, session: Session, key: str, value: bytes, ttl: float, revision: int | None, deadline: Deadline
    ) -> bool: ...


class Waiting:
    """A change that waits in line.

    Parameters:
      change(Callable): Computes the new value.
      besides(Callable): Names further keys, which are read after the key itself.
      ttl(float | Callable): For how many milliseconds the new value is kept.
      timeout(float): For how many milliseconds its caller waits.
      undo(Callable): What to do if it is stored though its caller has gone.
    """

    def __init__(self, change: Change, besides: Besides, ttl: TimeToLive, timeout: float, undo: Change | None) -> None:
        self.change = change
        self.besides = besides
        self.ttl = ttl
        self.timeout = timeout
        self.deadline = Deadline.after(timeout)
        self.undo = undo
        self.given_up = False
        self.value: bytes | None = None
        self.outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def resolve(self, error: BaseException | None = None) -> None:
        """Tell the caller."""
        if self.outcome.done() or self.given_up:
            return
        if error is None:
            self.outcome.set_result(self.value)
        else:
            self.outcome.set_exception(error)


class _Line:
    """The changes to one key."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.lost_races = 0
        self.task: asyncio.Task[None] | None = None


class Changes:
    """Compare-and-set, with one write under way for each key: all changes that wait go into the next one.

    Parameters:
      values(Values): The bucket's values.
    """

    def __init__(self, values: Values) -> None:
        self._values = values
        self._lines: dict[str, _Line] = {}
        self._session: Session | None = None

    async def make(self, session: Session, key: str, mine: Waiting) -> bytes | None:
        """Make a change, after those that came before it; on the loop.

        Raises:
          CallTimeout: If it is not made within the caller's time.

        Returns:
          bytes: The new value, or None if it was left.
        """
        if self._session is not session:
            self._session, self._lines = session, {}
        line = self._lines.setdefault(key, _Line())
        line.waiting.append(mine)
        if line.task is None:
            line.task = asyncio.ensure_future(self._run(session, key, line))
        try:
            await asyncio.wait([mine.outcome], timeout=mine.deadline.left)
            if mine.outcome.done():
                return mine.outcome.result()
        finally:
            mine.given_up = not mine.outcome.done()
        reason = "is so busy that it" if line.lost_races else "of which nobody answers"
        raise CallTimeout(
            f"the key {key!r} of bucket {self._values.bucket!r} {reason} could not be changed within "
            f"{mine.timeout:.0f} ms: let fewer processes contend for it, and check that the server is up"
        )

    async def _run(self, session: Session, key: str, line: _Line) -> None:
        try:
            while batch := self._next(line):
                try:
                    stored = await self._attempt(session, key, batch)
                except Exception as error:
                    self._settle(line, batch, error)
                    continue
                if stored:
                    line.lost_races = 0
                    self._settle(line, batch)
                else:
                    line.lost_races += 1
                    await asyncio.sleep(_pause(line.lost_races, batch[0]))
        finally:
            if self._lines.get(key) is line:
                del self._lines[key]
            for left in line.waiting:
                left.resolve(ConnectionClosed("the connection was closed before this was done"))

    def _next(self, line: _Line) -> list[Waiting]:
        line.waiting = [each for each in line.waiting if not each.given_up]
        return list(line.waiting)

    def _settle(self, line: _Line, batch: Sequence[Waiting], error: Exception | None = None) -> None:
        line.waiting = line.waiting[len(batch) :]
        for each in batch:
            each.resolve(error)
            if each.given_up and each.value is not None and error is None and each.undo is not None:
                # Its caller does not know of it, and would not take it back.
                line.waiting.insert(0, Waiting(each.undo, nothing_besides, each.ttl, each.timeout, None))

    async def _attempt(self, session: Session, key: str, batch: Sequence[Waiting]) -> bool:
        """Make changes one after the other and write what comes of them; False if somebody else was faster."""
        deadline = max(each.deadline for each in batch)
        entry = await self._values.read_last(session, key, deadline)
        value, ttl, changed = entry.value, 0.0, False
        for each in batch:
            besides = each.besides(value)
            others = await self._values.read_all(session, besides, deadline) if besides else ()
            each.value = each.change(value, others)
            if each.value is not None:
                value, ttl, changed = each.value, each.ttl(each.value) if callable(each.ttl) else each.ttl, True
        if not changed or value is None:
            return True
        return await self._values.write(session, key, value, ttl, entry.revision, deadline)


def nothing_besides(_: bytes | None) -> Sequence[str]:
    return ()


def _pause(lost_races: int, oldest: Waiting) -> float:
    """The seconds before the next attempt: the longer the oldest waits, the sooner it tries again."""
    patience = oldest.deadline.left * 1000 / oldest.timeout if oldest.timeout else 0.0
    return random.uniform(0, min(MIN_PAUSE * 2 ** min(lost_races, 10), MAX_PAUSE) * patience) / 1000
