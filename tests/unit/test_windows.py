"""The counts of a window rate limiter in one value."""

from __future__ import annotations

import pytest

from dramatiq_jetstream.backends.windows import MAX_COUNTS, WindowCounts

NOTHING = WindowCounts.read(None)


def test_counts_survive_being_stored() -> None:
    counts = NOTHING.added(100, 2, 100, 60).added(101, 1, 101, 60)

    assert WindowCounts.read(counts.write()) == counts


def test_count_leaves_the_window_when_its_time_has_passed() -> None:
    counts = NOTHING.added(100, 2, 100, 60)

    assert [counts.total(now, 60) for now in (100, 159, 160)] == [2, 2, 0]


def test_shorter_window_with_the_same_key_drops_nothing_that_a_longer_one_needs() -> None:
    counts = NOTHING.added(100, 1, 100, 60).added(150, 1, 150, 10)

    assert (counts.total(150, 60), counts.total(150, 10)) == (2, 1)


@pytest.mark.parametrize("window", [600, 3_600, 86_400, 31_536_000])
def test_busy_window_stays_small_and_never_counts_too_few(window: int) -> None:
    counts, step = NOTHING, max(window // 2_000, 1)
    for second in range(0, window, step):
        counts = counts.added(second, 1, second, window)
        assert len(counts.counts) <= MAX_COUNTS

    hits = len(range(0, window, step))
    assert counts.total(window - 1, window) == hits
    # What leaves late leaves by a small part of the window.
    late = window // 100 + 2
    assert all(
        hits - now // step - 1 <= counts.total(now + window, window) <= hits - max(now - late, 0) // step
        for now in range(0, window, window // 50)
    )
