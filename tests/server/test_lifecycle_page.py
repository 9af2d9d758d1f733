"""docs/lifecycle.md: the files that it names are those that a message passes, eight at most on each trip."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import dramatiq
import pytest

import dramatiq_jetstream
from dramatiq_jetstream import JetStreamBroker
from tests.support.waiting import eventually
from tests.support.workers import run_worker

PACKAGE = Path(dramatiq_jetstream.__file__).parent
PAGE = PACKAGE.parent / "docs" / "lifecycle.md"

#: The most files that a message may pass on one trip.
MOST = 8


def trips() -> dict[str, list[str]]:
    """The files of each trip, by the heading of its table."""
    found: dict[str, list[str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        heading = section.splitlines()[0]
        files = re.findall(r"^\| \d+\..*? \| `([a-z_/]+\.py)` \|", section, re.MULTILINE)
        if files:
            found[heading] = files
    return found


@contextmanager
def visited() -> Iterator[set[str]]:
    """The files of the package whose functions are called meanwhile, on any thread that starts now and on this one."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            seen.add(str(path.relative_to(PACKAGE)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_there_are_three_trips_of_eight_files_at_most() -> None:
    assert [len(files) <= MOST and len(set(files)) == len(files) for files in trips().values()] == [True] * 3


@pytest.mark.parametrize("heading", trips())
def test_files_of_a_trip_exist(heading: str) -> None:
    assert [name for name in trips()[heading] if not (PACKAGE / name).is_file()] == []


def test_message_passes_the_files_that_the_page_names(broker: JetStreamBroker) -> None:
    out, way_in, back = trips().values()
    ran: list[int] = []

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def fail_once(key: int) -> None:
        ran.append(key)
        if len(ran) == 1:
            raise ValueError("once")

    with visited() as sent:
        fail_once.send(1)
    # The connection is opened anew, so that its threads are watched as well.
    broker.connection.close()
    with visited() as worked, run_worker(broker):
        eventually(lambda: len(ran) == 2)
        broker.join("default", timeout=60_000)

    assert set(out) - sent == set()
    assert {*way_in, *back} - worked == set()
