"""Delivered messages: which run, which wait for their retry, and which nobody has taken again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dramatiq.common import current_millis

from ..broker import JetStreamBroker
from ..client import Session
from ..streams import QueueState, Route, StoredMessage, reading
from .leases import Leases

#: How many delivered messages are asked about one by one; of more, the share is taken.
SAMPLE = 1_024

#: Milliseconds by which the time of a retry may be told too late.
DUE_PRECISION = 1_000


class Shares(NamedTuple):
    """How many of the delivered messages are in which state; see :class:`QueueView`."""

    running: int = 0
    retrying: int = 0
    overdue: int = 0
    in_flight: int = 0


async def held_messages(session: Session, route: Route, state: QueueState) -> list[StoredMessage]:
    """The first messages that are held, or exhausted: the consumer has passed them and they are still there."""
    if not state.counts.running:
        return []
    passed = state.consumer["delivered"]["stream_seq"]
    first = await reading.read(session, route.stream, route.filter, 1, SAMPLE)
    return [message for message in first if message.sequence <= passed]


async def shares_of(
    session: Session,
    broker: JetStreamBroker,
    route: Route,
    state: QueueState,
    held: Sequence[StoredMessage],
    listen: bool,
) -> Shares:
    """What delivered messages wait for, or who works on them.

    Parameters:
      session(Session): The live connection.
      broker(JetStreamBroker): The broker, for the records of attempts.
      route(Route): The queue.
      state(QueueState): What the server says of it.
      held(Sequence[StoredMessage]): The first of them.
      listen(bool): Whether to listen for workers that hold them.
    """
    if not held:
        return Shares()
    total, now = state.counts.running, server_time(state)
    due = await broker.attempts.due_times(session, route.stream, held)
    active = moment_of(state.consumer["delivered"]) or 0
    retrying = {sequence for sequence, moment in due.items() if moment > now}
    # Whatever was due after the last delivery of all was not delivered again.
    late = {sequence for sequence, moment in due.items() if active < moment - DUE_PRECISION and moment <= now}
    others = {message.sequence for message in held} - retrying - late
    share = max(total / len(held), 1)
    found = Shares(retrying=min(round(len(retrying) * share), total))
    found = found._replace(overdue=min(round(len(late) * share), total - found.retrying))
    left = total - found.retrying - found.overdue
    if left and now - active > _ack_wait(state):
        # Nothing was delivered and no lease renewed for as long as a lease lasts.
        return found._replace(overdue=found.overdue + left)
    if not left or not listen:
        return found._replace(in_flight=left)
    return await _listened(session, route, state, found, others)


async def _listened(session: Session, route: Route, state: QueueState, found: Shares, others: set[int]) -> Shares:
    """Complete the shares with which of the other messages workers are heard of."""
    left = state.counts.running - found.retrying - found.overdue
    async with Leases(session, route) as leases:
        if leases.is_denied:
            return found._replace(in_flight=left)
        is_certain = await leases.listen(others, min(len(others), left), _ack_wait(state) / 1000)
    passed = state.consumer["delivered"]["stream_seq"]
    heard = sum(sequence <= passed for sequence in leases.heard)
    estimate = round(len(leases.heard & others) * left / max(len(others), 1))
    running = min(max(heard, estimate if len(others) < left else 0), left)
    if is_certain and _has_ended(route, state, leases):
        return found._replace(running=running, overdue=found.overdue + left - running)
    return found._replace(running=running, in_flight=left - running)


def _has_ended(route: Route, state: QueueState, leases: Leases) -> bool:
    """Whether the lease of a message has ended that no worker renews."""
    if not leases.heard:
        active = moment_of(state.consumer["delivered"]) or 0
        return server_time(state) + leases.milliseconds - active > _ack_wait(state)
    # A worker that asks for messages would have been given it.  Workers of somebody else may renew no lease.
    return not state.consumer.get("num_waiting") and not route.settings.bound


def _ack_wait(state: QueueState) -> float:
    """How long a lease lasts, in milliseconds."""
    nanoseconds: int = state.consumer["config"].get("ack_wait", 0)
    return nanoseconds / 1_000_000


def server_time(state: QueueState) -> int:
    """The server's time in UNIX milliseconds, where it tells; otherwise this machine's."""
    said = state.consumer.get("ts") or state.stream.get("ts")
    return reading.nanoseconds(said) // 1_000_000 if said else current_millis()


def moment_of(position: dict[str, Any]) -> int | None:
    """When a consumer last came to a position, in UNIX milliseconds; a renewed lease counts as a delivery."""
    said = position.get("last_active")
    return reading.nanoseconds(said) // 1_000_000 if said else None
