"""``delayed list``, ``delayed cancel``, ``delayed run-now``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import islice

import click
from dramatiq.common import current_millis

from .. import admin
from ..admin import DelayedView
from ..broker import JetStreamBroker
from .command import command
from .failures import WRONG
from .operator import Operator
from .output import age, arguments, cut, moment, table
from .root import delayed


@command(
    delayed,
    "list",
    examples="""
  dramatiq-jetstream delayed list
  dramatiq-jetstream delayed list default --limit 0
""",
)
@click.argument("queues", nargs=-1)
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="How many at most; 0 for all.")
def list_delayed(operator: Operator, queues: tuple[str, ...], limit: int) -> int:
    """List the messages that the server holds back, of QUEUES or of all, in the order they were sent."""
    names = [operator.queue(queue) for queue in queues] or None
    found = islice(admin.list_delayed(operator.broker, names), limit or None)
    if operator.output.as_json:
        for view in found:
            operator.output.record(asdict(view))
        return 0
    rows = [_row(view) for view in found]
    if rows:
        operator.output.show(table(("due", "in", "queue", "message", "call"), rows, right=("in",)))
    else:
        operator.say("Nothing is delayed.")
    return 0


@command(delayed, "cancel", examples="\n  dramatiq-jetstream delayed cancel 5e91425f-c89d-4c47-b6d2-e95d4cf6b74a\n")
@click.argument("message_ids", nargs=-1, required=True)
def cancel(operator: Operator, message_ids: tuple[str, ...]) -> int:
    """Drop messages that the server still holds back, given their ids."""
    return _each(operator, message_ids, admin.cancel_delayed, "cancelled")


@command(delayed, "run-now", examples="\n  dramatiq-jetstream delayed run-now 5e91425f-c89d-4c47-b6d2-e95d4cf6b74a\n")
@click.argument("message_ids", nargs=-1, required=True)
def run_now(operator: Operator, message_ids: tuple[str, ...]) -> int:
    """Have messages that the server still holds back delivered at once, given their ids."""
    return _each(operator, message_ids, admin.run_delayed, "delivered now")


def _each(
    operator: Operator, message_ids: tuple[str, ...], do: Callable[[JetStreamBroker, str], bool], done: str
) -> int:
    missed = 0
    for message_id in message_ids:
        found = do(operator.broker, message_id)
        missed += not found
        if operator.output.as_json:
            operator.output.record({"message_id": message_id, "done": found})
        text = f"is {done}" if found else "is not held back: it has been delivered, or was never delayed"
        operator.say(f"Message {message_id} {text}.", "" if found else "red")
    return WRONG if missed else 0


def _row(view: DelayedView) -> tuple[object, ...]:
    call = f"{view.actor}({arguments(view.args, view.kwargs)})" if view.actor else "undecodable"
    left = age(max(view.due - current_millis(), 0))
    return moment(view.due), left, view.queue, view.message_id or "-", cut(call)
