"""``setup``: what an application needs on the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.text import Text

from .. import admin
from ..admin import Checked
from .command import command
from .failures import USAGE, WRONG, Failure
from .listing import Listing
from .operator import Operator
from .output import confirm
from .root import main

_STYLES = {"fits": "green", "missing": "yellow", "differs": "red", "made": "green", "changed": "green"}

EXAMPLES = """
  dramatiq-jetstream setup app                    make what is missing
  dramatiq-jetstream setup app --check            exit with 1 unless all is as declared
  dramatiq-jetstream setup app --print nats       the same as commands of the nats tool
  dramatiq-jetstream setup app --apply-updates    change what may be changed, after showing it
"""


@command(main, "setup", examples=EXAMPLES, needs="application")
@click.argument("app")
@click.option("--check", is_flag=True, help="Only compare, and exit with 1 if something is missing or differs.")
@click.option("--dry-run", is_flag=True, help="Only say what would be made.")
@click.option("--print", "language", type=click.Choice(["nats"]), help="Print commands that do the same.")
@click.option("--apply-updates", is_flag=True, help="Change what differs and may be changed.")
@click.option("--yes", is_flag=True, help="Change it without asking.")
def setup(operator: Operator, check: bool, dry_run: bool, language: str | None, apply_updates: bool, yes: bool) -> int:
    """Make the streams, consumers and buckets that APP needs; what exists is not changed.

    APP is the application, as for the dramatiq command: MODULE or MODULE:BROKER.
    """
    if sum([check, dry_run, bool(language), apply_updates]) > 1:
        raise Failure("--check, --dry-run, --print and --apply-updates exclude each other", USAGE)
    broker = operator.broker
    if language:
        click.echo("\n\n".join(admin.nats_commands(broker)))
        return 0
    checked = admin.check(broker)
    if check or dry_run:
        return _compare(operator, checked, check=check)
    results = _make(operator, checked)
    if apply_updates:
        results = [_update(operator, part, yes=yes) if part.differences else (part, state) for part, state in results]
    _print(operator, results)
    if any(part.differences for part, _ in results):
        operator.say("What differs was not changed: --apply-updates does, where the server can.", "red")
        return WRONG
    return 0


Result = tuple[Checked, str]


def _make(operator: Operator, checked: Sequence[Checked]) -> list[Result]:
    made = {(part.requirement.stream, part.requirement.consumer): part for part in admin.make(operator.broker, checked)}
    results = []
    for part in checked:
        now = made.get((part.requirement.stream, part.requirement.consumer))
        results.append((part, part.state) if now is None else (now, "differs" if now.differences else "made"))
    return results


def _compare(operator: Operator, checked: Sequence[Checked], *, check: bool) -> int:
    _print(operator, [(part, part.state) for part in checked])
    unfit = sum(part.state != "fits" for part in checked)
    if check:
        operator.say(f"{unfit} of {len(checked)} are not as declared." if unfit else "All is as declared.")
        return WRONG if unfit else 0
    operator.say("Nothing was changed. 'setup' makes what is missing, and leaves what differs as it is.")
    return 0


def _update(operator: Operator, part: Checked, *, yes: bool) -> Result:
    """Change one thing, after showing what that means."""
    name = f"{part.requirement.kind} {part.requirement.label}"
    _show_differences(operator, part)
    if not part.changeable:
        operator.say(f"The {name} stays as it is: {part.advice}.", "red")
        return part, "differs"
    for warned in admin.warnings(operator.broker, part):
        operator.output.warn(f"Careful, {warned.field}: {warned.danger}.", "yellow")
    confirm(f"Change the {name}?", yes=yes)
    after = admin.update(operator.broker, part)
    return after, "differs" if after.differences else "changed"


def _print(operator: Operator, results: Sequence[Result]) -> None:
    if operator.output.as_json:
        for part, state in results:
            operator.output.record(_fields(part, state))
        return
    rows = [
        (Text(state, _STYLES[state]), part.requirement.kind, part.requirement.label, part.requirement.what)
        for part, state in results
    ]
    operator.output.show(Listing(("state", "kind", "name", "for"), rows))
    for part, _ in results:
        if part.differences:
            _show_differences(operator, part)


def _show_differences(operator: Operator, part: Checked) -> None:
    operator.say(f"{part.requirement.kind} {part.requirement.label}:", "bold")
    for difference in part.differences:
        operator.say(f"  {difference.field}: declared {difference.expected!r}, on the server {difference.found!r}")


def _fields(part: Checked, state: str) -> dict[str, Any]:
    return {
        "state": state,
        "kind": part.requirement.kind,
        "name": part.requirement.name,
        "stream": part.requirement.stream,
        "for": part.requirement.what,
        "differences": [difference._asdict() for difference in part.differences],
    }
