"""Values on the command line: durations, JSON, options of messages."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from ..options import LONGEST

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """A length of time such as ``10m``, ``90s`` or ``1h30m``, in milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not _WHOLE.fullmatch(value):
            self.fail(f"{value!r} is not a duration: write it like 10m, 90s, 250ms or 1h30m", param, ctx)
        milliseconds = sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(value))
        if milliseconds > LONGEST:
            self.fail(f"{value!r:.60} is longer than a hundred years", param, ctx)
        return round(milliseconds)


class Count(click.IntRange):
    """How many at most; what is more than Python counts is as good as any number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return min(int(super().convert(value, param, ctx)), sys.maxsize)


class Json(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """A list or an object, as JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value!r:.200} is not JSON: {error}", param, ctx)
        if not isinstance(parsed, (list, dict)):
            self.fail(f"{value!r} is neither a list of arguments nor an object of named ones", param, ctx)
        return parsed


class Assignment(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """``name=value``, where the value is JSON, or text if it is none."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value[0], value[1]
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not name=value", param, ctx)
        try:
            return name, json.loads(text)
        except (ValueError, RecursionError):
            return name, text


DURATION = Duration()
JSON = Json()
ASSIGNMENT = Assignment()
