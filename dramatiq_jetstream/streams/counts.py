"""Counting and dropping a queue's messages."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from ..client import Connection, Session
from ..errors import ConsumerNotFound, StreamNotFound
from ..names import Names
from . import reading
from .route import Route

#: Seconds for which messages must look exhausted before a wait believes it: a consumer's counts lag behind its
#: stream's, and a message that has just been stored or moved looks exhausted meanwhile.
SETTLING = 0.5


class QueueCounts(NamedTuple):
    """How many messages of a queue are where.

    Parameters:
      ready(int): Waiting for a worker.
      running(int): Held by a worker, or waiting for a retry.
      delayed(int): Held back by the server until their time.
      exhausted(int): Out of attempts and still in the stream.
      dead(int): In the dead-letter stream.
    """

    ready: int = 0
    running: int = 0
    delayed: int = 0
    exhausted: int = 0
    dead: int = 0

    @property
    def unfinished(self) -> int:
        """How many are still to be worked on."""
        return self.ready + self.running + self.delayed


class QueueState(NamedTuple):
    """The server's information about a queue.

    Parameters:
      stream(dict): The stream's configuration and state; empty if there is no such stream.
      consumer(dict): The consumer's; empty if there is none.
      counts(QueueCounts): How many messages are where.
    """

    stream: dict[str, Any]
    consumer: dict[str, Any]
    counts: QueueCounts


async def count(session: Session, route: Route) -> QueueCounts:
    """Count a queue's messages; a queue that is not on the server yet has none."""
    return (await inspect(session, route)).counts


def wait_until_done(connection: Connection, route: Route, interval: int, timeout: int | None) -> bool:
    """Wait until nothing of a queue is left to be worked on; from any thread but the loop's.

    Parameters:
      connection(Connection): The way to the server.
      route(Route): The queue.
      interval(int): The milliseconds between two looks.
      timeout(int): The milliseconds to wait at most; None for ever.

    Returns:
      bool: Whether that was so within the timeout.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout / 1000
    idle_since = math.inf
    while True:
        counts = connection.call(lambda session: count(session, route))
        now = time.monotonic()
        idle_since = math.inf if counts.unfinished else min(idle_since, now)
        if not counts.unfinished and (not counts.exhausted or now - idle_since >= SETTLING):
            return True
        if now >= deadline:
            return False
        time.sleep(interval / 1000)


async def inspect(session: Session, route: Route) -> QueueState:
    """Ask the server for all it knows of a queue."""
    stream = await _info(session, f"STREAM.INFO.{route.stream}", {"subjects_filter": route.filter})
    consumer = await _info(session, f"CONSUMER.INFO.{route.stream}.{route.consumer}")
    state = stream.get("state", {})
    work = sum((state.get("subjects") or {}).values())
    ready = consumer.get("num_pending", work)
    running = consumer.get("num_ack_pending", 0)
    counts = QueueCounts(
        ready=ready,
        running=running,
        delayed=0 if route.settings.bound else max(state.get("messages", 0) - work, 0),
        exhausted=max(work - ready - running, 0),
        dead=await _count_dead(session, route.names, route.queue_name),
    )
    return QueueState(stream, consumer, counts)


async def count_held(session: Session, stream: str, consumer: str) -> int:
    """How many messages of a consumer are held by workers, or wait for a retry."""
    info = await _info(session, f"CONSUMER.INFO.{stream}.{consumer}")
    return int(info.get("num_ack_pending", 0))


async def purge(session: Session, route: Route) -> None:
    """Drop a queue's messages; in a stream owned by this package also the delayed ones."""
    await reading.purge(session, route.stream, route.filter if route.settings.bound else None)


async def _count_dead(session: Session, names: Names, queue_name: str) -> int:
    subject = names.dead_subject(queue_name)
    info = await _info(session, f"STREAM.INFO.{names.dead_letters}", {"subjects_filter": subject})
    return sum((info.get("state", {}).get("subjects") or {}).values())


async def _info(session: Session, operation: str, request: object = None) -> dict[str, Any]:
    try:
        return await session.call_api(operation, request)
    except (StreamNotFound, ConsumerNotFound):
        return {}
