"""Filling queues, as fast as each broker allows."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from dramatiq import Actor, Message

from .bench import THREADS, Bench, NotMeasured
from .raw_socket import RawSocket


def enqueue_all(broker: Any, messages: list[Message[Any]], delay: int | None = None) -> None:
    """Enqueue messages, all together where the broker can do that."""
    if delay is None and hasattr(broker, "enqueue_many"):
        broker.enqueue_many(messages)
    elif hasattr(broker, "enqueue_many") and "delay" in inspect.signature(broker.enqueue_many).parameters:
        broker.enqueue_many(messages, delay=delay)
    else:
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(partial(broker.enqueue, delay=delay), messages):
                pass


def fill_stream(bench: Bench, broker: Any, actor: Actor[..., Any], count: int) -> None:
    """Store so many messages to an actor in its queue's stream, past the broker."""
    if not count:
        return
    if bench.contender.server != "nats":
        raise NotMeasured("only a stream is filled past its broker")
    subject = broker.queue(actor.queue_name).route.subject(actor.actor_name)
    with RawSocket(bench.url) as raw:
        raw.publish_all(subject, _bodies(actor.message(), count))


def _bodies(message: Message[Any], count: int) -> Iterator[bytes]:
    """The same message under so many ids."""
    before, after = message.encode().split(message.message_id.encode())
    for _ in range(count):
        yield before + str(uuid.uuid4()).encode() + after
