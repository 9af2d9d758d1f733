"""``peek``, ``show``, ``enqueue``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from dramatiq.common import current_millis
from dramatiq.errors import ActorNotFound

from .. import admin
from ..admin import StoredView
from ..dead_letters import DeadLetter
from .choosing import one_queue
from .command import command
from .failures import USAGE, WRONG, Failure, unknown
from .listing import printable
from .operator import Operator
from .output import age, arguments, body_fields, cut, moment, table
from .root import main
from .values import ASSIGNMENT, DURATION, JSON


@command(
    main,
    "peek",
    examples="""
  dramatiq-jetstream peek --queue default
  dramatiq-jetstream peek --queue default --limit 1000 --json
""",
)
@one_queue
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many messages at most.")
def peek(operator: Operator, queue: str, limit: int) -> int:
    """Show the oldest messages of a queue without consuming them; delayed ones come last."""
    found = admin.peek(operator.broker, queue, limit)
    if operator.output.as_json:
        for view in found:
            operator.output.record(view_fields(view))
        return 0
    rows = list(found)
    if not rows:
        operator.say(f"Queue {queue!r} is empty.")
        return 0
    operator.output.show(
        table(("seq", "state", "age", "message", "call"), map(_row, rows), right=("seq", "age"), drop=("age",))
    )
    return 0


@command(
    main,
    "show",
    examples="""
  dramatiq-jetstream show 5e91425f-c89d-4c47-b6d2-e95d4cf6b74a
  dramatiq-jetstream show --queue default 121
""",
)
@click.argument("words", metavar="MESSAGE", nargs=-1)
@click.option("--queue", metavar="QUEUE", help="Its queue; needed to name it by its sequence.")
def show(operator: Operator, words: tuple[str, ...], queue: str | None) -> int:
    """Show all that is stored of MESSAGE, given its id, or with --queue its sequence in the queue's stream."""
    queue, message = _named(operator, words, queue)
    any_found = False
    for view in _find(operator, queue, message):
        any_found = True
        print_whole(operator, view)
    if not any_found:
        operator.check_namespace()
        if queue is None:
            operator.tell_unseen()
        what = f"message {message!r}" if queue is None else f"message {message} in queue {queue!r}"
        raise Failure(f"there is no {what}: it is done, or was never sent", WRONG)
    return 0


@command(
    main,
    "enqueue",
    needs="application",
    examples="""
  dramatiq-jetstream enqueue app greet '["world"]'
  dramatiq-jetstream enqueue app greet '{"name": "world"}' --delay 10m
  dramatiq-jetstream enqueue app greet '["world"]' --option max_retries=3
""",
)
@click.argument("app")
@click.argument("actor")
@click.argument("arguments", type=JSON, default="[]", metavar="[ARGUMENTS]")
@click.option("--delay", type=DURATION, help="How long the server shall hold it back.")
@click.option("--option", "options", type=ASSIGNMENT, multiple=True, help="An option of the message, name=value.")
def enqueue(
    operator: Operator, actor: str, arguments: list[Any] | dict[str, Any], delay: int | None, options: list[Any]
) -> int:
    """Send a message to ACTOR of APP; ARGUMENTS are a JSON list, or an object of named ones."""
    broker = operator.broker
    try:
        found = broker.get_actor(actor)
    except ActorNotFound:
        raise unknown("actor", actor, broker.get_declared_actors()) from None
    call = {"kwargs": arguments} if isinstance(arguments, dict) else {"args": tuple(arguments)}
    message = found.send_with_options(**call, delay=delay, **dict(options))
    if operator.output.as_json:
        fields = {"message_id": message.message_id, "queue": message.queue_name, "actor": actor}
        operator.output.record({**fields, "due": message.options.get("eta")})
    when = f", due {moment(message.options['eta'])}" if delay else ""
    operator.say(f"Message {message.message_id} is in queue {message.queue_name!r}{when}.")
    return 0


