"""dramatiq's Retries middleware: whether a failed message runs again, and when."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, Retry, Worker
from dramatiq.common import current_millis
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import CurrentMessage, Retries
from dramatiq.rate_limits import ConcurrentRateLimiter

from tests.contract.helpers import AnyBroker, RateLimiterBackend, Recorder, dead_letter_count, failing, finish, wait_for

#: Backoffs that do not hold a test up.
SOON: dict[str, Any] = {"min_backoff": 1, "max_backoff": 1}


def test_failed_message_runs_again_until_it_succeeds(broker: AnyBroker, worker: Worker) -> None:
    attempt = failing(2)
    results: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def flaky() -> None:
        results.append(attempt())

    flaky.send()
    finish(broker, worker)

    assert results == [3]
    assert dead_letter_count(broker) == 0


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_actor_runs_max_retries_and_one_times_then_is_a_dead_letter(
    broker: AnyBroker, worker: Worker, max_retries: int
) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_retries=max_retries, **SOON)
    def fail() -> None:
        ran.append(1)
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, worker)

    assert len(ran) == max_retries + 1
    assert dead_letter_count(broker) == 1


@pytest.mark.parametrize(("of_actor", "of_message"), [(3, 1), (1, 3)])
def test_max_retries_of_the_message_win_over_those_of_the_actor(
    broker: AnyBroker, worker: Worker, of_actor: int, of_message: int
) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_retries=of_actor, **SOON)
    def fail() -> None:
        ran.append(1)
        raise RuntimeError("on purpose")

    fail.send_with_options(max_retries=of_message)
    finish(broker, worker)

    assert len(ran) == of_message + 1
    assert dead_letter_count(broker) == 1


def test_max_retries_of_the_middleware_hold_for_actors_without_their_own(broker: AnyBroker, worker: Worker) -> None:
    ran: list[int] = []
    for middleware in broker.middleware:
        if isinstance(middleware, Retries):
            middleware.max_retries = 2

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def fail() -> None:
        ran.append(1)
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, worker)

    assert len(ran) == 3
    assert dead_letter_count(broker) == 1


def test_two_actors_of_a_queue_keep_to_their_own_max_retries(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor(max_retries=1, **SOON)
    def hasty() -> None:
        ran.append("hasty")
        raise RuntimeError("on purpose")

    @dramatiq.actor(max_retries=4, **SOON)
    def patient() -> None:
        ran.append("patient")
        raise RuntimeError("on purpose")

    hasty.send()
    patient.send()
    finish(broker, worker)

    assert (ran.count("hasty"), ran.count("patient")) == (2, 5)
    assert dead_letter_count(broker) == 2


def test_without_a_limit_a_message_runs_until_it_succeeds(broker: AnyBroker, worker: Worker) -> None:
    attempt = failing(25)
    results: list[int] = []

    @dramatiq.actor(max_retries=None, **SOON)
    def flaky() -> None:
        results.append(attempt())

    flaky.send()
    finish(broker, worker)

    assert results == [26]


def test_without_the_middleware_a_failed_message_is_done(broker: AnyBroker, worker: Worker) -> None:
    broker.middleware[:] = [middleware for middleware in broker.middleware if not isinstance(middleware, Retries)]
    ran: list[int] = []

    @dramatiq.actor
    def fail() -> None:
        ran.append(1)
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, worker)

    assert ran == [1]
    assert dead_letter_count(broker) == 0


def test_backoff_doubles_from_the_least_to_the_most(broker: AnyBroker, worker: Worker, recorder: Recorder) -> None:
    @dramatiq.actor(max_retries=4, min_backoff=20, max_backoff=60)
    def fail() -> None:
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, worker)

    delays = [signal.delay or 0 for signal in recorder.retries("after_enqueue")]
    assert len(delays) == 4
    # dramatiq 1 draws from the half to the whole of a backoff, dramatiq 2 from the whole to the double.
    assert 10 <= delays[0] <= 40
    assert 20 <= delays[1] <= 60
    assert all(30 <= delay <= 60 for delay in delays[2:])


@pytest.mark.parametrize("options", [{"min_backoff": 400, "max_backoff": 400}])
def test_retry_does_not_run_before_its_backoff(
    broker: AnyBroker, worker: Worker, recorder: Recorder, options: dict[str, Any]
) -> None:
    times: list[int] = []

    @dramatiq.actor(max_retries=1)
    def fail() -> None:
        times.append(current_millis())
        raise RuntimeError("on purpose")

    fail.send_with_options(**options)
    finish(broker, worker)

    [signal] = recorder.retries("after_enqueue")
    assert len(times) == 2
    assert signal.delay is not None
    assert 200 <= signal.delay <= 400
    assert times[1] - times[0] >= signal.delay


def test_retry_exception_says_after_which_delay_to_run_again(
    broker: AnyBroker, worker: Worker, recorder: Recorder
) -> None:
    times: list[int] = []

    @dramatiq.actor(min_backoff=600_000, max_backoff=600_000)
    def later() -> None:
        times.append(current_millis())
        if len(times) == 1:
            raise Retry("not now", delay=250)

    later.send()
    finish(broker, worker)

    assert [signal.delay for signal in recorder.retries("after_enqueue")] == [250]
    assert times[1] - times[0] >= 250


def test_retry_exception_without_a_delay_uses_the_backoff_and_counts(broker: AnyBroker, worker: Worker) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_retries=2, **SOON)
    def later() -> None:
        ran.append(1)
        raise Retry("not now")

    later.send()
    finish(broker, worker)

    assert len(ran) == 3
    assert dead_letter_count(broker) == 1


def test_retry_exception_with_delay_zero_runs_again_at_once(broker: AnyBroker, worker: Worker) -> None:
    attempt = failing(3, lambda: Retry("again", delay=0))
    results: list[int] = []

    @dramatiq.actor(min_backoff=600_000, max_backoff=600_000)
    def later() -> None:
        results.append(attempt())

    later.send()
    finish(broker, worker)

    assert results == [4]


def test_retry_when_decides_by_retries_and_exception(broker: AnyBroker, worker: Worker) -> None:
    asked: list[tuple[int, str]] = []

    def retry_when(retries: int, exception: BaseException) -> bool:
        asked.append((retries, str(exception)))
        return retries < 3

    @dramatiq.actor(retry_when=retry_when, max_retries=1, **SOON)
    def fail() -> None:
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, worker)

    assert asked == [(retries, "on purpose") for retries in range(4)]
    assert dead_letter_count(broker) == 1


@pytest.mark.parametrize("throws", [ValueError, (KeyError, ValueError)])
def test_expected_exception_is_not_retried(broker: AnyBroker, worker: Worker, throws: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor(throws=throws, **SOON)
    def fail() -> None:
        ran.append(1)
        raise ValueError("expected")

    fail.send()
    finish(broker, worker)

    assert ran == [1]
    assert dead_letter_count(broker) == 1


def test_unexpected_exception_is_retried_beside_expected_ones(broker: AnyBroker, worker: Worker) -> None:
    attempt = failing(1, lambda: KeyError("unexpected"))
    results: list[int] = []

    @dramatiq.actor(throws=ValueError, **SOON)
    def flaky() -> None:
        results.append(attempt())

    flaky.send()
    finish(broker, worker)

    assert results == [2]


@pytest.mark.skipif("on_retry_exhausted" not in Retries().actor_options, reason="dramatiq 1 has no such option")
@pytest.mark.parametrize("of_message", [False, True])
def test_exhausted_message_is_reported_to_another_actor(broker: AnyBroker, worker: Worker, of_message: bool) -> None:
    reports: list[tuple[dict[str, Any], dict[str, int]]] = []

    @dramatiq.actor
    def report(message_data: dict[str, Any], retry_info: dict[str, int]) -> None:
        reports.append((message_data, retry_info))

    @dramatiq.actor(max_retries=2, on_retry_exhausted=None if of_message else "report", **SOON)
    def fail() -> None:
        raise RuntimeError("on purpose")

    options: dict[str, Any] = {"on_retry_exhausted": "report"} if of_message else {}
    sent = fail.send_with_options(**options)
    finish(broker, worker)

    [(message_data, retry_info)] = reports
    assert message_data["message_id"] == sent.message_id
    assert message_data["options"]["retries"] == 3
    assert retry_info == {"retries": 2, "max_retries": 2}


def test_exceeded_rate_limit_is_retried(broker: AnyBroker, worker: Worker) -> None:
    limiter = ConcurrentRateLimiter(RateLimiterBackend(), "one at a time", limit=1)
    refused = threading.Event()
    ran: list[str] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def limited(name: str) -> None:
        try:
            with limiter.acquire():
                if not refused.is_set():
                    wait_for(refused)
                ran.append(name)
        except RateLimitExceeded:
            refused.set()
            raise

    limited.send("one")
    limited.send("two")
    finish(broker, worker)

    assert sorted(ran) == ["one", "two"]


def test_failing_message_does_not_hold_up_its_neighbours(broker: AnyBroker, worker: Worker) -> None:
    ran: set[int] = set()

    @dramatiq.actor(max_retries=0)
    def note(number: int) -> None:
        ran.add(number)
        if number % 2:
            raise RuntimeError("on purpose")

    for number in range(20):
        note.send(number)
    finish(broker, worker)

    assert ran == set(range(20))
    assert dead_letter_count(broker) == 10


def test_message_keeps_its_identity_through_retries(broker: AnyBroker, worker: Worker) -> None:
    seen: list[Message[Any] | None] = []

    @dramatiq.actor(max_retries=2, **SOON)
    def fail(*args: int, **kwargs: int) -> None:
        seen.append(CurrentMessage.get_current_message())
        raise RuntimeError("on purpose")

    sent = fail.send_with_options(args=(1, 2), kwargs={"three": 3}, color="red")
    finish(broker, worker)

    assert len(seen) == 3
    for message in seen:
        assert message is not None
        assert message.message_id == sent.message_id
        assert message.message_timestamp == sent.message_timestamp
        assert (message.args, message.kwargs) == ((1, 2), {"three": 3})
        assert message.options["color"] == "red"


def test_delayed_message_that_fails_is_retried(broker: AnyBroker, worker: Worker) -> None:
    attempt = failing(1)
    results: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def flaky() -> None:
        results.append(attempt())

    flaky.send_with_options(delay=50)
    finish(broker, worker)

    assert results == [2]
