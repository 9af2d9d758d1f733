"""Many messages enqueued with one wait for all."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import partial
from types import TracebackType
from typing import Any

from dramatiq import Message

from ..client import Connection, Outcome, check_may_block
from ..errors import (
    ApiError,
    BatchFailed,
    BatchFailure,
    BatchUnconfirmed,
    BrokerConnectionError,
    BrokerError,
    CallTimeout,
    EnqueueRejected,
    StreamNotFound,
)
from ..logs import get_logger
from ..wire import Publication
from .entry import Answers, Entry
from .queue import Queue

#: How many messages may be on their way to the server at once, and their bytes.  Beyond that,
#: enqueueing waits, so that memory stays flat however large the batch is.
WINDOW = 2_048
WINDOW_BYTES = 16 * 1024 * 1024

#: Called with each stored message and its delay.
OnStored = Callable[[Message[Any], int | None], object]

#: Called with the error of a failed batch.
OnFailed = Callable[[Exception], object]

#: The batch that a thread, or a task, fills at the moment.
_filling: ContextVar[Batch | None] = ContextVar("batch", default=None)

if hasattr(os, "register_at_fork"):
    # Nobody in the child would ever finish its parent's batch.
    os.register_at_fork(after_in_child=lambda: _filling.set(None))


class _Exit:
    """Gives each ``with`` block a handle of its own that ends the batch, by which a block that is over is known.

    An exception that dramatiq throws into a thread may hit ``__exit__`` before its first line.  The block
    alone holds the handle, so it is gone then, while the batch itself may live on in a traceback.
    """

    def __get__(self, batch: Batch | None, owner: type[Batch]) -> Callable[..., None]:
        if batch is None:
            return owner.leave
        handle = partial(batch.leave)
        batch._block = weakref.ref(handle)
        return handle


class Batch:
    """What is enqueued inside a ``with`` block; see :meth:`JetStreamBroker.batch`.

    Parameters:
      connection(Connection): The way to the server.
      stored(Callable): Called with each stored message and its delay.
      failed(Callable): Called with the error of the batch before it is raised.
    """

    def __init__(self, connection: Connection, stored: OnStored, failed: OnFailed) -> None:
        self.logger = get_logger(__name__, type(self))
        self.connection = connection
        self.failures: list[BatchFailure] = []
        self._stored = stored
        self._on_failed = failed
        self._count = 0
        #: What enqueues the failed messages once more.
        self._failed: list[Callable[[], Message[Any]]] = []
        #: Why nothing more is sent: the server is away, and each message would wait for it as long again.
        self._away: BrokerConnectionError | None = None
        self._owner: int | None = None
        self._token: Token[Batch | None] | None = None
        #: The handle of the block that fills it.
        self._block: weakref.ref[Callable[..., None]] | None = None

    @classmethod
    def of(cls, connection: Connection) -> Batch | None:
        """The batch that the caller fills, if it is one over this connection.

        Tasks and threads that were begun inside its block know of it too, and may still when it has ended.
        """
        batch = _filling.get()
        return batch if batch is not None and batch.connection is connection and batch._is_filled_here else None

    @property
    def _is_filled_here(self) -> bool:
        return self._owner == threading.get_ident() and (self._block is None or self._block() is not None)

    def __enter__(self) -> Batch:
        check_may_block()
        self._token = _filling.set(self)
        self._owner = threading.get_ident()
        return self

    __exit__ = _Exit()

    def leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the block."""
        self._owner = None
        if self._token is not None:
            _filling.reset(self._token)
        if exc is None:
            self.finish()
            return
        self.abandon()
        if self.failures:
            self.logger.error(
                "The block of a batch raised; in addition: %s", BatchFailed(self.failures, self._count, self._again)
            )

    def add(self, message: Message[Any], delay: int | None, queue: Queue, publication: Publication) -> None:
        """Take one more message.  Raises whatever enqueueing it alone would raise at once."""
        if self._away is None:
            queue.prepare(publication)
        self.send(Entry(message, delay, queue, publication))
        self._count += 1

    def attempt(self, message: Message[Any], enqueue: Callable[[Message[Any]], Message[Any]]) -> Message[Any]:
        """Enqueue a message, and note it if that fails."""
        try:
            return enqueue(message)
        except Exception as error:
            if isinstance(error, BrokerConnectionError):
                self._away = error
            self._count += 1
            self.fail(message, error, partial(self.attempt, message, enqueue))
            return message

    def fail(self, message: Message[Any], error: Exception, again: Callable[[], Message[Any]]) -> None:
        """Note that a message is not stored, and what enqueues it once more."""
        self.failures.append(BatchFailure(message, error))
        self._failed.append(again)

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
        """Leave the batch because of an exception; messages already sent are not revoked."""
        raise NotImplementedError

    def close(self, entry: Entry, outcome: Outcome | None) -> None:
        """Note what became of a message."""
        error = self._error_of(entry, outcome)
        if error is None:
            self._stored(entry.message, entry.delay)
        else:
            self.fail(entry.message, error, partial(self._resend, entry))

    def check(self) -> None:
        """Raise BatchFailed if a message could not be stored."""
        if not self.failures:
            return
        failures, self.failures = self.failures, []
        unconfirmed = all(isinstance(failure.error, BrokerConnectionError) for failure in failures)
        kind = BatchUnconfirmed if unconfirmed else BatchFailed
        error = kind(failures, self._count, self._again)
        self._on_failed(error)
        raise error

    def _error_of(self, entry: Entry, outcome: Outcome | None) -> Exception | None:
        if outcome is None:
            return self.connection.session().unconfirmed(entry.publication, entry.passing)
        if isinstance(outcome, ApiError):
            return entry.queue.rejection(outcome, entry.publication)
        return outcome if isinstance(outcome, Exception) else None

    def _again(self) -> list[Message[Any]]:
        failed, self._failed = self._failed, []
        self._count, self._away = 0, None
        with self:
            return [again() for again in failed]

    def _resend(self, entry: Entry) -> Message[Any]:
        try:
            self.add(entry.message, entry.delay, entry.queue, entry.publication)
        except BrokerError as error:
            self._count += 1
            self.fail(entry.message, error, partial(self._resend, entry))
        return entry.message


