"""``queues``, ``pause``, ``resume``, ``purge``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click
from dramatiq.common import current_millis
from rich.console import Group
from rich.live import Live
from rich.text import Text

from .. import admin
from ..admin import QueueView
from .choosing import one_queue
from .command import command
from .failures import those_there_are
from .listing import Listing
from .operator import Operator
from .output import age, confirm, fields_of, moment
from .root import main
from .values import DURATION

COUNTS = ("ready", "running", "retrying", "delayed", "exhausted", "dead", "redelivered", "overdue")
HEADERS = ("queue", *COUNTS, "oldest", "in/s", "out/s", "pulls", "active", "state")
_RIGHT = tuple(header for header in HEADERS if header not in ("queue", "state"))

#: What a narrow terminal leaves out, the least important first.
_MINOR = ("redelivered", "active", "out/s", "in/s", "exhausted", "state", "pulls", "oldest", "delayed")
_MAJOR = ("retrying", "overdue", "running")

#: Those of the minor columns that are left out last if there is something in them, and what they hold if not.
_TELLING = frozenset({"exhausted", "state", "delayed"})
_QUIET = frozenset({"0", "open", ""})

#: Counts that want somebody's attention unless they are 0.
_ALARMING = {"exhausted": "red", "dead": "yellow", "overdue": "red"}


@command(
    main,
    "queues",
    examples="""
  dramatiq-jetstream queues
  dramatiq-jetstream queues --watch --interval 5s
  dramatiq-jetstream queues --json | jq 'select(.dead > 0) | .queue'
""",
)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--interval", type=DURATION, default="1s", show_default=True, help="How long to measure rates for.")
def queues(operator: Operator, watch: bool, interval: int) -> int:
    """Show each queue: its messages by state, the age of the oldest, rates, and who works on it."""
    broker = operator.broker
    if not watch:
        _print(operator, admin.sample(broker, interval))
        operator.tell_unseen()
        return 0
    try:
        _watch(operator, interval)
    except KeyboardInterrupt:
        return 0
    return 0


@command(
    main,
    "pause",
    examples="""
  dramatiq-jetstream pause --queue default
  dramatiq-jetstream pause --queue default --for 10m
""",
)
@one_queue
@click.option("--for", "duration", type=DURATION, help="For how long.  [default: until resume]")
def pause(operator: Operator, queue: str, duration: int | None) -> int:
    """Keep all workers from getting messages of a queue; what they hold they finish.

    The server holds the messages back, so this survives restarts of workers and servers.
    """
    admin.pause(operator.broker, queue, duration)
    _print_pause(operator, queue)
    return 0


@command(main, "resume", examples="\n  dramatiq-jetstream resume --queue default\n")
@one_queue
def resume(operator: Operator, queue: str) -> int:
    """End the pause of a queue."""
    admin.resume(operator.broker, queue)
    _print_pause(operator, queue)
    return 0


@command(
    main,
    "purge",
    examples="""
  dramatiq-jetstream purge --queue default
  dramatiq-jetstream purge --queue default --yes
""",
)
@one_queue
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(operator: Operator, queue: str, yes: bool) -> int:
    """Drop all messages of a queue for good, delayed ones too; its dead letters stay."""
    view = admin.view(operator.broker, queue, listen=False)
    amount = view.ready + view.retrying + view.overdue + view.in_flight + view.delayed + view.exhausted
    confirm(f"Drop {amount} messages of queue {queue!r}?", yes=yes)
    admin.purge(operator.broker, queue)
    if operator.output.as_json:
        operator.output.record({"queue": queue, "purged": amount})
    operator.say(f"Dropped {amount} messages of queue {queue!r}.")
    return 0


def _watch(operator: Operator, interval: int) -> None:
    views = admin.views(operator.broker)
    if operator.output.as_json or not operator.output.console.is_terminal:
        while True:
            _print(operator, views)
            views = _again(operator, views, interval)
    with Live(_screen(views), console=operator.output.console, auto_refresh=False) as live:
        while True:
            views = _again(operator, views, interval)
            live.update(_screen(views), refresh=True)


def _again(operator: Operator, views: Sequence[QueueView], interval: int) -> list[QueueView]:
    time.sleep(interval / 1000)
    if not operator.has_application:
        admin.discover(operator.broker)
    return admin.rates(views, admin.views(operator.broker))


def _screen(views: Sequence[QueueView]) -> Group:
    return Group(_table(views), Text(f"{moment(current_millis())}, Ctrl-C ends this", "dim"))


def _print(operator: Operator, views: Sequence[QueueView]) -> None:
    if operator.output.as_json:
        for view in views:
            operator.output.record(fields_of(view))
    elif views:
        operator.output.show(_table(views))
    else:
        name = operator.broker.names.namespace
        there = those_there_are(name, admin.namespaces(operator.broker))
        operator.say(f"There are no queues in the namespace {name!r}; of namespaces {there}.")


def _table(views: Sequence[QueueView]) -> Listing:
    rows = [_row(fields_of(view), view.queue, _state(view)) for view in views]
    drop = dropped(rows)
    if len(views) > 1:
        rows.append([Text(str(cell), "bold") for cell in _row(admin.total(views), "all", "")])
    return Listing(HEADERS, rows, right=_RIGHT, drop=drop)


def dropped(rows: Sequence[Sequence[object]]) -> list[str]:
    """What a narrow terminal leaves out of some rows, the least important first."""
    told = {header for row in rows for header, cell in zip(HEADERS, row, strict=True) if str(cell) not in _QUIET}
    return [*sorted(_MINOR, key=lambda header: header in _TELLING & told), *_MAJOR]


def _row(fields: dict[str, Any], name: str, state: str) -> list[object]:
    counts = [Text(f"{fields[count]:,}", _ALARMING.get(count, "") if fields[count] else "") for count in COUNTS]
    if fields["in_flight"]:
        # Some of them may not run: their worker may be gone.
        counts[COUNTS.index("running")] = Text(f"{fields['running'] + fields['in_flight']:,}?", "yellow")
    rates = [_rate(fields[rate]) for rate in ("rate_in", "rate_out")]
    return [name, *counts, age(fields["oldest"]), *rates, fields["pulls"], age(fields.get("active")), state]


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.1f}"


def _state(view: QueueView) -> str:
    if view.missing:
        return f"no {view.missing}"
    if not view.paused:
        return "open"
    endless = view.paused_for is None or view.paused_for > admin.FOR_EVER // 2
    return "paused" if endless else f"paused, {age(view.paused_for)} left"


def _print_pause(operator: Operator, queue: str) -> None:
    view = admin.view(operator.broker, queue, listen=False)
    if operator.output.as_json:
        operator.output.record({"queue": queue, "paused": view.paused, "paused_for": view.paused_for})
    operator.say(f"Queue {queue!r} is {_state(view)}.")
