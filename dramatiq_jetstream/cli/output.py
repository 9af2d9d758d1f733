"""Screens for people, one JSON object a line for machines; colour only on a terminal."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .failures import USAGE, Failure
from .listing import Fields
from .terminal import encodable, printable, wrapped

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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
        click.echo(json_line(fields))

    def say(self, text: str, style: str = "", *, indent: int = 0) -> None:
        """Print a sentence for people; nothing with ``--json``.

        Parameters:
          text(str): The sentence.
          style(str): Its colour.
          indent(int): The spaces before each of its lines but the first.
        """
        if not self.as_json:
            self._print(self.console, text, style, indent)

    def warn(self, text: str, style: str = "") -> None:
        """Print a sentence on stderr, with ``--json`` too."""
        self._print(self.errors, text, style)

    def show_fields(self, values: Mapping[str, object]) -> None:
        """Print names with their values for people."""
        width = self.console.width if self.console.is_terminal else None
        for line in Fields(values).lines(width, self.console.encoding):
            click.echo(line)

    def _print(self, console: Console, text: str, style: str, indent: int = 0) -> None:
        line = encodable(printable(text).replace("\n", " "), console.encoding)
        if console.is_terminal:
            line = f"\n{'':<{indent}}".join(wrapped(line, console.width - indent))
        console.print(Text(line, style), soft_wrap=True)

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


def cut(value: object, length: int = CUT) -> str:
    """Text on one line and not too long."""
    # Of a long text only the beginning is looked at.
    text = " ".join(printable(str(value)[: 10 * length]).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def age(milliseconds: float | None) -> str:
    """A length of time in its two largest units."""
    if milliseconds is None or not _is_finite(milliseconds):
        return "-"
    rest = max(int(milliseconds), 0)
    if rest < 1_000:
        return f"{rest}ms"
    parts: list[str] = []
    for size, unit in _AGES:
        amount, rest = divmod(rest, size)
        if amount or parts:
            parts.append(f"{amount}{unit}" if amount else "")
    return " ".join(part for part in parts[:2] if part)


def moment(milliseconds: float | None) -> str:
    """A moment in local time, to the second."""
    if not milliseconds:
        return "-"
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError, TypeError):
        return cut(f"{milliseconds} ms since 1970", 50)


def arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A call's arguments as a person would write them."""
    return ", ".join([*map(readable, args), *(f"{name}={readable(value)}" for name, value in kwargs.items())])


def readable(value: Any, indent: int | None = None) -> str:
    """A value in JSON for people, or as Python shows it where JSON cannot express it."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_described, indent=indent)
    except (TypeError, ValueError, RecursionError):
        return _described(value)


def json_line(fields: Mapping[str, Any]) -> str:
    """One JSON object for machines, in ASCII; what JSON cannot express is a text."""
    try:
        return json.dumps(fields, default=_described, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({name: _field(value) for name, value in fields.items()}, default=_described)


def fields_of(view: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass by name; their values are not copied, as those of messages may not be copyable."""
    return {field.name: getattr(view, field.name) for field in dataclasses.fields(view)}


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


def _is_finite(value: object) -> bool:
    # An integer may be too large for a float.
    return not isinstance(value, float) or math.isfinite(value)


def _field(value: Any) -> Any:
    try:
        expressible = _expressible(value)
        json.dumps(expressible, default=_described)
    except (TypeError, ValueError, RecursionError):
        return _described(value)
    return expressible


def _expressible(value: Any) -> Any:
    """A value as JSON can express it: infinite numbers as texts, and the names in objects as texts."""
    if not _is_finite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, (list, tuple)):
        items: list[Any] = []
        # In loops, which take one level of the stack for each level of the value.
        for item in value:
            items.append(_expressible(item))
        return items
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for name, item in value.items():
            found[name if isinstance(name, str) else _described(name)] = _expressible(item)
        return found
    return value


def _described(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, of which repr() raises {type(error).__name__}>"
