"""``events``, ``doctor``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

import click
from rich.text import Text

from .. import admin
from ..admin import Event, Finding
from .command import command
from .failures import WRONG
from .listing import Listing
from .operator import Operator
from .output import fields_of, moment
from .root import main
from .values import DURATION, Count

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}

#: Seconds after which a wait looks whether it was interrupted.
_GLANCE = 0.5


@command(
    main,
    "events",
    examples="""
  dramatiq-jetstream events
  dramatiq-jetstream events --for 10m --json
""",
)
@click.option("--for", "duration", type=DURATION, help="How long to listen.  [default: until Ctrl-C]")
@click.option("--count", type=Count(1), help="End after so many.")
def events(operator: Operator, duration: int | None, count: int | None) -> int:
    """Follow what the server tells of our streams: attempts exceeded, messages terminated or naked, pauses."""
    heard: SimpleQueue[Event] = SimpleQueue()
    ends = None if duration is None else time.monotonic() + duration / 1000
    printed = 0
    with admin.follow_events(operator.broker, heard.put):
        try:
            operator.output.warn("Listening for advisories; Ctrl-C ends this.", "dim")
            while (count is None or printed < count) and (ends is None or time.monotonic() < ends):
                printed += _print_next(operator, heard, ends)
        except KeyboardInterrupt:
            return 0
    return 0


@command(
    main,
    "doctor",
    examples="""
  dramatiq-jetstream doctor
  dramatiq-jetstream doctor --app app --role worker
""",
)
@click.option(
    "--role",
    "roles",
    type=click.Choice(admin.ROLES),
    multiple=True,
    help="Try what this role must be allowed to do; can be repeated.  [default: operator]",
)
def doctor(operator: Operator, roles: Sequence[str]) -> int:
    """Look for what is wrong, and say what to do about it; exits with 1 if there is something.

    The worst comes first, and what is the same of several things is one line. With an application (--app) what is
    declared is compared with the server, too.
    """
    found = admin.grouped(admin.examine(operator.broker, roles or ["operator"], drift=operator.has_application))
    if not operator.output.as_json:
        _print_findings(operator, found)
    for finding in found if operator.output.as_json else ():
        operator.output.record(fields_of(finding))
    return WRONG if any(finding.wrong for finding in found) else 0


def _print_next(operator: Operator, heard: SimpleQueue[Event], ends: float | None) -> int:
    """Print one event, if there is one soon, and tell how many that were."""
    left = _GLANCE if ends is None else max(min(_GLANCE, ends - time.monotonic()), 0)
    try:
        event = heard.get(timeout=left)
    except Empty:
        return 0
    if operator.output.as_json:
        operator.output.record(fields_of(event))
    operator.say(_line(event))
    return 1


def _line(event: Event) -> str:
    parts = [f"{event.stream} > {event.consumer}" if event.consumer else event.stream]
    if event.sequence is not None:
        parts.append(f"message {event.sequence}")
    if event.deliveries is not None:
        parts.append(f"{event.deliveries} deliveries")
    if event.until is not None:
        parts.append(f"until {moment(event.until)}")
    if event.reason:
        parts.append(f"reason: {event.reason}")
    return f"[{moment(event.at)}] {event.kind[0].upper()}{event.kind[1:]}: {', '.join(parts)}"


def _print_findings(operator: Operator, found: Sequence[Finding]) -> None:
    rows = [
        (Text(finding.level, _STYLES[finding.level]), finding.check, finding.subject, finding.text) for finding in found
    ]
    operator.output.show(Listing(("level", "check", "on", "found"), rows, drop=("check",), wrap="found"))
    advised = [finding for finding in found if finding.advice]
    if advised:
        operator.say("")
        operator.say("What to do:", "bold")
    for finding in advised:
        operator.output.say(f"  {finding.check}, {finding.subject}: {finding.advice}", indent=4)
