"""Many messages enqueued with one wait for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from dramatiq import Message

from .connection import Connection
from .errors import (
    ApiError,
    BatchFailed,
    BatchFailure,
    BatchUnconfirmed,
    BrokerConnectionError,
    BrokerError,
    EnqueueRejected,
    StreamNotFound,
)
from .publisher import Outcome, Receipt
from .queues import Queue
from .session import Session
from .threads import Slot, new_slot
from .wire import Publication, new_id

#: How many messages may be on their way to the server at once, and their bytes.  Beyond that,
#: enqueueing waits, so that memory stays flat however large the batch is.
WINDOW = 2_048
WINDOW_BYTES = 16 * 1024 * 1024

#: The most messages that the server stores together (nats-server's own limit).
MAX_ATOMIC = 1_000

_INCOMPLETE = 10176
_DUPLICATE_IN_BATCH = 10201

#: Told of each message that is stored, and of its delay.
OnStored = Callable[[Message[Any], int | None], object]

#: The batch that a thread, or a task, fills at the moment.
_filling: ContextVar[Batch | None] = ContextVar("batch", default=None)


class _Answers:
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

    __slots__ = ("delay", "message", "outcome", "publication", "queue", "token")

    def __init__(self, message: Message[Any], delay: int | None, queue: Queue, publication: Publication) -> None:
        self.message = message
        self.delay = delay
        self.queue = queue
        self.publication = publication
        self.outcome: Outcome | None = None
        self.token = b""


class Batch:
    """What is enqueued inside a ``with`` block; see :meth:`JetStreamBroker.batch`.

    Parameters:
      connection(Connection): The way to the server.
      stored(Callable): Told of each message that is stored, and its delay.
    """

    def __init__(self, connection: Connection, stored: OnStored) -> None:
        self.connection = connection
        self.failures: list[BatchFailure] = []
        self._stored = stored
        self._count = 0
        self._failed: list[Entry] = []
        self._token: Token[Batch | None] | None = None

    @classmethod
    def of(cls, connection: Connection) -> Batch | None:
        """The batch that the caller fills, if it is one over this connection."""
        batch = _filling.get()
        return batch if batch is not None and batch.connection is connection else None

    def __enter__(self) -> Batch:
        self._token = _filling.set(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _filling.reset(self._token)
        if exc is None:
            self.finish()
        else:
            self.abandon()

    def add(self, message: Message[Any], delay: int | None, queue: Queue, publication: Publication) -> None:
        """Take one more message.  Raises whatever enqueueing it alone would raise at once."""
        queue.prepare(publication)
        self._count += 1
        self.send(Entry(message, delay, queue, publication))

    def attempt(self, message: Message[Any], enqueue: Callable[[Message[Any]], Message[Any]]) -> Message[Any]:
        """Enqueue a message, and note it if that fails."""
        try:
            return enqueue(message)
        except BrokerError as error:
            self._count += 1
            self.failures.append(BatchFailure(message, error))
            return message

    def send(self, entry: Entry) -> None:
        """Send a message on its way, or keep it until the end."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait until the server has stored every message.

        Raises:
          BatchFailed: If it has not.
        """
        raise NotImplementedError

    def abandon(self) -> None:
        """Leave the batch because of an exception; what was sent already stays sent."""
        raise NotImplementedError

    def close(self, entry: Entry, outcome: Outcome | None) -> None:
        """Note what became of a message."""
        error = self._error_of(entry, outcome)
        if error is None:
            self._stored(entry.message, entry.delay)
        else:
            self._failed.append(entry)
            self.failures.append(BatchFailure(entry.message, error))

    def check(self) -> None:
        """Raise BatchFailed if a message could not be stored."""
        if not self.failures:
            return
        failures, self.failures = self.failures, []
        unconfirmed = all(isinstance(failure.error, BrokerConnectionError) for failure in failures)
        kind = BatchUnconfirmed if unconfirmed else BatchFailed
        raise kind(failures, self._count, self._again)

    def _error_of(self, entry: Entry, outcome: Outcome | None) -> Exception | None:
        if outcome is None:
            return self.connection.session().unconfirmed(entry.publication)
        if isinstance(outcome, ApiError):
            return entry.queue.rejection(outcome, entry.publication)
        return outcome if isinstance(outcome, Exception) else None

    def _again(self) -> list[Message[Any]]:
        failed, self._failed = self._failed, []
        self._count = len(failed)
        for entry in failed:
            entry.outcome = None
            entry.queue.prepare(entry.publication)
            self.send(entry)
        self.finish()
        return [entry.message for entry in failed]


class PipelinedBatch(Batch):
    """Sends each message at once, and waits for the answers only when too many are missing, or at the end."""

    def __init__(self, connection: Connection, stored: OnStored) -> None:
        super().__init__(connection, stored)
        self._open: list[Entry] = []
        self._bytes = 0
        self._sent = 0
        self._answers = _Answers()

    def send(self, entry: Entry) -> None:
        answers = self._answers

        def answered(outcome: Outcome) -> None:
            entry.outcome = outcome
            answers.arrived()

        self._open.append(entry)
        self._bytes += len(entry.publication.body)
        entry.token = self.connection.session().submit(entry.publication, answered)
        self._sent += 1
        if len(self._open) >= WINDOW or self._bytes >= WINDOW_BYTES:
            self._settle(len(self._open) // 2)

    def finish(self) -> None:
        self._settle(0)
        self.check()

    def abandon(self) -> None:
        self._settle(0)

    def _settle(self, left: int) -> None:
        """Wait until no more than so many messages are unanswered, and close the answered ones."""
        if not self._answers.wait(self._sent - left, self.connection.session()):
            self._give_up()
        answered = [entry for entry in self._open if entry.outcome is not None]
        self._open = [entry for entry in self._open if entry.outcome is None]
        for entry in answered:
            self._bytes -= len(entry.publication.body)
            self.close(entry, self._second_opinion(entry))

    def _give_up(self) -> None:
        publisher = self.connection.session().publisher
        for entry in self._open:
            publisher.forget(entry.token)
        for entry in self._open:
            self.close(entry, entry.outcome)
        self._open, self._bytes, self._sent, self._answers = [], 0, 0, _Answers()

    def _second_opinion(self, entry: Entry) -> Outcome | None:
        """What the server said; where it knew no such stream, what it says to another attempt."""
        if isinstance(entry.outcome, StreamNotFound):
            try:
                return entry.queue.store(entry.publication)
            except BrokerError as error:
                return error
        return entry.outcome


class AtomicBatch(Batch):
    """Sends all messages together, at the end; the server stores all or none."""

    def __init__(self, connection: Connection, stored: OnStored) -> None:
        super().__init__(connection, stored)
        self._entries: list[Entry] = []
        self._repeated = False

    def send(self, entry: Entry) -> None:
        self._entries.append(entry)

    def abandon(self) -> None:
        self._entries.clear()

    def finish(self) -> None:
        entries, self._entries = self._entries, []
        if self.failures:
            error = EnqueueRejected("not sent, because another message of the same atomic batch failed")
            self.failures += [BatchFailure(entry.message, error) for entry in entries]
        elif entries:
            _check_together(entries)
            outcome = self._submit_until_answered(entries)
            self._repeated = True
            for entry in entries:
                self.close(entry, outcome)
        self.check()

    def _submit_until_answered(self, entries: Sequence[Entry]) -> Outcome | None:
        """The server's word; None if it gives none in time."""
        session = self.connection.session()
        deadline = time.monotonic() + session.timeout
        while True:
            outcome = self._submit(session, entries, deadline)
            if not isinstance(outcome, ApiError):
                return outcome
            self._repeated = self._repeated or outcome.repeated
            if self._repeated and outcome.err_code == _DUPLICATE_IN_BATCH:
                # It went through the first time, when nobody heard the answer.
                return Receipt("", 0, duplicate=True)
            if not (outcome.repeated and outcome.err_code == _INCOMPLETE and time.monotonic() < deadline):
                return outcome

    def _submit(self, session: Session, entries: Sequence[Entry], deadline: float) -> Outcome | None:
        slot = new_slot()
        # What the connection lost half of cannot be completed under its name.
        token = session.submit_together([entry.publication for entry in entries], new_id(), slot.put)
        try:
            outcome: Outcome = slot.take(max(deadline - time.monotonic(), 0))
        except TimeoutError:
            return None
        finally:
            session.publisher.forget(token)
        return outcome


def _check_together(entries: Sequence[Entry]) -> None:
    """Raise ValueError if the server would not store messages together."""
    streams = sorted({entry.queue.route.describe() for entry in entries})
    if len(streams) > 1:
        raise ValueError(f"an atomic batch goes to one queue, and this one has messages for {', '.join(streams)}")
    if len(entries) > MAX_ATOMIC:
        raise ValueError(
            f"an atomic batch has at most {MAX_ATOMIC} messages, and this one has {len(entries)}: make smaller ones, "
            "or leave atomic=True out"
        )
