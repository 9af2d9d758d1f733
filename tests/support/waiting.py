"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: int = 60_000, *, message: str = "the condition") -> T:
    """Call a predicate again and again until what it returns is true.

    Parameters:
      predicate(Callable): What to call. Its exceptions are not caught.
      timeout(int): How long to go on, in milliseconds.
      message(str): What is waited for, for the failure's text.

    Raises:
      AssertionError: When the predicate did not return a true value in time; the text shows its last value.

    Returns:
      object: The first true value.
    """
    pause = threading.Event()
    deadline = time.monotonic() + timeout / 1000
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"{message} did not come true within {timeout} ms; the last value was {value!r}")
        pause.wait(0.01)
    return value
