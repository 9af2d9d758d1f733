"""Tables at the widths and in the encodings that terminals have."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from dramatiq_jetstream.cli.listing import Fields, Listing
from dramatiq_jetstream.cli.queues import _RIGHT, HEADERS, dropped

NAME = "q" * 50
ACCENTED = "e\u0301"
HOSTILE = "ü…\x1b[31m\n[bold]\u2028\udcff語" * 4


def lines(listing: Listing, width: int, encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    Console(file=stream, width=width, highlight=False, force_terminal=True, color_system=None).print(listing)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("width", [80, 120, 160])
@pytest.mark.parametrize("value", [NAME, HOSTILE])
def test_queues_take_a_line_each_and_fit(width: int, encoding: str, value: str) -> None:
    rows = [[value, *["12,345"] * (len(HEADERS) - 2), value]] * 2
    header, *rest = lines(Listing(HEADERS, rows, right=_RIGHT, drop=dropped(rows)), width, encoding)
    assert len(rest) == 2
    assert all(cell_len(line) <= width for line in (header, *rest))
    assert set(header.split()) <= set(HEADERS)
    assert {"queue", "ready", "running", "retrying", "overdue", "dead"} <= set(header.split())


@pytest.mark.parametrize("width", [80, 120, 160])
def test_sentences_are_wrapped_between_words(width: int) -> None:
    sentence = "5 messages wait and no worker asks for them " * 4
    shown = lines(Listing(("level", "on", "found"), [("problem", NAME, sentence)], wrap="found"), width, "utf-8")
    assert all(cell_len(line) <= width for line in shown)
    assert set(" ".join(shown[1:]).split()) >= set(sentence.split())


@pytest.mark.parametrize("width", [1, 5, 10, 20, 40])
def test_no_width_is_too_small(width: int) -> None:
    rows = [[NAME, *["123,456,789"] * (len(HEADERS) - 2), HOSTILE]]
    shown = lines(Listing(HEADERS, rows, right=_RIGHT, drop=dropped(rows)), width)
    assert len(shown) == 2
    assert all(cell_len(line) <= width for line in shown)


def test_columns_take_the_room_that_one_left_behind() -> None:
    headers, rows = ("id", "note", "name"), [("i" * 36, "n" * 30, "a" * 30)]
    header, row = lines(Listing(headers, rows, drop=("note",), least={"id": 36}), 70)
    assert header.split() == ["id", "name"]
    assert row.split() == ["i" * 36, "a" * 30]


def test_columns_are_cut_evenly() -> None:
    _, row = lines(Listing(("one", "other"), [("a" * 50, "b" * 50)]), 42)
    assert row.split() == ["a" * 19 + "…", "b" * 19 + "…"]


def test_numbers_are_left_out_and_not_cut() -> None:
    header, row = lines(Listing(("name", "count"), [("a", "1" * 30)], right=("count",)), 20)
    assert (header.split(), row.split()) == (["name"], ["a"])


def test_column_that_tells_something_outlives_those_that_do_not() -> None:
    quiet = [["q", *["0"] * (len(HEADERS) - 2), "open"]]
    column = HEADERS.index("exhausted")
    telling = [[*quiet[0][:column], "1", *quiet[0][column + 1 :]]]
    assert dropped(quiet).index("exhausted") < dropped(quiet).index("oldest")
    assert dropped(telling).index("exhausted") > dropped(telling).index("oldest")


def test_marks_that_combine_do_not_pile_up() -> None:
    [_, row] = lines(Listing(("name",), [("e" + "\u0301" * 10_000,)]), 80)
    assert len(row.strip()) <= 4 * 80


@pytest.mark.parametrize("value", ["x" * 1_000_000, "語" * 1_000_000, "e\u0301" * 500_000])
def test_huge_value_is_cut_before_it_is_measured(value: str) -> None:
    header, *rows = lines(Listing(("name", "other"), [(value, value)] * 3), 80)
    assert len(rows) == 3
    assert {cell_len(row) for row in rows} == {cell_len(header)}
    assert all(row.rstrip().endswith("…") for row in rows)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("width", [20, 40, 80])
def test_fields_fit_and_keep_every_character(width: int, encoding: str) -> None:
    value = f"{HOSTILE} {'x' * 500}\n    {'word ' * 50}\n{'語' * 100}\n{ACCENTED * 100}"
    shown = list(Fields({"name": value, "another name": 7}).lines(width, encoding))
    assert all(cell_len(line) <= width for line in shown)
    assert all(char.isprintable() for line in shown for char in line)
    assert "".join(shown).count("x") >= 500
    assert "".join(shown).count("word") == 50


def test_fields_are_not_wrapped_in_a_file() -> None:
    assert list(Fields({"body": "x y " * 1_000}).lines(None, "utf-8")) == ["body  " + ("x y " * 1_000).rstrip()]


def test_line_of_a_field_cannot_pass_for_another_field() -> None:
    shown = list(Fields({"queue": "q\nstate  dead", "state": "ready"}).lines(80, "utf-8"))
    assert shown == ["queue  q", "       state  dead", "state  ready"]
