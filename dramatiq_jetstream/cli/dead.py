"""``dead list``, ``dead show``, ``dead requeue``, ``dead purge``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import click
from dramatiq.common import current_millis

from .. import admin
from ..admin import DeadFilter, DeadSummary
from ..dead_letters import DeadLetter
from ..names import escape
from .choosing import HiddenArgument
from .command import command
from .failures import USAGE, WRONG, Failure, unknown
from .listing import Listing
from .messages import print_whole, view_fields
from .operator import Operator
from .output import age, confirm, cut
from .root import dead
from .values import DURATION, Count

F = TypeVar("F", bound=Callable[..., Any])

#: How many dead letters a table shows unless told otherwise; more than a screen.
LIMIT = 100

#: The widths to which reasons and exceptions are cut before another column is left out.
REASON, EXCEPTION = 18, 24

#: How many failures are told one by one.
TOLD = 10

FILTERS = (
    click.option("--queue", metavar="QUEUE", help="Those of this queue."),
    click.option("--actor", metavar="ACTOR", help="Those for this actor."),
    click.option("--reason", metavar="TEXT", help="Those with this in their reason."),
    click.option("--older-than", type=DURATION, help="Those that failed at least so long ago."),
    click.option("--younger-than", type=DURATION, help="Those that failed less than so long ago."),
    click.option("--text", metavar="TEXT", help="Those with this in their exception, traceback or body."),
)


def filters(function: F) -> F:
    """Add the options that choose dead letters."""
    for option in reversed(FILTERS):
        function = option(function)
    return function


def chosen_by(operator: Operator, values: dict[str, Any], words: Sequence[str] = ()) -> DeadFilter:
    """The filter that options and words describe: a word is a number, or a queue.

    Raises:
      Failure: If there is no such queue or actor, or if several queues are named.
    """
    # No number has more than twenty digits.
    numbers = tuple(int(word[:21]) for word in words if _is_number(word))
    queues = dict.fromkeys([word for word in words if not _is_number(word)] + [values["queue"]] * bool(values["queue"]))
    if len(queues) > 1:
        raise Failure(f"several queues are named: {', '.join(map(repr, queues))}; name one with --queue", USAGE)
    chosen = DeadFilter(**{**values, "queue": next(iter(queues), None), "numbers": numbers})
    operator.check_namespace()
    _check_names(operator, chosen)
    return chosen


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal()


def _check_names(operator: Operator, chosen: DeadFilter) -> None:
    """Refuse the names of a queue and an actor that nothing has, neither here nor among the dead letters."""
    queues, actors = operator.broker.get_declared_queues(), operator.broker.get_declared_actors()
    strange = chosen.queue is not None and chosen.queue not in queues
    if not strange and (chosen.actor is None or chosen.actor in actors):
        return
    dead = admin.dead_by_queue_and_actor(operator.broker)
    known = queues | {queue for queue, _ in dead}
    if chosen.queue is not None and not _is_among(chosen.queue, known):
        raise unknown("queue", chosen.queue, known)
    known = actors | {actor for _, actor in dead if actor}
    if chosen.actor is not None and (dead or operator.has_application) and not _is_among(chosen.actor, known):
        # Without the application an actor may exist that has no dead letters.
        more = "" if operator.has_application else ", of those that have dead letters"
        raise unknown("actor", chosen.actor, known, more, USAGE if operator.has_application else WRONG)


def _is_among(name: str, known: Collection[str]) -> bool:
    # A long name is cut on the server.
    return name in known or escape(name) in known


@command(
    dead,
    "list",
    examples="""
  dramatiq-jetstream dead list --queue default --younger-than 1h
  dramatiq-jetstream dead list --text timeout --limit 0
  dramatiq-jetstream dead list --json | jq .message_id
""",
)
@click.argument("words", nargs=-1, cls=HiddenArgument)
@filters
@click.option("--limit", type=Count(0), help="How many at most; 0 for all.  [default: 100, with --json all]")
def list_dead(operator: Operator, words: tuple[str, ...], limit: int | None, **values: Any) -> int:
    """List dead letters, oldest first."""
    chosen = chosen_by(operator, values, words)
    check_numbers(operator, chosen.numbers)
    if limit is None:
        limit = 0 if operator.output.as_json else LIMIT
    letters = admin.select_dead(operator.broker, chosen)
    shown = islice(letters, limit or None)
    if operator.output.as_json:
        for letter in shown:
            operator.output.record(view_fields(letter))
        return 0
    count = _print_pages(operator, shown)
    if next(letters, None) is not None:
        operator.say(f"There are more than these {count}: --limit 0 lists all.")
    elif not count:
        operator.say("There are no such dead letters.")
    return 0


@command(dead, "show", examples="\n  dramatiq-jetstream dead show 42\n")
@click.argument("number", type=click.IntRange(1))
def show_dead(operator: Operator, number: int) -> int:
    """Show the dead letter of a NUMBER with its traceback."""
    letter = operator.broker.dead_letters.get(number)
    if letter is None:
        raise Failure(f"there is no dead letter {number}: it was requeued, purged, or has expired", WRONG)
    print_whole(operator, letter)
    return 0


@command(
    dead,
    "requeue",
    examples="""
  dramatiq-jetstream dead requeue 42 43
  dramatiq-jetstream dead requeue --queue default --text timeout
  dramatiq-jetstream dead requeue --all --yes
