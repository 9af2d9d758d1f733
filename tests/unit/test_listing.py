"""Tables at the widths and in the encodings that terminals have."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from dramatiq_jetstream.cli.listing import Listing
from dramatiq_jetstream.cli.queues import _RIGHT, HEADERS, dropped

NAME = "q" * 50
HOSTILE = "ü…\x1b[31m\n[bold]\u2028\udcff語" * 4


def lines(listing: Listing, width: int, encoding: str) -> list[str]:
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
