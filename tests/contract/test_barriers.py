"""Barriers: all parties go on when the last has arrived."""

from __future__ import annotations

import pytest
from dramatiq.rate_limits import Barrier, RateLimiterBackend

from tests.support.waiting import eventually
from tests.support.workers import in_background


@pytest.fixture
def barrier(limits: RateLimiterBackend) -> Barrier:
    return Barrier(limits, "barrier")


def test_barrier_is_created_once(limits: RateLimiterBackend, barrier: Barrier) -> None:
    assert barrier.create(parties=2)
    assert not barrier.create(parties=2)
    assert Barrier(limits, "another").create(parties=2)


def test_last_party_clears_the_barrier(barrier: Barrier) -> None:
    barrier.create(parties=3)

    assert [barrier.wait(block=False) for _ in range(3)] == [False, False, True]


def test_barrier_for_one_is_cleared_at_once(barrier: Barrier) -> None:
    barrier.create(parties=1)

    assert barrier.wait(block=False)


def test_exactly_one_party_clears_the_barrier_when_all_arrive_at_once(barrier: Barrier) -> None:
    barrier.create(parties=8)
    arrivals = [in_background(lambda: barrier.wait(block=False)) for _ in range(8)]

    assert sum(arrival.result(20) for arrival in arrivals) == 1


def test_parties_wait_for_the_last(barrier: Barrier, limits: RateLimiterBackend) -> None:
    barrier.create(parties=3)
    waiting = [in_background(lambda: barrier.wait(timeout=20_000)) for _ in range(2)]
    # Adding nothing tells whether one is left.
    eventually(lambda: limits.incr(barrier.key, 0, 1, barrier.ttl), message="the arrival of two")
    assert not any(party.done() for party in waiting)

    assert barrier.wait(timeout=20_000)
    # dramatiq's stub tells only those who wait already, and a party arrives before it waits.
    eventually(
        lambda: limits.wait_notify(barrier.key_events, barrier.ttl) or all(party.done() for party in waiting),
        message="the end of the waits",
    )
    assert all(party.result() for party in waiting)


def test_party_gives_up_when_its_time_is_over(barrier: Barrier) -> None:
    barrier.create(parties=2)

    assert not barrier.wait(timeout=100)


def test_barriers_with_awkward_keys_are_apart(limits: RateLimiterBackend) -> None:
    barriers = [Barrier(limits, key) for key in ("a", "a@b", "a.events", "*", ">", " ")]

    assert all(barrier.create(parties=1) for barrier in barriers)
    assert all(barrier.wait(block=False) for barrier in barriers)
