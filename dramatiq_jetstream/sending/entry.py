"""One message of a batch, and the answers that a batch waits for."""

from __future__ import annotations

from typing import Any

from dramatiq import Message

from ..client import Outcome, Session, Slot, new_slot
from ..errors import ApiError
from ..wire import Publication
from .queue import Queue


class Answers:
    """Counts answers, and wakes who waits for so many; on the loop, but for :meth:`wait`."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: tuple[int, Slot] | None = None

    def arrived(self) -> None:
        self.count += 1
        if self._waiting is not None:
            self._check()

    def wait(self, count: int, session: Session) -> bool:
        """Wait for that many, on any other thread; False if there is none within the timeout."""
        while self.count < count:
            before, slot = self.count, new_slot()
            self._waiting = count, slot
            session.thread.call_soon(self._check)
            try:
                slot.take(session.timeout)
            except TimeoutError:
                if self.count == before:
                    return False
        return True

    def _check(self) -> None:
        waiting = self._waiting
        if waiting is not None and self.count >= waiting[0]:
            self._waiting = None
            waiting[1].put(None)


class Entry:
    """One message of a batch."""

    __slots__ = ("delay", "message", "outcome", "passing", "publication", "queue", "token")

    def __init__(self, message: Message[Any], delay: int | None, queue: Queue, publication: Publication) -> None:
        self.message = message
        self.delay = delay
        self.queue = queue
        self.publication = publication
        self.outcome: Outcome | None = None
        #: The server's last answer, if that was one which asking again may change.
        self.passing: ApiError | None = None
        self.token = b""
