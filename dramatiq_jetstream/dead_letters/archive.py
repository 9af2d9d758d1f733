"""Dead letters for the person who looks after them: list, get, requeue, purge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dramatiq import Message
from dramatiq.errors import DecodeError

from ..client import Connection, Session
from ..deliveries import Bookkeeping
from ..errors import BrokerConnectionError, BrokerError, StreamNotFound, UnsupportedMessage
from ..logs import get_logger
from ..names import Names
from ..sending import Queue, publication
from ..streams import StoredMessage, reading
from ..wire import ACTOR, MSG_ID, Publication, quote_text
from .entry import DeadLetter

#: How many dead letters are moved or removed at a time at most.
OUTSTANDING = 256

#: How many bytes of them; the last one may exceed that.
OUTSTANDING_BYTES = 8 * 1024 * 1024

#: Options that earlier attempts set, and that a requeued message must not have.
SPENT_OPTIONS = ("retries", "traceback", "requeue_timestamp")


class DeadLetters:
    """The dead letters of a broker's namespace.

    Parameters:
      connection(Connection): The way to the server.
      names(Names): The names of the namespace.
      queue(Callable): Gives a queue by name.
    """

    def __init__(self, connection: Connection, names: Names, queue: Callable[[str], Queue]) -> None:
        self.logger = get_logger(__name__, type(self))
        self._connection = connection
        self._names = names
        self._queue = queue

    def list(
        self, queue_name: str | None = None, actor_name: str | None = None, *, after: int = 0
    ) -> Iterator[DeadLetter]:
        """Go through the dead letters, oldest first, a page at a time.

        Parameters:
          queue_name(str): Only those of this queue.
          actor_name(str): Only those of this actor.
          after(int): Only those with a higher number.

        Raises:
          BrokerConnectionError: If the server cannot be reached.
        """
        subject = self._names.dead_subject(queue_name, actor_name)
        yield from map(DeadLetter.read, reading.walk(self._connection, self._names.dead_letters, subject, after))

    def get(self, number: int) -> DeadLetter | None:
        """Get a dead letter by its number, or None if there is none."""
        try:
            found = self._connection.call(partial(reading.get, stream=self._names.dead_letters, sequence=number))
        except StreamNotFound:
            return None
        return DeadLetter.read(found) if found else None

    def requeue(self, entry: DeadLetter) -> None:
        """Put a dead letter back into its queue, with all its attempts ahead of it.

        It leaves the dead letters once the queue has stored it; repeating this after a crash does
        not store it twice.

        Raises:
          UnsupportedMessage: If it cannot be decoded, or is gone from the stream that kept it.
          BrokerConnectionError: If the server cannot be reached.
        """
        queue = self._queue_of(entry)
        queue.store(self._publication(queue, entry, self._kept(entry) if entry.kept else _own(entry)))
        if entry.kept:
            self._connection.call(partial(reading.delete, stream=entry.stream, sequence=entry.sequence))
        self.delete(entry)

    def requeue_all(self, entries: Iterable[DeadLetter]) -> Iterator[tuple[DeadLetter, BrokerError | None]]:
        """Put dead letters back into their queues, many at a time, each as :meth:`requeue` does.

        Raises:
          BrokerConnectionError: If the server cannot be reached.

        Returns:
          Iterator: Each entry, with what kept it among the dead letters, if anything did.
        """
        for page in _pages(entries):
            moved = self._connection.call(partial(self._move_all, entries=page))
            for entry, done in zip(page, moved, strict=True):
                yield entry, None if done else self._try(entry)

    def delete_all(self, entries: Iterable[DeadLetter]) -> int:
        """Delete entries, many at a time; return how many still existed."""
        return sum(self._connection.call(partial(self._delete_all, entries=page)) for page in _pages(entries))

    def delete(self, entry: DeadLetter) -> bool:
        """Delete one entry; return whether it still existed."""
        return self._connection.call(partial(reading.delete, stream=self._names.dead_letters, sequence=entry.number))

    def purge(self, queue_name: str | None = None, actor_name: str | None = None) -> int:
        """Delete dead letters; return how many.

        Parameters:
          queue_name(str): Only those of this queue.
          actor_name(str): Only those of this actor.

        Raises:
          BrokerConnectionError: If the server cannot be reached.
        """
        subject = self._names.dead_subject(queue_name, actor_name)
        return self._connection.call(partial(reading.purge, stream=self._names.dead_letters, subject=subject))

    def _try(self, entry: DeadLetter) -> BrokerError | None:
        """Requeue an entry that could not be moved along with others; what is wrong with it shows now."""
        try:
            self.requeue(entry)
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            return error
        except ValueError as error:
            return UnsupportedMessage(f"dead letter {entry.number} cannot be requeued: {error}")
        return None

    async def _move_all(self, session: Session, entries: Sequence[DeadLetter]) -> Sequence[bool]:
        return await asyncio.gather(*(self._move(session, entry) for entry in entries))

    async def _move(self, session: Session, entry: DeadLetter) -> bool:
        """Move an entry if that goes without further ado, and tell whether it did."""
        if entry.kept:
            return False
        try:
            queue = self._queue_of(entry)
            await session.store(self._publication(queue, entry, _own(entry)))
            await reading.delete(session, self._names.dead_letters, entry.number)
        except BrokerConnectionError:
            raise
        except (BrokerError, ValueError) as error:
            self.logger.debug("Dead letter %d is requeued on its own: %s", entry.number, error)
            return False
        return True

    async def _delete_all(self, session: Session, entries: Sequence[DeadLetter]) -> int:
        stream = self._names.dead_letters
        return sum(await asyncio.gather(*(reading.delete(session, stream, entry.number) for entry in entries)))

    def _queue_of(self, entry: DeadLetter) -> Queue:
        try:
            queue = self._queue(entry.queue_name)
        except ValueError as error:
            raise UnsupportedMessage(f"dead letter {entry.number} names no queue: {error}") from error
        if entry.kept and entry.stream != queue.route.stream:
            # Its message is removed from there.
            raise UnsupportedMessage(
                f"dead letter {entry.number} says that its message is in the stream {entry.stream!r:.300}, but "
                f"{queue.route.describe()} has another: declare the queue as it is bound, with WorkQueue(stream=…)"
            )
        return queue

    def _publication(self, queue: Queue, entry: DeadLetter, source: StoredMessage) -> Publication:
        if entry.part is not None and not entry.kept:
            raise UnsupportedMessage(
                f"dead letter {entry.number} of queue {entry.queue_name!r} is part {entry.part} of a message that is "
                "too large to be sent again"
            )
        fresh = publication(queue.route, queue.payload, _fresh(self._decode(queue, entry, source)))
        return fresh.named(f"requeued.{quote_text(entry.headers.get(MSG_ID, str(entry.number)))}")

    def _kept(self, entry: DeadLetter) -> StoredMessage:
        found = self._connection.call(partial(reading.get, stream=entry.stream, sequence=entry.sequence))
        if found is None:
            raise UnsupportedMessage(f"message {entry.sequence} is no longer in the stream {entry.stream!r}")
        if entry.actor_name is None:
            return found
        # The process that requeues it need not declare the actor of the queue.
        return found._replace(headers={ACTOR: quote_text(entry.actor_name), **found.headers})

    def _decode(self, queue: Queue, entry: DeadLetter, source: StoredMessage) -> Message[Any]:
        try:
            return queue.payload.decode(source)
        except DecodeError as error:
            raise UnsupportedMessage(
                f"dead letter {entry.number} of queue {entry.queue_name!r} cannot be requeued: {error}"
            ) from error


def _pages(entries: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """Entries in groups that are bounded in number and in bytes."""
    page: list[DeadLetter] = []
    size = 0
    for entry in entries:
        page.append(entry)
        size += len(entry.body)
        if len(page) >= OUTSTANDING or size >= OUTSTANDING_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _own(entry: DeadLetter) -> StoredMessage:
    """The message as it stood in its stream."""
    enqueued = entry.enqueued_at * 1_000_000
    return StoredMessage(entry.stream, entry.sequence, "", entry.headers, entry.body, enqueued)


def _fresh(message: Message[Any]) -> Message[Any]:
    options = {name: value for name, value in message.options.items() if name not in SPENT_OPTIONS}
    Bookkeeping.take_old(options)
    return replace(message, options=options)
