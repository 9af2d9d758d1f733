"""Work begun ahead of the tests that ask what came of it: it mostly waits, and other tests need not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pytest

T = TypeVar("T")


@contextmanager
def begun_ahead(request: pytest.FixtureRequest, fixture: str, work: Callable[[], T]) -> Iterator[Future[T]]:
    """Do something on a thread of its own, to its end, if any test of this run will ask what came of it.

    Parameters:
      request(FixtureRequest): Of a fixture that is there before those tests.
      fixture(str): The fixture by which they ask.
      work(Callable): What to do.
    """
    with ThreadPoolExecutor(1) as thread:
        wanted = any(fixture in getattr(item, "fixturenames", ()) for item in request.session.items)
        yield thread.submit(work) if wanted else Future()