def _named(operator: Operator, words: Sequence[str], queue: str | None) -> tuple[str | None, str]:
    """The queue, if one is given, and the id or sequence."""
    if len(words) == 2 and queue is None:
        queue, words = words[0], words[1:]
    if len(words) != 1:
        raise Failure("name one message: by its id, or by --queue and its sequence in the stream", USAGE)
    return (None if queue is None else operator.queue(queue)), words[0]


def _find(operator: Operator, queue: str | None, message: str) -> Iterable[StoredView | DeadLetter]:
    if queue is None:
        return admin.find_message(operator.broker, message)
    if message.isascii() and message.isdecimal():
        # No sequence has more than twenty digits.
        only = admin.show(operator.broker, queue, int(message[:21]))
        return [] if only is None else [only]
    return (view for view in admin.find_message(operator.broker, message) if _queue_of(view) == queue)


def _queue_of(view: StoredView | DeadLetter) -> str:
    return view.queue_name if isinstance(view, DeadLetter) else view.queue


def view_fields(view: StoredView | DeadLetter) -> dict[str, Any]:
    """A message in JSON; what a dead letter and a message in a stream have in common has one name."""
    fields = {**asdict(view), **body_fields(view.body)}
    if isinstance(view, DeadLetter):
        fields |= {"queue": fields.pop("queue_name"), "actor": fields.pop("actor_name"), "state": "dead"}
    return fields


def print_whole(operator: Operator, view: StoredView | DeadLetter) -> None:
    """Print all there is of a message."""
    if operator.output.as_json:
        operator.output.record(view_fields(view))
        return
    fields = _letter_lines(view) if isinstance(view, DeadLetter) else _stored_lines(view)
    width = max(map(len, fields))
    for name, value in fields.items():
        first, *rest = printable(value).splitlines() or [""]
        operator.say(f"{name:<{width}}  {first}")
        for line in rest:
            operator.say(f"{'':<{width}}  {line}")
    operator.say("")


def _row(view: StoredView) -> tuple[object, ...]:
    now = current_millis()
    if view.state != "delayed":
        when = age(now - view.stored_at)
    elif view.due is None:
        when = cut(view.schedule or "never")
    else:
        when = f"in {age(max(view.due - now, 0))}"
    call = f"{view.actor}({arguments(view.args, view.kwargs)})" if view.actor else f"undecodable: {view.error}"
    return view.sequence, view.state, when, view.message_id or "-", cut(call)


def _stored_lines(view: StoredView) -> dict[str, object]:
    lines: dict[str, object] = {
        "message": view.message_id or "-",
        "queue": view.queue,
        "state": view.state,
        "stored": f"{moment(view.stored_at)} as {view.sequence} of {view.stream}",
    }
    if view.due is not None:
        lines["due"] = moment(view.due)
    elif view.state == "delayed":
        lines["due"] = f"by the schedule {view.schedule}" if view.schedule else "never: it has no schedule"
    if view.state == "delayed":
        lines["subject"] = view.subject
    if view.error:
        return {**lines, "undecodable": view.error, "headers": _readable(view.headers), "body": _text(view.body)}
    return {**lines, "call": f"{view.actor}({arguments(view.args, view.kwargs)})", "options": _readable(view.options)}


def _letter_lines(letter: DeadLetter) -> dict[str, object]:
    kept = " (where it still is)" if letter.kept else ""
    lines: dict[str, object] = {
        "dead letter": letter.number,
        "message": letter.message_id or "-",
        "queue": letter.queue_name,
        "actor": letter.actor_name or "-",
        "reason": letter.reason,
        "attempts": letter.attempts,
        "enqueued": moment(letter.enqueued_at),
        "failed": f"{moment(letter.failed_at)} on {letter.worker}",
        "from": f"{letter.sequence} of {letter.stream}{kept}",
    }
    if letter.exception:
        lines["exception"] = f"{letter.exception}: {letter.exception_text}"
    if letter.traceback:
        lines["traceback"] = letter.traceback
    return {**lines, "body": _text(letter.body)}


def _readable(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, indent=2, ensure_ascii=False, default=repr)


def _text(body: bytes) -> str:
    fields = body_fields(body)
    return fields["body"] if fields["body"] is not None else f"{fields['body_base64']} (base64)"
