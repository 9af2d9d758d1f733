"""Looking at messages without consuming them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from dramatiq import Message
from dramatiq.errors import DecodeError

from ..broker import JetStreamBroker
from ..dead_letters import DeadLetter
from ..names import covers
from ..sending import Queue, due_of
from ..streams import StoredMessage, counts, reading
from ..wire import SCHEDULE


@dataclass(frozen=True)
class StoredView:
    """A message in a stream.

    Parameters:
      queue(str): The queue.
      stream(str): The stream.
      sequence(int): Its sequence there.
      state(str): ``"ready"``, ``"held"`` by a worker or for a retry, ``"delayed"``, ``"exhausted"``, or ``"dead"``.
      actor(str): The actor it is for, if it can be decoded.
      message_id(str): dramatiq's id of it, if it can be decoded.
      args(tuple): Its positional arguments.
      kwargs(dict): Its keyword arguments.
      options(dict): Its options.
      stored_at(int): When the stream stored it, in UNIX milliseconds.
      due(int): When it is due, in UNIX milliseconds, if it is delayed and that can be told.
      error(str): Why it cannot be decoded, if it cannot.
      body(bytes): Its body.
      headers(dict): Its headers.
      schedule(str): The server's schedule of it, if it is delayed; without one, it is never delivered.
      subject(str): Its subject.
      enqueued_at(int): When it was sent, as it says itself, in UNIX milliseconds, if it can be decoded.
    """

    queue: str
    stream: str
    sequence: int
    state: str
    actor: str | None
    message_id: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    stored_at: int
    due: int | None
    error: str | None
    body: bytes
    headers: dict[str, str]
    schedule: str | None = None
    subject: str = ""
    enqueued_at: int | None = None


def peek(broker: JetStreamBroker, queue_name: str, limit: int | None = None) -> Iterator[StoredView]:
    """Go through a queue's messages, oldest first, without consuming them; delayed ones come last.

    Parameters:
      broker(JetStreamBroker): The broker.
      queue_name(str): The queue.
      limit(int): How many at most.

    Raises:
      QueueNotFound: If it was never declared.
      BrokerConnectionError: If the server cannot be reached.
    """
    queue = broker.queue(queue_name)
    return islice(_all(broker, queue), limit)


def show(broker: JetStreamBroker, queue_name: str, sequence: int) -> StoredView | None:
    """Look at the message of a sequence in a queue's stream; None if there is none."""
    queue = broker.queue(queue_name)
    found = broker.connection.call(partial(reading.get, stream=queue.route.stream, sequence=sequence))
    return None if found is None else _read(queue, found, _reader(broker, queue).state(found))


def find_message(broker: JetStreamBroker, message_id: str) -> Iterator[StoredView | DeadLetter]:
    """Go through all that is stored of a message: in the declared queues, delayed, and among the dead letters."""
    for queue_name in sorted(broker.get_declared_queues()):
        found = _all(broker, broker.queue(queue_name))
        yield from (view for view in found if view.message_id == message_id)
    yield from (letter for letter in broker.dead_letters.list() if letter.message_id == message_id)


@dataclass(frozen=True)
class _Reader:
    """Tells the states of a queue's messages."""

    passed: int
    floor: int
    held: int
    scheduled: str

    def state(self, found: StoredMessage) -> str:
        if covers(self.scheduled, found.subject):
            return "delayed"
        if found.sequence > self.passed:
            return "ready"
        # Nothing up to the floor is held any more.
        return "held" if self.held and found.sequence > self.floor else "exhausted"


def _reader(broker: JetStreamBroker, queue: Queue) -> _Reader:
    state = broker.connection.call(lambda session: counts.inspect(session, queue.route))
    consumer = state.consumer
    passed = consumer.get("delivered", {}).get("stream_seq", 0)
    floor = consumer.get("ack_floor", {}).get("stream_seq", 0)
    return _Reader(passed, floor, consumer.get("num_ack_pending", 0), broker.names.delayed_subject(queue.name))


def _all(broker: JetStreamBroker, queue: Queue) -> Iterator[StoredView]:
    route, reader = queue.route, _reader(broker, queue)
    subjects = [route.filter] if route.settings.bound else [route.filter, route.names.delayed_subject(queue.name)]
    for subject in subjects:
        for found in reading.walk(broker.connection, route.stream, subject):
            yield _read(queue, found, reader.state(found))


def _read(queue: Queue, found: StoredMessage, state: str) -> StoredView:
    message, error = _decode(queue, found)
    return StoredView(
        queue=queue.name,
        stream=queue.route.stream,
        sequence=found.sequence,
        state=state,
        actor=message.actor_name if message else None,
        message_id=message.message_id if message else None,
        args=tuple(message.args) if message else (),
        kwargs=dict(message.kwargs) if message else {},
        options=dict(message.options) if message else {},
        stored_at=found.timestamp // 1_000_000,
        due=due_of(found) if state == "delayed" else None,
        error=error,
        body=found.body,
        headers=found.own_headers,
        schedule=found.headers.get(SCHEDULE) if state == "delayed" else None,
        subject=found.subject,
        enqueued_at=message.message_timestamp if message else None,
    )


def _decode(queue: Queue, found: StoredMessage) -> tuple[Message[Any] | None, str | None]:
    try:
        return queue.payload.decode(found), None
    except DecodeError as error:
        return None, error.args[0]
