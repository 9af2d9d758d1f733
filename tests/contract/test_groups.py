"""Groups: actors side by side, and what follows when all of them are done."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.common import current_millis
from dramatiq.middleware import GroupCallbacks
from dramatiq.results import Results

from tests.contract.helpers import AnyBroker, RateLimiterBackend, ResultBackend, StartWorker, failing, finish


@pytest.fixture
def double(broker: AnyBroker) -> Any:
    """An actor whose products are kept as results."""
    broker.add_middleware(Results(backend=ResultBackend()))

    @dramatiq.actor(store_results=True)
    def double(number: int) -> int:
        return 2 * number

    return double


@pytest.fixture
def completed(broker: AnyBroker) -> list[object]:
    """What a group's completion callback was called with."""
    broker.add_middleware(GroupCallbacks(RateLimiterBackend()))
    calls: list[object] = []

    @dramatiq.actor(queue_name="callbacks")
    def complete(text: str) -> None:
        calls.append(text)

    return calls


def test_group_runs_all_of_its_messages(broker: AnyBroker, worker: Worker, double: Any) -> None:
    group = dramatiq.group([double.message(number) for number in range(10)]).run()
    finish(broker, worker)

    assert list(group.get_results()) == [2 * number for number in range(10)]
    assert group.completed
    assert group.completed_count == len(group) == 10


def test_group_is_not_complete_before_it_ran(broker: AnyBroker, start_worker: StartWorker, double: Any) -> None:
    group = dramatiq.group([double.message(number) for number in range(3)]).run()
    assert not group.completed
    finish(broker, start_worker())

    assert group.completed


def test_waiting_for_a_group_returns_when_all_are_done(broker: AnyBroker, worker: Worker, double: Any) -> None:
    group = dramatiq.group([double.message(number) for number in range(5)]).run()
    group.wait(timeout=10_000)

    assert list(group.get_results()) == [0, 2, 4, 6, 8]


def test_groups_and_pipelines_nest(broker: AnyBroker, worker: Worker, double: Any) -> None:
    inner = dramatiq.group([double.message(1), double.message(2)])
    group = dramatiq.group([inner, double.message(3) | double.message(), double.message(4)]).run()
    finish(broker, worker)

    assert list(group.get_results()) == [[2, 4], 12, 8]


def test_delay_of_a_group_holds_back_all_of_its_messages(broker: AnyBroker, worker: Worker) -> None:
    times: list[int] = []

    @dramatiq.actor
    def note() -> None:
        times.append(current_millis())

    started_at = current_millis()
    dramatiq.group([note.message() for _ in range(3)]).run(delay=300)
    finish(broker, worker)

    assert len(times) == 3
    assert min(times) - started_at >= 300


def test_completion_callback_runs_once_when_all_are_done(
    broker: AnyBroker, worker: Worker, completed: list[object]
) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def note(number: int) -> None:
        assert completed == []
        ran.append(number)

    group = dramatiq.group([note.message(number) for number in range(10)])
    group.add_completion_callback(broker.get_actor("complete").message("all done"))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert sorted(ran) == list(range(10))
    assert completed == ["all done"]


def test_group_may_have_several_completion_callbacks(
    broker: AnyBroker, worker: Worker, completed: list[object]
) -> None:
    @dramatiq.actor
    def note() -> None: ...

    group = dramatiq.group([note.message(), note.message()])
    for text in ("one", "two"):
        group.add_completion_callback(broker.get_actor("complete").message(text))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert sorted(map(str, completed)) == ["one", "two"]


def test_group_that_runs_twice_completes_twice(broker: AnyBroker, worker: Worker, completed: list[object]) -> None:
    @dramatiq.actor
    def note() -> None: ...

    group = dramatiq.group([note.message(), note.message()])
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert completed == ["done", "done"]


def test_message_may_be_in_a_group_twice(broker: AnyBroker, worker: Worker, completed: list[object]) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def note() -> None:
        ran.append(1)

    group = dramatiq.group([note.message()] * 3)
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert len(ran) == 3
    assert completed == ["done"]


def test_completion_callback_waits_for_a_retried_message(
    broker: AnyBroker, worker: Worker, completed: list[object]
) -> None:
    attempt = failing(2)
    ran: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def flaky() -> None:
        number = attempt()
        assert completed == []
        ran.append(number)

    @dramatiq.actor
    def steady() -> None: ...

    group = dramatiq.group([flaky.message(), steady.message()])
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert ran == [3]
    assert completed == ["done"]


def test_completion_callback_waits_for_the_end_of_a_pipeline(
    broker: AnyBroker, worker: Worker, completed: list[object]
) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def note(*numbers: int) -> int:
        assert completed == []
        ran.extend(numbers)
        return numbers[0] + 1

    group = dramatiq.group([note.message(1) | note.message() | note.message(), note.message(10)])
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert sorted(ran) == [1, 2, 3, 10]
    assert completed == ["done"]


def test_completion_callback_does_not_run_when_a_message_fails_for_good(
    broker: AnyBroker, worker: Worker, completed: list[object]
) -> None:
    @dramatiq.actor(max_retries=0)
    def note(fail: bool) -> None:
        if fail:
            raise RuntimeError("on purpose")

    group = dramatiq.group([note.message(False), note.message(True)])
    group.add_completion_callback(broker.get_actor("complete").message("done"))
    group.run()
    finish(broker, worker, "default", "callbacks")

    assert completed == []


def test_completion_callback_without_the_middleware_raises(broker: AnyBroker) -> None:
    @dramatiq.actor
    def note() -> None: ...

    group = dramatiq.group([note.message()])
    group.add_completion_callback(note.message())

    with pytest.raises(RuntimeError, match="GroupCallbacks"):
        group.run()