""",
)
@click.argument("words", metavar="[NUMBER]...", nargs=-1)
@filters
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def requeue_dead(operator: Operator, words: tuple[str, ...], everything: bool, yes: bool, **values: Any) -> int:
    """Put dead letters back into their queues, with all their attempts ahead of them.

    Each is removed from the dead letters only once its queue has stored it.
    """
    chosen = _chosen(operator, words, everything, values)
    summary = _preview(operator, chosen, "Requeue", yes=yes)
    if not summary.count:
        operator.say("There are no such dead letters.")
    done, failed, told = _requeue(operator, chosen, summary)
    if operator.output.as_json:
        operator.output.record({"requeued": done, "failed": failed, "errors": told})
    for failure in told:
        operator.say(f"Dead letter {failure['number']} stays: {failure['error']}", "red")
    if failed > len(told):
        operator.say(f"… and {failed - len(told)} more stay.", "red")
    if summary.count:
        operator.say(f"Requeued {done} of {done + failed}.")
    return WRONG if failed else 0


@command(
    dead,
    "purge",
    examples="""
  dramatiq-jetstream dead purge 42
  dramatiq-jetstream dead purge --queue default --older-than 3d
""",
)
@click.argument("words", metavar="[NUMBER]...", nargs=-1)
@filters
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge_dead(operator: Operator, words: tuple[str, ...], everything: bool, yes: bool, **values: Any) -> int:
    """Remove dead letters for good; messages that somebody else's stream keeps stay there."""
    chosen = _chosen(operator, words, everything, values)
    summary = _preview(operator, chosen, "Remove", yes=yes)
    removed = admin.purge_dead(operator.broker, chosen, summary.last)
    if operator.output.as_json:
        operator.output.record({"purged": removed})
    operator.say(f"Removed {removed}.")
    return 0


def _chosen(operator: Operator, words: tuple[str, ...], everything: bool, values: dict[str, Any]) -> DeadFilter:
    given = bool(words) or any(value is not None for value in values.values())
    if given is everything:
        raise Failure("say which: numbers, or filters such as --queue, or --all", USAGE)
    return chosen_by(operator, values, words)


def _preview(operator: Operator, chosen: DeadFilter, verb: str, *, yes: bool) -> DeadSummary:
    summary = admin.summarise_dead(operator.broker, chosen)
    if not operator.output.as_json and summary.count:
        operator.output.show(_table(summary.examples))
        if summary.count > len(summary.examples):
            operator.say(f"… {summary.count} in all:")
            rows = [(count, *group) for group, count in summary.groups.items()]
            operator.output.show(
                Listing(("count", "queue", "actor", "reason"), rows, right=("count",), drop=("actor",))
            )
    check_numbers(operator, chosen.numbers)
    if summary.count:
        confirm(f"{verb} {summary.count} dead letters?", yes=yes)
    return summary


def check_numbers(operator: Operator, numbers: tuple[int, ...]) -> None:
    """Raise Failure if one of the numbers has no dead letter."""
    if not numbers:
        return
    found = {letter.number for letter in admin.select_dead(operator.broker, DeadFilter(numbers=numbers))}
    missing = sorted(set(numbers) - found)
    if missing:
        told = ", ".join(map(str, missing))
        raise Failure(f"there is no dead letter {told}: requeued, purged, or expired; nothing was changed", WRONG)


def _requeue(operator: Operator, chosen: DeadFilter, summary: DeadSummary) -> tuple[int, int, list[dict[str, Any]]]:
    """Requeue, and return how many went, how many did not, and why the first of those."""
    done, failed = 0, 0
    told: list[dict[str, Any]] = []
    with operator.output.progress() as progress:
        bar = progress.add_task("Requeueing", total=summary.count)
        for outcome in admin.requeue_dead(operator.broker, chosen, summary.last):
            progress.advance(bar)
            if outcome.error is None:
                done += 1
                continue
            failed += 1
            if len(told) < TOLD:
                told.append({"number": outcome.letter.number, "error": outcome.error})
    return done, failed, told


def _print_pages(operator: Operator, letters: Iterator[DeadLetter]) -> int:
    """Print any number of dead letters, a table for each hundred."""
    count = 0
    while page := list(islice(letters, LIMIT)):
        operator.output.show(_table(page))
        count += len(page)
    return count


def _table(letters: Iterable[DeadLetter]) -> Listing:
    headers = ("number", "age", "queue", "actor", "tries", "reason", "exception")
    return Listing(
        headers,
        map(_row, letters),
        right=("number", "age", "tries"),
        drop=("tries", "age", "actor"),
        least={"reason": REASON, "exception": EXCEPTION},
    )


def _row(letter: DeadLetter) -> tuple[object, ...]:
    raised = f"{(letter.exception or '').rpartition('.')[2]}: {letter.exception_text}" if letter.exception else "-"
    kept = " (kept)" if letter.kept else ""
    since = age(max(current_millis() - letter.failed_at, 0))
    actor = letter.actor_name or "-"
    reason = (letter.reason or "-") + kept
    return letter.number, since, letter.queue_name or "-", actor, letter.attempts, reason, cut(raised)
