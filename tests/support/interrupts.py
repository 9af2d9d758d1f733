"""Exceptions that hit a thread from outside, as dramatiq's time limits, shutdowns and Ctrl-C do."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import dramatiq_jetstream
from tests.support.waiting import eventually

PACKAGE = os.path.dirname(dramatiq_jetstream.__file__)


class Interrupted(BaseException):
    """What hits the thread."""


def interrupt_at(line: int, function: Callable[[], object], within: str = "") -> str | None:
    """Call a function, and raise an exception before the given one of the lines of this package that it executes.

    Parameters:
      line(int): Which of them, counted from 0.
      function(Callable): What to call; it may swallow the exception.
      within(str): The folder or module of the package whose lines count; all by default.

    Returns:
      str: The place that was hit, or None if the function executes fewer lines.
    """
    hit: list[str] = []
    lines, counted = itertools.count(), os.path.join(PACKAGE, within)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(counted):
            return None
        if event == "line" and next(lines) == line:
            hit.append(f"{os.path.relpath(frame.f_code.co_filename, PACKAGE)}:{frame.f_lineno}")
            raise Interrupted(hit[0])
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return hit[0] if hit else None


def everywhere(function: Callable[[], object], *, limit: int = 1_000) -> Iterator[str]:
    """Call a function again and again, each time hit one line later, until it is not hit any more."""
    for line in range(limit):
        place = interrupt_at(line, function)
        if place is None:
            return
        yield place
    raise AssertionError(f"still hit at line {limit}")


class Target:
    """A thread that does one thing over and over and is hit at random moments.

    Parameters:
      work(Callable): What it does; it is told a number that counts up.
      seed(int): Of the moments.
    """

    def __init__(self, work: Callable[[int], object], seed: int) -> None:
        self.hits = 0
        self._work = work
        self._random = random.Random(seed)
        # No Event: the lock in it would stay taken if the exception hit there.
        self._inside = False
        self._going_on = True
        self._thread = threading.Thread(target=self._live, daemon=True)

    def hit(self, times: int) -> None:
        """Run, be hit so many times, and end."""
        self._thread.start()
        for _ in range(times):
            before = self.hits
            eventually(lambda: self._inside, message="the thread's next turn")
            threading.Event().wait(self._random.uniform(0, 0.003))
            self._inside = False
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(Interrupted)
            )
            eventually(lambda before=before: self.hits > before, message="the exception's arrival")  # type: ignore[misc]
        self._going_on = False
        self._thread.join(10)
        assert not self._thread.is_alive(), "the thread stands still"

    def _live(self) -> None:
        numbers = itertools.count()
        while self._going_on:
            try:
                self._run(numbers)
            except Interrupted:
                self.hits += 1

    def _run(self, numbers: Iterator[int]) -> None:
        # Only in here is the thread hit; the next exception comes when this one was counted.
        while self._going_on:
            self._inside = True
            self._work(next(numbers))
