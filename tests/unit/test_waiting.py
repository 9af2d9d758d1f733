from __future__ import annotations

import pytest

from tests.support.waiting import eventually


def test_eventually_returns_the_first_true_value() -> None:
    values = iter([0, None, "", "here", "too late"])

    assert eventually(lambda: next(values)) == "here"


def test_eventually_fails_with_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"the count did not come true within 20 ms; the last value was \[\]"):
        eventually(list, timeout=20, message="the count")
