"""Messages that the server stores together or not at all."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..client import (
    BATCH_INCOMPLETE,
    DUPLICATE_IN_BATCH,
    NO_LEADER_PAUSE,
    Connection,
    Outcome,
    Receipt,
    Session,
    new_slot,
)
from ..errors import ApiError, EnqueueRejected, StreamNotFound
from ..wire import new_id
from .batch import Batch, OnFailed, OnStored
from .entry import Entry
from .queue import Queue

#: The most messages that the server stores together (nats-server's own limit).
MAX_ATOMIC = 1_000


class AtomicBatch(Batch):
    """Sends all messages together, at the end; the server stores all or none."""

    def __init__(self, connection: Connection, stored: OnStored, failed: OnFailed) -> None:
        super().__init__(connection, stored, failed)
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
            for entry in entries:
                self.close(entry, error)
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
            if isinstance(outcome, StreamNotFound) and time.monotonic() + NO_LEADER_PAUSE < deadline:
                self._find_stream(entries[0].queue)
                continue
            if not isinstance(outcome, ApiError):
                return outcome
            self._repeated = self._repeated or outcome.repeated
            if self._repeated and outcome.err_code == DUPLICATE_IN_BATCH:
                # The first attempt was stored, but its answer was lost.
                return Receipt("", 0, duplicate=True)
            if not (outcome.repeated and outcome.err_code == BATCH_INCOMPLETE and time.monotonic() < deadline):
                return outcome

    def _find_stream(self, queue: Queue) -> None:
        """Create a stream that the server did not find, or wait for it: it may have no leader."""
        time.sleep(NO_LEADER_PAUSE)
        self.connection.call(queue.find_stream)

    def _error_of(self, entry: Entry, outcome: Outcome | None) -> Exception | None:
        if isinstance(outcome, ApiError) and outcome.err_code == BATCH_INCOMPLETE:
            return EnqueueRejected(
                f"{entry.queue.route.describe()} refused a message of an atomic batch, and the server does not say "
                "which: compare their sizes with the stream's max_msg_size, or leave atomic=True out to learn it"
            )
        return super()._error_of(entry, outcome)

    def _submit(self, session: Session, entries: Sequence[Entry], deadline: float) -> Outcome | None:
        slot, token = new_slot(), session.publisher.new_token()
        try:
            # What the connection lost half of cannot be completed under its name.
            session.submit_together([entry.publication for entry in entries], new_id(), slot.put, token)
            outcome: Outcome = slot.take(max(deadline - time.monotonic(), 0))
        except TimeoutError:
            entries[-1].passing = session.publisher.forget(token)
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
