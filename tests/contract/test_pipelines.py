"""Pipelines: what one actor returns goes to the next."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.common import current_millis
from dramatiq.results import Results

from tests.contract.helpers import AnyBroker, ResultBackend, dead_letter_count, failing, finish


@pytest.fixture
def add(broker: AnyBroker) -> Any:
    """An actor whose sums are kept as results."""
    broker.add_middleware(Results(backend=ResultBackend()))

    @dramatiq.actor(store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    return add


def test_result_of_each_step_goes_to_the_next(broker: AnyBroker, worker: Worker, add: Any) -> None:
    pipe = (add.message(1, 2) | add.message(3) | add.message(4)).run()
    finish(broker, worker)

    assert pipe.get_result() == 10
    assert list(pipe.get_results()) == [3, 6, 10]
    assert pipe.completed
    assert pipe.completed_count == len(pipe) == 3


def test_pipelines_can_be_joined(broker: AnyBroker, worker: Worker, add: Any) -> None:
    front = add.message(1, 2) | add.message(3)
    pipe = dramatiq.pipeline([front, add.message(4) | add.message(5)]).run()
    finish(broker, worker)

    assert pipe.get_result() == 15


def test_pipeline_that_runs_twice_runs_all_its_steps_twice(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def step(name: str, *results: object) -> None:
        ran.append(name)

    pipe = step.message("first") | step.message("second")
    pipe.run()
    pipe.run()
    finish(broker, worker)

    assert sorted(ran) == ["first", "first", "second", "second"]


def test_blocking_result_of_a_pipeline_comes_when_its_last_step_is_done(
    broker: AnyBroker, worker: Worker, add: Any
) -> None:
    pipe = (add.message(1, 2) | add.message(3)).run()

    assert pipe.get_result(block=True, timeout=10_000) == 6


def test_step_may_ignore_the_result_before_it(broker: AnyBroker, worker: Worker, add: Any) -> None:
    pipe = (add.message(1, 2) | add.message_with_options(args=(3, 4), pipe_ignore=True) | add.message(5)).run()
    finish(broker, worker)

    assert list(pipe.get_results()) == [3, 7, 12]


def test_actor_may_have_its_result_ignored_by_the_step_after_it(broker: AnyBroker, worker: Worker) -> None:
    ran: list[tuple[object, ...]] = []

    @dramatiq.actor(pipe_ignore=True)
    def first() -> int:
        return 1

    @dramatiq.actor
    def second(*args: object) -> None:
        ran.append(args)

    (first.message() | second.message("own")).run()
    finish(broker, worker)

    assert ran == [("own",)]


def test_pipe_target_option_names_the_next_message(broker: AnyBroker, worker: Worker) -> None:
    ran: list[tuple[object, ...]] = []

    @dramatiq.actor
    def first() -> int:
        return 1

    @dramatiq.actor
    def second(*args: object) -> None:
        ran.append(args)

    first.send_with_options(pipe_target=second.message("own").asdict())
    finish(broker, worker)

    assert ran == [("own", 1)]


def test_pipeline_may_cross_queues(broker: AnyBroker, worker: Worker) -> None:
    ran: list[list[str]] = []

    @dramatiq.actor(queue_name="first")
    def one() -> list[str]:
        return ["one"]

    @dramatiq.actor(queue_name="second")
    def two(*so_far: list[str]) -> list[str]:
        return [*so_far[0], "two"]

    @dramatiq.actor(queue_name="third")
    def three(*so_far: list[str]) -> None:
        ran.append([*so_far[0], "three"])

    (one.message() | two.message() | three.message()).run()
    finish(broker, worker, "first", "second", "third")

    assert ran == [["one", "two", "three"]]


def test_delay_of_a_pipeline_holds_back_its_first_step(broker: AnyBroker, worker: Worker) -> None:
    times: list[int] = []

    @dramatiq.actor
    def step(*args: object) -> None:
        times.append(current_millis())

    started_at = current_millis()
    (step.message() | step.message()).run(delay=300)
    finish(broker, worker)

    assert len(times) == 2
    assert times[0] - started_at >= 300


def test_delay_of_a_step_holds_back_that_step(broker: AnyBroker, worker: Worker) -> None:
    times: list[int] = []

    @dramatiq.actor
    def step(*args: object) -> None:
        times.append(current_millis())

    (step.message() | step.message_with_options(delay=300) | step.message()).run()
    finish(broker, worker)

    assert len(times) == 3
    assert times[1] - times[0] >= 300


def test_longer_one_of_two_delays_of_the_first_step_counts(broker: AnyBroker, worker: Worker) -> None:
    times: list[int] = []

    @dramatiq.actor
    def step(*args: object) -> None:
        times.append(current_millis())

    started_at = current_millis()
    (step.message_with_options(delay=300) | step.message()).run(delay=1)
    finish(broker, worker)

    assert times[0] - started_at >= 300


def test_pipeline_ends_at_a_step_that_fails_for_good(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        ran.append("fail")
        raise RuntimeError("on purpose")

    @dramatiq.actor
    def after(*results: object) -> None:
        ran.append("after")

    (fail.message() | after.message()).run()
    finish(broker, worker)

    assert ran == ["fail"]
    assert dead_letter_count(broker) == 1


def test_pipeline_goes_on_when_a_retried_step_succeeds(broker: AnyBroker, worker: Worker) -> None:
    attempt = failing(2)
    ran: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def flaky() -> int:
        return attempt()

    @dramatiq.actor
    def after(*results: int) -> None:
        ran.extend(results)

    (flaky.message() | after.message()).run()
    finish(broker, worker)

    assert ran == [3]
