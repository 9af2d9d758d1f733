"""Queues as they stand on the server; pause, resume, purge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from ..broker import JetStreamBroker
from ..client import Session
from ..errors import ConsumerNotFound, StreamNotFound
from ..streams import QueueState, Route, StoredMessage, counts, reading
from .delivered import held_messages, moment_of, server_time, shares_of
from .outside import stream_names

#: How long a pause without an end lasts, in milliseconds: a hundred years.
FOR_EVER = 36_525 * 86_400_000


@dataclass(frozen=True)
class QueueView:
    """One queue.

    Parameters:
      queue(str): dramatiq's name of the queue.
      stream(str): Its stream.
      consumer(str): Its durable consumer.
      missing(str): What is not on the server, ``"stream"`` or ``"consumer"``, if anything.
      ready(int): How many messages wait for a worker.
      running(int): How many live workers hold: they renew the leases of these messages.
      retrying(int): How many wait for the time of their retry; beyond 1,024 delivered messages an estimate.
      overdue(int): How many could be delivered again by now, but no worker asks for them: the time of their retry has
        passed, or their worker is gone and their lease has ended; an estimate as well.
      in_flight(int): How many were delivered, while it is not known whether a live worker holds them: none has
        renewed their leases, which may not have ended yet, or this user may not listen.
      delayed(int): How many the server holds back until their time.
      exhausted(int): How many are out of attempts and still in the stream.
      dead(int): How many are dead letters.
      redelivered(int): How many were delivered more than once, of those not done yet.
      oldest(int): The milliseconds since the oldest message was stored, delayed ones aside.
      pulls(int): How many pull requests of workers wait at the server; a busy worker has none.
      active(int): The milliseconds since a message was last delivered or acknowledged.
      paused(bool): Whether it is paused.
      paused_for(int): For how many milliseconds more.
      received(int): How many messages its stream ever stored.
      finished(int): How many of them are gone from it.
      taken_at(int): When this was seen, in UNIX milliseconds.
      rate_in(float): Messages stored a second, if it was looked at twice.
      rate_out(float): Messages removed a second.
    """

    queue: str
    stream: str
    consumer: str
    missing: str | None
    ready: int
    running: int
    retrying: int
    overdue: int
    in_flight: int
    delayed: int
    exhausted: int
    dead: int
    redelivered: int
    oldest: int | None
    pulls: int
    active: int | None
    paused: bool
    paused_for: int | None
    received: int
    finished: int
    taken_at: int
    rate_in: float | None = None
    rate_out: float | None = None


#: The columns that can be summed up.
SUMS = (
    *("ready", "running", "retrying", "overdue", "in_flight", "delayed", "exhausted", "dead", "redelivered", "pulls"),
    *("received", "finished"),
)


def discover(broker: JetStreamBroker) -> list[str]:
    """Declare the queues that the server has in the broker's namespace.

    A queue in a stream of somebody else cannot be told from the server, nor can one whose name is too long
    to be the name of a stream.

    Raises:
      BrokerConnectionError: If the server cannot be reached.

    Returns:
      list[str]: Their names.
    """
    streams = broker.connection.call(partial(stream_names, subject=f"{broker.names.prefix}.work.*.*"))
    found = [broker.names.queue_name(stream) for stream in streams]
    queue_names = sorted(name for name in found if name is not None)
    for queue_name in queue_names:
        broker.declare_queue(queue_name)
    return queue_names


def views(broker: JetStreamBroker, *, listen: bool = True) -> list[QueueView]:
    """Look at every declared queue, as :func:`view` does."""
    return broker.connection.call(partial(_views, broker=broker, listen=listen))


def view(broker: JetStreamBroker, queue_name: str, *, listen: bool = True) -> QueueView:
    """Look at a queue.

    Workers are asked to renew their leases, and heard doing so.  While one that may hold a message is not heard
    of, this takes until it would have renewed the lease: a third of ack_wait and a second, 20 seconds at most.

    Parameters:
      broker(JetStreamBroker): The broker.
      queue_name(str): The queue.
      listen(bool): Whether to listen for that; otherwise what may be running is in flight.

    Raises:
      QueueNotFound: If it was never declared.
      BrokerConnectionError: If the server cannot be reached.
    """
    return broker.connection.call(partial(_view, broker=broker, route=broker.queue(queue_name).route, listen=listen))


def rates(earlier: Iterable[QueueView], later: Iterable[QueueView]) -> list[QueueView]:
    """Complete views with what changed since earlier ones."""
    before = {view.queue: view for view in earlier}
    return [_rated(before[view.queue], view) if view.queue in before else view for view in later]


def total(views: Sequence[QueueView]) -> dict[str, Any]:
    """Sum up views, by their fields' names."""
    sums: dict[str, Any] = {name: sum(getattr(view, name) for view in views) for name in SUMS}
    for name in ("rate_in", "rate_out"):
        known = [getattr(view, name) for view in views if getattr(view, name) is not None]
        sums[name] = sum(known) if known else None
    sums["oldest"] = max((view.oldest for view in views if view.oldest is not None), default=None)
    return sums


