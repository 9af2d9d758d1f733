"""``peek``, ``show``, ``enqueue``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
from dramatiq.common import current_millis
from dramatiq.errors import ActorNotFound

from .. import admin
from ..admin import AttemptsView, DelayedView, StoredView
from ..dead_letters import DeadLetter
from ..errors import JetStreamError
from .choosing import one_queue
from .command import command
from .failures import USAGE, WRONG, Failure, unknown
from .listing import Listing
from .operator import Operator
from .output import age, arguments, body_fields, cut, fields_of, moment, readable
from .root import main
from .values import ASSIGNMENT, DURATION, JSON, Count

#: The width of an id as dramatiq makes them: cut, it names no message.
WHOLE_ID = 36

#: The longest schedule in a table.
SCHEDULE = 20


@command(
    main,
    "peek",
    examples="""
  dramatiq-jetstream peek --queue default
  dramatiq-jetstream peek --queue default --limit 1000 --json
""",
)
@one_queue
@click.option("--limit", type=Count(1), default=20, show_default=True, help="How many messages at most.")
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
        Listing(
            ("seq", "state", "age", "message", "call"),
            map(_row, rows),
            right=("seq", "age"),
            drop=("age", "message"),
            least={"message": WHOLE_ID},
        )
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
    count = 0
    for view in _find(operator, queue, message):
        if count:
            operator.say("")
        print_whole(operator, view)
        count += 1
    if not count:
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
    try:
        message = found.send_with_options(**call, delay=delay, **dict(options))
    except (TypeError, ValueError) as error:
        raise Failure(f"the message cannot be sent: {error}", USAGE) from error
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
    fields = {**fields_of(view), **body_fields(view.body)}
    if isinstance(view, DeadLetter):
        fields |= {"queue": fields.pop("queue_name"), "actor": fields.pop("actor_name"), "state": "dead"}
    return fields


def print_whole(operator: Operator, view: StoredView | DeadLetter) -> None:
    """Print all there is of a message."""
    if isinstance(view, DeadLetter):
        fields, lines = view_fields(view), _letter_lines(view)
    else:
        found, unknown = _attempts(operator, view)
        fields = {**view_fields(view), **_attempts_fields(found)}
        lines = _stored_lines(view, {"attempt": unknown} if unknown else _attempts_lines(found))
    if operator.output.as_json:
        operator.output.record(fields)
    else:
        operator.output.show_fields(lines)


def call_of(view: StoredView | DelayedView, undecodable: str) -> str:
    """A message's call as a person would write it; another text if it cannot be decoded."""
    return undecodable if view.actor is None else f"{view.actor}({arguments(view.args, view.kwargs)})"


def _row(view: StoredView) -> tuple[object, ...]:
    now = current_millis()
    if view.state != "delayed":
        when = age(now - view.stored_at)
    elif view.due is None:
        when = cut(view.schedule or "never", SCHEDULE)
    else:
        when = f"in {age(view.due - now)}"
    call = call_of(view, f"undecodable: {view.error}")
    return view.sequence, view.state, when, view.message_id or "-", cut(call)


def _attempts(operator: Operator, view: StoredView) -> tuple[AttemptsView | None, str | None]:
    """The attempts of a message; and why they are not known, if they cannot be read."""
    try:
        return admin.attempts(operator.broker, view), None
    except JetStreamError as error:
        return None, f"unknown: {error}"


def _attempts_fields(found: AttemptsView | None) -> dict[str, Any]:
    return {
        "attempts": found.made if found else 0,
        "max_attempts": found.allowed if found else None,
        "exception": found.exception if found else None,
        "next_try": found.next_try if found else None,
    }


def _attempts_lines(found: AttemptsView | None) -> dict[str, object]:
    """What an operator wants to know of a message that failed."""
    if found is None:
        return {}
    of = f" of {found.allowed}" if found.allowed else ""
    whose = "" if found.exact or not of else " (the queue's limit)"
    lines: dict[str, object] = {"attempt": f"failed, attempt {found.made}{of}{whose}{_next_try(found.next_try)}"}
    return {**lines, "error": found.exception} if found.exception else lines


def _next_try(due: int | None) -> str:
    if due is None:
        return ""
    left = due - current_millis()
    return f"; next try {moment(due)}, " + (
        f"in {age(left)}" if left > 0 else f"overdue by {age(-left)} unless a worker runs it now"
    )


def _stored_lines(view: StoredView, attempts: dict[str, object]) -> dict[str, object]:
    lines: dict[str, object] = {
        "message": view.message_id or "-",
        "queue": view.queue,
        "state": view.state,
        "stored": f"{moment(view.stored_at)} as {view.sequence} of {view.stream}",
    }
    if view.enqueued_at is not None:
        lines["sent"] = moment(view.enqueued_at)
    if view.due is not None:
        lines["due"] = f"{moment(view.due)}, in {age(view.due - current_millis())}"
    elif view.state == "delayed":
        lines["due"] = f"by the schedule {view.schedule}" if view.schedule else "never: it has no schedule"
    if view.state == "delayed":
        lines["subject"] = view.subject
    if view.error:
        return {**lines, "undecodable": view.error, "headers": readable(view.headers, 2), "body": _text(view.body)}
    lines |= {**attempts, "call": call_of(view, "-")}
    return {**lines, "options": readable(view.options, 2)} if view.options else lines


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


def _text(body: bytes) -> str:
    fields = body_fields(body)
    return fields["body"] if fields["body"] is not None else f"{fields['body_base64']} (base64)"