class PipelinedBatch(Batch):
    """Sends each message at once, and waits for the answers only when too many are missing, or at the end."""

    def __init__(self, connection: Connection, stored: OnStored, failed: OnFailed) -> None:
        super().__init__(connection, stored, failed)
        self._open: list[Entry] = []
        self._bytes = 0
        self._answers = Answers()
        #: Queues whose streams are gone, and why there are no new ones.
        self._gone: dict[Queue, BrokerError] = {}

    def send(self, entry: Entry) -> None:
        if self._away is not None:
            self.close(entry, self._away)
            return
        answers = self._answers

        def answered(outcome: Outcome) -> None:
            entry.outcome = outcome
            answers.arrived()

        session = self.connection.session()
        entry.token = session.publisher.new_token()
        session.submit(entry.publication, answered, entry.token)
        self._open.append(entry)
        self._bytes += len(entry.publication.body)
        if len(self._open) >= WINDOW or self._bytes >= WINDOW_BYTES:
            self._settle(len(self._open) // 2)

    def finish(self) -> None:
        self._settle(0)
        self._gone.clear()
        self.check()

    def abandon(self) -> None:
        self._settle(0)

    def _settle(self, left: int) -> None:
        """Wait until no more than so many messages are unanswered, and close the answered ones."""
        if not self._open:
            return
        session = self.connection.session()
        while (missing := self._missing(left)) > 0:
            if not self._answers.wait(missing, session):
                self._give_up()
                break
        answered = [entry for entry in self._open if entry.outcome is not None]
        self._open = [entry for entry in self._open if entry.outcome is None]
        for entry in answered:
            self._bytes -= len(entry.publication.body)
            self.close(entry, self._second_opinion(entry))

    def _missing(self, left: int) -> int:
        """How many answers must have arrived in all until no more than so many messages are unanswered; 0 if so now."""
        # Counted first: what arrives meanwhile makes it too few, and there is another round.
        count = self._answers.count
        missing = sum(entry.outcome is None for entry in self._open) - left
        return count + missing if missing > 0 else 0

    def _give_up(self) -> None:
        session = self.connection.session()
        given_up, self._open = self._open, []
        self._bytes, self._answers = 0, Answers()
        self._away = CallTimeout(
            f"not sent, because the server at {session.address} confirmed none of the messages before it within "
            f"{session.settings.timeout} ms"
        )
        for entry in given_up:
            entry.passing = session.publisher.forget(entry.token)
        for entry in given_up:
            self.close(entry, entry.outcome)

    def _second_opinion(self, entry: Entry) -> Outcome | None:
        """What the server said; where it knew no such stream, what it says to another attempt."""
        missing = entry.outcome
        if not isinstance(missing, StreamNotFound):
            return missing
        if entry.queue not in self._gone:
            try:
                return entry.queue.store_persistently(entry.publication, repeated=missing.repeated)
            except EnqueueRejected as error:
                return error
            except BrokerError as error:
                # The others would wait for the stream as long again.
                self._gone[entry.queue] = error
        gone = self._gone[entry.queue]
        return entry.queue.unknown(gone) if missing.repeated and isinstance(gone, StreamNotFound) else gone
