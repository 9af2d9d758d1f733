"""Tables for people, one JSON object a line for machines; colour only on a terminal."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .failures import USAGE, Failure
from .listing import Listing, printable

#: The longest arguments, exception text and the like in a table.
CUT = 60

#: The width of what does not go to a terminal: nothing is folded there.
UNFOLDED = 100_000

_AGES = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))


class Output:
    """Where a command's results go.

    Parameters:
      as_json(bool): Whether they are for machines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A character that the terminal does not have is shown by its number.
                stream.reconfigure(errors="backslashreplace")
        terminal = Console(file=sys.stdout, highlight=False)
        self.console = terminal if terminal.is_terminal else Console(file=sys.stdout, highlight=False, width=UNFOLDED)
        self.errors = Console(file=sys.stderr, highlight=False)

    def record(self, fields: Mapping[str, Any]) -> None:
        """Print one JSON object."""
        click.echo(json.dumps(fields, default=_jsonable))

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence for people; nothing with ``--json``."""
        if not self.as_json:
            self.console.print(Text(printable(text), style))

    def show(self, renderable: RenderableType) -> None:
        """Print something for people."""
        if self.console.is_terminal:
            self.console.print(renderable)
            return
        with self.console.capture() as captured:
            self.console.print(renderable)
        click.echo("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))

    def progress(self) -> Progress:
        """A progress bar on stderr; invisible unless that is a terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=self.errors, transient=True, disable=not self.errors.is_terminal)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    drop: Sequence[str] = (),
    wrap: str | None = None,
) -> Listing:
    """A table without borders; text is shown as it is, and nothing in it can command the terminal.

    Parameters:
      headers(Sequence): The columns' names.
      rows(Iterable): Their values.
      right(Sequence): The columns that are aligned to the right.
      drop(Sequence): The columns to leave out where the terminal is too narrow, the least important first.
      wrap(str): The last column, if it holds sentences, which are wrapped and not cut.
    """
    return Listing(headers, rows, right=right, drop=drop, wrap=wrap)


def cut(value: object, length: int = CUT) -> str:
    """Text on one line and not too long."""
    text = " ".join(printable(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def age(milliseconds: int | None) -> str:
    """A length of time in its two largest units."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    parts: list[str] = []
    for size, unit in _AGES:
        amount, milliseconds = divmod(milliseconds, size)
        if amount or parts:
            parts.append(f"{amount}{unit}" if amount else "")
    return " ".join(part for part in parts[:2] if part)


def moment(milliseconds: int | None) -> str:
    """A moment in local time, to the second."""
    if not milliseconds:
        return "-"
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError, TypeError):
        return cut(f"{milliseconds} ms since 1970", 30)


def arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A call's arguments as a person would write them."""
    return ", ".join([*map(_literal, args), *(f"{name}={_literal(value)}" for name, value in kwargs.items())])


def body_fields(body: bytes) -> dict[str, str | None]:
    """A body in JSON: as text, or in base64 if it is none."""
    try:
        return {"body": body.decode(), "body_base64": None}
    except UnicodeDecodeError:
        return {"body": None, "body_base64": base64.b64encode(body).decode()}


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless that was answered on the command line.

    Raises:
      Failure: If there is nobody to ask.
      Abort: If the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"{question} Nobody can be asked here: add --yes if that is meant", USAGE)
    click.confirm(question, abort=True, err=True)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)


def _jsonable(value: object) -> object:
    return repr(value)
