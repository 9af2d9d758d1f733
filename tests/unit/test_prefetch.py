from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_jetstream.deliveries.prefetch import LOOKAHEAD, LOST, MAX_FACTOR, PACE_WINDOW, Credit, Prefetch

THREADS = 8


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def prefetch(clock: Clock) -> Prefetch:
    return Prefetch.choose(2 * THREADS, THREADS, bound=False, clock=clock)


def work(prefetch: Prefetch, clock: Clock, seconds: float, duration: float, threads: int = THREADS) -> None:
    """Let some threads work for a while on messages of one duration in seconds."""
    rounds = round(seconds / duration)
    for _ in range(rounds * threads):
        clock.now += duration / threads
        prefetch.finished()


def test_before_anything_is_known_each_thread_gets_one_message(prefetch: Prefetch) -> None:
    assert prefetch.capacity == THREADS
    assert prefetch.wanted(0) == THREADS


@pytest.mark.parametrize("duration", [0.5, 1.0, 30.0, 3600.0])
def test_slow_actors_hold_exactly_what_their_threads_run(prefetch: Prefetch, clock: Clock, duration: float) -> None:
    work(prefetch, clock, 10 * duration, duration)

    assert prefetch.capacity == THREADS
    assert prefetch.wanted(THREADS - 1) == 1
    assert prefetch.wanted(THREADS) == 0


@pytest.mark.parametrize("duration", [0.02, 0.05, 0.1])
def test_quick_actors_hold_what_they_finish_in_the_lookahead(prefetch: Prefetch, clock: Clock, duration: float) -> None:
    work(prefetch, clock, 10.0, duration)

    ahead = THREADS / duration * LOOKAHEAD / 1000
    assert prefetch.capacity - THREADS == pytest.approx(ahead, abs=1)


def test_the_shortest_actors_hold_no_more_than_the_limit(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 1.0, 0.0001)

    assert prefetch.capacity == MAX_FACTOR * 2 * THREADS


def test_messages_that_take_no_time_at_all_do_not_divide_by_zero(prefetch: Prefetch) -> None:
    for _ in range(10_000):
        prefetch.finished()

    assert prefetch.capacity == MAX_FACTOR * 2 * THREADS


def test_actors_that_turn_slow_soon_hold_no_more_than_their_threads(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 1.0, 0.001)
    assert prefetch.capacity > THREADS

    clock.now += 0.5

    assert prefetch.capacity == THREADS


def test_lookahead_grows_again_within_a_window_after_a_pause(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 1.0, 0.001)
    clock.now += 3600.0
    assert prefetch.capacity == THREADS

    work(prefetch, clock, 2 * PACE_WINDOW, 0.001)

    assert prefetch.capacity > 2 * THREADS


