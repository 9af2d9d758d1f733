"""``delayed list``, ``delayed cancel``, ``delayed run-now``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import click
from dramatiq.common import current_millis

from .. import admin
from ..admin import DelayedView
from ..broker import JetStreamBroker
from .choosing import many_queues, queue_before
from .command import command
from .failures import WRONG
from .listing import Listing
from .messages import WHOLE_ID, call_of
from .operator import Operator
from .output import age, cut, fields_of, moment
from .root import delayed
from .values import Count


@command(
    delayed,
    "list",
    examples="""
  dramatiq-jetstream delayed list
  dramatiq-jetstream delayed list --queue default --limit 0
""",
)
@many_queues
@click.option("--limit", type=Count(0), default=100, show_default=True, help="How many at most; 0 for all.")
def list_delayed(operator: Operator, queues: list[str], limit: int) -> int:
    """List the messages that the server holds back, in the order they were sent."""
    operator.check_namespace()
    found = islice(admin.list_delayed(operator.broker, queues or None), limit or None)
    if operator.output.as_json:
        for view in found:
            operator.output.record(fields_of(view))
        return 0
    rows = [_row(view) for view in found]
    if rows:
        operator.output.show(
            Listing(
                ("seq", "due", "in", "queue", "message", "call"),
                rows,
                right=("seq", "in"),
                drop=("due", "message"),
                least={"message": WHOLE_ID},
            )
        )
    else:
        operator.say("Nothing is delayed.")
    return 0


@command(
    delayed,
    "cancel",
    examples="""
  dramatiq-jetstream delayed cancel 5e91425f-c89d-4c47-b6d2-e95d4cf6b74a
  dramatiq-jetstream delayed cancel --queue default 121
""",
)
@click.argument("messages", nargs=-1, required=True)
@click.option("--queue", metavar="QUEUE", help="Only of this queue; needed to name messages by their sequence.")
def cancel(operator: Operator, messages: tuple[str, ...], queue: str | None) -> int:
    """Drop MESSAGES that the server still holds back, whoever sent them.

    Each is named by its id, by its subject, or with --queue by its sequence in the queue's stream.
    """
    operator.check_namespace()
    queue, messages = queue_before(messages, queue, operator)

    def drop(broker: JetStreamBroker, message: str) -> bool:
        return admin.cancel_delayed(broker, message, queue)

    return _each(operator, messages, drop, "cancelled")


@command(delayed, "run-now", examples="\n  dramatiq-jetstream delayed run-now 5e91425f-c89d-4c47-b6d2-e95d4cf6b74a\n")
@click.argument("message_ids", nargs=-1, required=True)
@click.option("--queue", metavar="QUEUE", help="Only of this queue.")
def run_now(operator: Operator, message_ids: tuple[str, ...], queue: str | None) -> int:
    """Have messages that the server still holds back delivered at once, given their ids."""
    operator.check_namespace()
    queue, message_ids = queue_before(message_ids, queue, operator)

    def run(broker: JetStreamBroker, message_id: str) -> bool:
        return admin.run_delayed(broker, message_id, queue)

    return _each(operator, message_ids, run, "delivered now")


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
    if view.due is None:
        due, left = cut(view.schedule or "never"), "-"
    else:
        due, left = moment(view.due), age(view.due - current_millis())
    return view.sequence, due, left, view.queue, view.message_id or "-", cut(call_of(view, "undecodable"))
