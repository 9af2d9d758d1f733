"""Values as the command line writes them, odd ones too."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from dramatiq_jetstream.admin import Event
from dramatiq_jetstream.admin.attempts import last_exception
from dramatiq_jetstream.cli.diagnosis import _line
from dramatiq_jetstream.cli.output import Output, age, arguments, cut, json_line, moment, readable


class Silent:
    """Something whose repr() fails."""

    def __repr__(self) -> str:
        raise RuntimeError


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODD = [math.nan, math.inf, -math.inf, 10**30, 10**400, -1, "text", None, [], {(1, 2): 3}, {1: math.nan}, b"x", Silent()]


@pytest.mark.parametrize(
    "value", [*ODD, nested(450), nested(100_000), "\udcff"], ids=lambda value: type(value).__name__
)
def test_any_value_is_shown_and_is_json(value: Any) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    assert isinstance(readable(value), str)
    assert isinstance(arguments([value], {"name": value}), str)
    line = json_line({"value": value})
    line.encode("ascii")
    assert json.loads(line, parse_constant=refuse).keys() == {"value"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**30, 10**400, -1, -(10**30), 1.5, 0, None])
def test_any_number_is_an_age_and_a_moment(value: Any) -> None:
    assert age(value)
    assert moment(value)


def test_moment_out_of_range_is_shown_as_its_number() -> None:
    assert moment(10**30) == f"{10**30} ms since 1970"
    assert moment("soon") == "soon ms since 1970"  # type: ignore[arg-type]


def test_long_text_is_cut_without_looking_at_all_of_it() -> None:
    assert cut("a b\n\tc" + "x" * 10_000_000, 10) == "a b cxxxx…"


@pytest.mark.parametrize(
    ("traceback", "expected"),
    [
        ('Traceback (most recent call last):\n  File "a", line 1, in f\n    raise E\nE: no paper\n', "E: no paper"),
        (
            'Traceback (most recent call last):\n  File "a", line 1, in f\n    g()\n    ^^^\nE: two\nlines',
            "E: two\nlines",
        ),
        (
            'Traceback (most recent call last):\n  File "a", line 1\n    x\nA: first\n\nDuring handling of the above '
            'exception, another exception occurred:\n\nTraceback (most recent call last):\n  File "b", line 2\nB: last',
            "B: last",
        ),
        ("E: no stack", "E: no stack"),
        ('  File "a", line 1, in f\n    cut off', "cut off"),
        ("", None),
        ("  \n ", None),
        (7, None),
        (None, None),
        (["E"], None),
    ],
)
def test_last_exception_is_read_from_a_traceback(traceback: object, expected: str | None) -> None:
    assert last_exception(traceback) == expected


@pytest.mark.parametrize("reason", ["not an image", "a\x1b[31m\n[forged] \u202e語" * 50])
def test_event_is_one_line_that_commands_nothing(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    event = Event(10**30, "message terminated", None, "S", "C\n", -1, 2, reason, 10**30)

    Output(as_json=False).say(_line(event))

    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert shown.rstrip("\n").isprintable()
    assert "reason: " in shown
