"""Groups, pipelines and completion callbacks over a broker and its backends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits import RateLimiterBackend
from dramatiq.results import ResultBackend, ResultFailure, Results, ResultTimeout

from tests.contract.helpers import AnyBroker, StartWorker, failing, finish

#: More members than a barrier's value remembers, at which the counting changes.
SIZES = [1, 2, 40, 200]


@pytest.fixture(autouse=True)
def middleware(broker: AnyBroker, results: ResultBackend, limits: RateLimiterBackend) -> None:
    broker.add_middleware(Results(backend=results))
    broker.add_middleware(GroupCallbacks(limits))


@pytest.fixture
def double(broker: AnyBroker) -> Any:
    @dramatiq.actor(store_results=True)
    def double(number: int) -> int:
        return 2 * number

    return double


@pytest.fixture
def completed(broker: AnyBroker) -> list[object]:
    """What a completion callback was called with."""
    calls: list[object] = []

    @dramatiq.actor(queue_name="callbacks")
    def complete(text: str) -> None:
        calls.append(text)

    return calls


def test_results_of_a_group_come_in_its_order(broker: AnyBroker, worker: Worker, double: Any) -> None:
    group = dramatiq.group([double.message(number) for number in range(20)]).run()

    assert list(group.get_results(block=True, timeout=20_000)) == [2 * number for number in range(20)]
    assert group.completed
    assert group.completed_count == 20


def test_waiting_for_a_group_ends_when_all_are_done(broker: AnyBroker, worker: Worker, double: Any) -> None:
    group = dramatiq.group([double.message(number) for number in range(5)]).run()
    group.wait(timeout=20_000)

    assert list(group.get_results()) == [0, 2, 4, 6, 8]


def test_waiting_for_a_group_that_does_not_run_times_out(broker: AnyBroker, double: Any) -> None:
    group = dramatiq.group([double.message(1)]).run()

    with pytest.raises(ResultTimeout):
        group.wait(timeout=150)
    assert not group.completed
    assert group.completed_count == 0


def test_exception_of_a_member_is_raised_where_its_result_is_due(
    broker: AnyBroker, worker: Worker, double: Any
) -> None:
    @dramatiq.actor(store_results=True, max_retries=0)
    def fail() -> None:
        raise ValueError("on purpose")

    results = dramatiq.group([double.message(1), fail.message()]).run().get_results(block=True, timeout=20_000)

    assert next(results) == 2
    with pytest.raises(ResultFailure, match="on purpose"):
        next(results)


def test_each_step_of_a_pipeline_has_its_result(broker: AnyBroker, worker: Worker, double: Any) -> None:
    pipe = (double.message(1) | double.message() | double.message()).run()

    assert pipe.get_result(block=True, timeout=20_000) == 8
    assert list(pipe.get_results()) == [2, 4, 8]
    assert pipe.completed
    assert pipe.completed_count == 3


def test_groups_of_groups_and_pipelines_have_results_like_themselves(
    broker: AnyBroker, worker: Worker, double: Any
) -> None:
    inner = dramatiq.group([double.message(1), double.message(2)])
    group = dramatiq.group([inner, double.message(3) | double.message(), double.message(4)]).run()

    assert list(group.get_results(block=True, timeout=20_000)) == [[2, 4], 12, 8]
    assert group.completed


@pytest.mark.parametrize("size", SIZES)
def test_callback_runs_once_when_all_members_are_done(
    broker: AnyBroker, start_worker: StartWorker, completed: list[object], size: int
) -> None:
    ran: Counter[int] = Counter()

    @dramatiq.actor
    def note(number: int) -> None:
        assert completed == []
        ran[number] += 1

    group = dramatiq.group([note.message(number) for number in range(size)])
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    finish(broker, start_worker(8), "default", "callbacks")

    assert ran == Counter(range(size))
    assert completed == ["done"]


def test_callback_waits_for_retried_members(broker: AnyBroker, worker: Worker, completed: list[object]) -> None:
    attempt = failing(3)

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def flaky() -> None:
        attempt()
        assert completed == []

    group = dramatiq.group([flaky.message() for _ in range(3)])
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert completed == ["done"]


def test_callback_waits_for_the_last_step_of_each_pipeline(
    broker: AnyBroker, worker: Worker, double: Any, completed: list[object]
) -> None:
    pipes = [double.message(number) | double.message() | double.message() for number in range(4)]
    group = dramatiq.group(pipes)
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert completed == ["done"]
    assert list(group.get_results()) == [0, 8, 16, 24]


def test_groups_side_by_side_complete_each_on_its_own(
    broker: AnyBroker, worker: Worker, double: Any, completed: list[object]
) -> None:
    for name in ("one", "two", "three"):
        group = dramatiq.group([double.message(number) for number in range(5)])
        group.add_completion_callback(broker.get_actor("complete").message(name))
        group.run()
    finish(broker, worker, "default", "callbacks")

    assert sorted(map(str, completed)) == ["one", "three", "two"]


def test_callback_may_start_another_group(
    broker: AnyBroker, worker: Worker, double: Any, completed: list[object]
) -> None:
    @dramatiq.actor(queue_name="second")
    def second() -> None:
        group = dramatiq.group([double.message(number) for number in range(3)])
        group.add_completion_callback(broker.get_actor("complete").message("both"))
        group.run()

    group = dramatiq.group([double.message(number) for number in range(3)])
    group.add_completion_callback(second.message())
    group.run()
    finish(broker, worker, "default", "second", "default", "callbacks")

    assert completed == ["both"]