def test_a_single_quick_message_now_and_then_is_no_pace(prefetch: Prefetch, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 1.0
        prefetch.finished()

    assert prefetch.capacity == THREADS


@pytest.mark.parametrize(("prefetched", "threads", "held"), [(16, 8, 8), (16, None, 16), (2, 8, 2), (100, 8, 8)])
def test_bound_queues_have_no_lookahead(clock: Clock, prefetched: int, threads: int | None, held: int) -> None:
    bound = Prefetch.choose(prefetched, threads, bound=True, clock=clock)

    work(bound, clock, 1.0, 0.001)

    assert bound.capacity == held


@pytest.mark.parametrize(("prefetched", "threads"), [(1, 8), (8, 8), (15, 8), (100, 8), (1, None), (16, None)])
def test_number_that_a_user_chose_is_what_they_get(clock: Clock, prefetched: int, threads: int | None) -> None:
    chosen = Prefetch.choose(prefetched, threads, bound=False, clock=clock)
    assert chosen.capacity == prefetched

    work(chosen, clock, 1.0, 0.001)

    assert chosen.capacity == prefetched


def test_one_place_is_worth_a_request_only_without_lookahead(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 1.0, 0.001)
    capacity = prefetch.capacity
    refill = (capacity - THREADS) // 2

    assert prefetch.wanted(capacity - refill + 1) == 0
    assert prefetch.wanted(capacity - refill) == refill
    assert prefetch.wanted(0) == capacity


@given(
    threads=st.integers(1, 64),
    steps=st.lists(st.tuples(st.floats(0, 10), st.integers(0, 200))),
    held=st.integers(0, 1_000),
)
def test_capacity_is_never_less_than_the_threads_nor_more_than_the_limit(
    threads: int, steps: list[tuple[float, int]], held: int
) -> None:
    clock = Clock()
    prefetch = Prefetch.choose(2 * threads, threads, bound=False, clock=clock)

    for seconds, finished in steps:
        clock.now += seconds
        for _ in range(finished):
            prefetch.finished()
        assert threads <= prefetch.capacity <= MAX_FACTOR * 2 * threads
        assert held + prefetch.wanted(held) <= max(held, prefetch.capacity)
        assert held >= threads or prefetch.wanted(held) > 0 or prefetch.capacity > threads


def test_number_that_a_user_chose_is_kept_even_if_it_is_the_default() -> None:
    chosen = Prefetch.choose(2 * THREADS, THREADS, bound=False, chosen=True)

    assert (chosen.capacity, chosen.limit) == (2 * THREADS, 2 * THREADS)


def test_each_thread_is_asked_for_lastingly_and_nothing_else_while_nothing_waits(
    prefetch: Prefetch, clock: Clock
) -> None:
    work(prefetch, clock, 1.0, 0.001)
    credit = Credit(prefetch, clock)

    assert credit.ask(held=0, waiting=0) == (THREADS, 0)
    assert credit.ask(held=0, waiting=THREADS) == (0, 0)
    credit.arrived(passing=False)
    assert credit.ask(held=1, waiting=0) == (0, 0)
    assert credit.ask(held=0, waiting=0) == (1, 0)


def test_what_waits_is_asked_for_in_passing_at_the_present_pace(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 1.0, 0.001)
    credit = Credit(prefetch, clock)

    assert credit.ask(held=0, waiting=100_000) == (THREADS, prefetch.capacity - THREADS)
    assert credit.ask(held=0, waiting=100_000) == (0, 0)
    # No more than waits: what else was asked for comes first.
    credit.forget()
    assert credit.ask(held=0, waiting=THREADS + 60) == (THREADS, 60)
    assert credit.ask(held=0, waiting=THREADS + 60) == (0, 0)


def test_slow_actors_ask_for_nothing_in_passing(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 10.0, 1.0)

    assert Credit(prefetch, clock).ask(held=0, waiting=100_000) == (THREADS, 0)


def test_request_that_ends_gives_back_what_it_did_not_bring(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 1.0, 0.001)
    credit = Credit(prefetch, clock)
    _, asked = credit.ask(held=0, waiting=100_000)

    credit.arrived(passing=True)
    credit.ended(10, passing=True)
    assert (credit.lasting, credit.passing) == (THREADS, asked - 11)
    credit.ended(None, passing=True)
    credit.ended(2, passing=False)
    assert (credit.lasting, credit.passing) == (THREADS - 2, 0)
    credit.ended(None, passing=False)
    credit.arrived(passing=True)
    credit.arrived(passing=False)
    assert (credit.lasting, credit.passing) == (0, 0)


def test_request_in_passing_that_the_server_lost_holds_nothing_back(prefetch: Prefetch, clock: Clock) -> None:
    work(prefetch, clock, 1.0, 0.001)
    credit = Credit(prefetch, clock)
    credit.ask(held=0, waiting=100_000)

    clock.now += LOST + 0.1
    work(prefetch, clock, 1.0, 0.001)

    _, passing = credit.ask(held=0, waiting=100_000)
    assert passing == prefetch.capacity - THREADS


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 10_000), st.floats(0, 5)), max_size=30))
def test_threads_never_go_without_credit(steps: list[tuple[int, int, float]]) -> None:
    clock = Clock()
    prefetch = Prefetch.choose(2 * THREADS, THREADS, bound=False, clock=clock)
    credit = Credit(prefetch, clock)
    for held, waiting, seconds in steps:
        clock.now += seconds
        prefetch.finished(held)
        credit.ask(held, waiting)

        assert held + credit.lasting >= THREADS
        assert credit.lasting <= THREADS
        assert credit.passing <= prefetch.limit
