"""The server's advisories about our streams, read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dramatiq.common import current_millis

from ..broker import JetStreamBroker
from ..streams import reading

SUBJECT = "$JS.EVENT.ADVISORY"

#: What the third and fourth token of an advisory's subject say.
KINDS = {
    ("CONSUMER", "MAX_DELIVERIES"): "delivery attempts exceeded",
    ("CONSUMER", "MSG_TERMINATED"): "message terminated",
    ("CONSUMER", "MSG_NAKED"): "message naked",
    ("CONSUMER", "PAUSE"): "consumer paused",
    ("CONSUMER", "CREATED"): "consumer created",
    ("CONSUMER", "UPDATED"): "consumer updated",
    ("CONSUMER", "DELETED"): "consumer deleted",
    ("CONSUMER", "LEADER_ELECTED"): "consumer leader elected",
    ("CONSUMER", "QUORUM_LOST"): "consumer quorum lost",
    ("STREAM", "CREATED"): "stream created",
    ("STREAM", "UPDATED"): "stream updated",
    ("STREAM", "DELETED"): "stream deleted",
    ("STREAM", "LEADER_ELECTED"): "stream leader elected",
    ("STREAM", "QUORUM_LOST"): "stream quorum lost",
}


@dataclass(frozen=True)
class Event:
    """Something that happened to a stream or consumer of ours.

    Parameters:
      at(int): When, in UNIX milliseconds.
      kind(str): What, such as ``"delivery attempts exceeded"``.
      queue(str): The queue, if it is one's.
      stream(str): The stream.
      consumer(str): The durable consumer, if it is about one.
      sequence(int): The message's sequence in the stream, if it is about one.
      deliveries(int): How often the message was delivered.
      reason(str): What the one who ended the message said.
      until(int): Until when a consumer is paused, in UNIX milliseconds.
    """

    at: int
    kind: str
    queue: str | None
    stream: str
    consumer: str | None
    sequence: int | None
    deliveries: int | None
    reason: str | None
    until: int | None


@contextmanager
def follow_events(broker: JetStreamBroker, callback: Callable[[Event], object]) -> Iterator[None]:
    """Have a callback called, on the connection's own thread, for each event while a with block lasts.

    Raises:
      PermissionDenied: If this user may not subscribe to advisories.
      BrokerConnectionError: If the server cannot be reached.
    """
    queues = {broker.queue(name).route.stream: name for name in broker.get_declared_queues()}

    def on_advisory(subject: str, body: bytes) -> None:
        event = read_event(subject, body, queues)
        if event is not None and (event.queue or _is_ours(broker, event.stream)):
            callback(event)

    with broker.subscribe(f"{SUBJECT}.*.>", on_advisory):
        yield


def read_event(subject: str, body: bytes, queues: dict[str, str]) -> Event | None:
    """Read an advisory, or return None if it is of no interest or cannot be read.

    Parameters:
      subject(str): Its subject.
      body(bytes): Its body.
      queues(dict): The queue of each stream.
    """
    tokens = subject.removeprefix(f"{SUBJECT}.").split(".")
    kind = KINDS.get((tokens[0], tokens[1])) if len(tokens) > 2 else None
    if kind is None:
        return None
    try:
        fields = json.loads(body)
        return _event(kind, fields, queues)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _event(kind: str, fields: dict[str, Any], queues: dict[str, str]) -> Event:
    stream = fields["stream"]
    paused_until = fields.get("pause_until") if fields.get("paused") else None
    if kind == "consumer paused" and not fields.get("paused"):
        kind = "consumer resumed"
    return Event(
        at=_milliseconds(fields["timestamp"]) if "timestamp" in fields else current_millis(),
        kind=kind,
        queue=queues.get(stream),
        stream=stream,
        consumer=fields.get("consumer"),
        sequence=fields.get("stream_seq"),
        deliveries=fields.get("deliveries"),
        reason=fields.get("reason"),
        until=_milliseconds(paused_until) if paused_until else None,
    )


def _is_ours(broker: JetStreamBroker, stream: str) -> bool:
    names = broker.names
    ours: Collection[str] = (names.dead_letters, f"KV_{broker.attempts.bucket}")
    return stream in ours or names.queue_name(stream) is not None or stream.startswith(names.advisories)


def _milliseconds(moment: str) -> int:
    return reading.nanoseconds(moment) // 1_000_000