def pause(broker: JetStreamBroker, queue_name: str, duration: int | None = None) -> None:
    """Keep all workers from getting messages of a queue; what they hold they finish.

    It is the server that pauses, so this survives restarts of workers and servers.

    Parameters:
      broker(JetStreamBroker): The broker.
      queue_name(str): The queue.
      duration(int): For how many milliseconds; until :func:`resume` if it is None.

    Raises:
      ConsumerNotFound: If no worker ever consumed the queue and nobody prepared it.
    """
    limit = FOR_EVER if duration is None else max(0, min(duration, FOR_EVER))
    until = datetime.now(timezone.utc) + timedelta(milliseconds=limit)
    _pause(broker, queue_name, {"pause_until": f"{until:%Y-%m-%dT%H:%M:%S.%f}Z"})


def resume(broker: JetStreamBroker, queue_name: str) -> None:
    """End a queue's pause.  Raises ConsumerNotFound."""
    _pause(broker, queue_name, {})


def purge(broker: JetStreamBroker, queue_name: str) -> None:
    """Drop a queue's messages, delayed ones too; its dead letters stay.

    Of a stream of somebody else only those on the queue's subject are dropped.
    """
    route = broker.queue(queue_name).route
    broker.connection.call(lambda session: counts.purge(session, route))


def _pause(broker: JetStreamBroker, queue_name: str, request: dict[str, str]) -> None:
    route = broker.queue(queue_name).route
    state = broker.connection.call(lambda session: counts.inspect(session, route))
    missing = _missing(state)
    if missing is not None:
        raise (StreamNotFound if missing == "stream" else ConsumerNotFound)(
            f"{route.describe()} has no {missing} on the server yet: prepare it with 'dramatiq-jetstream setup', or "
            "start a worker"
        )
    operation = f"CONSUMER.PAUSE.{route.stream}.{route.consumer}"
    broker.connection.call(lambda session: session.call_api(operation, request))


async def _views(session: Session, broker: JetStreamBroker, listen: bool) -> list[QueueView]:
    routes = [broker.queue(queue_name).route for queue_name in sorted(broker.get_declared_queues())]
    # At once: where a worker is gone, each has to be listened to for some seconds.
    return await asyncio.gather(*(_view(session, broker, route, listen) for route in routes))


async def _view(session: Session, broker: JetStreamBroker, route: Route, listen: bool) -> QueueView:
    state = await counts.inspect(session, route)
    now = server_time(state)
    held = await held_messages(session, route, state)
    shares = await shares_of(session, broker, route, state, held, listen)
    consumer, stream = state.consumer, state.stream.get("state", {})
    received = stream.get("last_seq", 0)
    oldest = (held or await _first(session, route, state))[:1]
    return QueueView(
        queue=route.queue_name,
        stream=route.stream,
        consumer=route.consumer,
        missing=_missing(state),
        ready=state.counts.ready,
        **shares._asdict(),
        delayed=state.counts.delayed,
        exhausted=state.counts.exhausted,
        dead=state.counts.dead,
        redelivered=consumer.get("num_redelivered", 0),
        oldest=max(now - oldest[0].timestamp // 1_000_000, 0) if oldest else None,
        pulls=consumer.get("num_waiting", 0),
        active=_since_active(consumer, now),
        paused=bool(consumer.get("paused")),
        paused_for=consumer["pause_remaining"] // 1_000_000 if consumer.get("paused") else None,
        received=received,
        finished=received - stream.get("messages", 0),
        taken_at=now,
    )


async def _first(session: Session, route: Route, state: QueueState) -> list[StoredMessage]:
    return await read_some(session, route, 1, 1) if state.stream else []


async def read_some(session: Session, route: Route, start: int, count: int) -> list[StoredMessage]:
    """Read a queue's messages from a sequence on; on the loop."""
    return await reading.read(session, route.stream, route.filter, start, count)


def _since_active(consumer: dict[str, Any], now: int) -> int | None:
    moments = [moment_of(consumer.get(name, {})) for name in ("delivered", "ack_floor")]
    last = max((moment for moment in moments if moment is not None), default=None)
    return None if last is None else max(now - last, 0)


def _missing(state: QueueState) -> str | None:
    return "stream" if not state.stream else "consumer" if not state.consumer else None


def _rated(earlier: QueueView, later: QueueView) -> QueueView:
    seconds = (later.taken_at - earlier.taken_at) / 1000
    if seconds <= 0:
        return later
    return replace(
        later,
        rate_in=max(later.received - earlier.received, 0) / seconds,
        rate_out=max(later.finished - earlier.finished, 0) / seconds,
    )


def sample(broker: JetStreamBroker, milliseconds: int) -> list[QueueView]:
    """Look at every declared queue twice, so many milliseconds apart, for the rates."""
    if milliseconds <= 0:
        return views(broker)
    earlier = views(broker, listen=False)
    time.sleep(milliseconds / 1000)
    return rates(earlier, views(broker))
