from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import Message, Middleware
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries, TimeLimit

from dramatiq_jetstream.deliveries.actor_options import DEFAULT_MAX_RETRIES, ActorOptions
from dramatiq_jetstream.names import Names
from dramatiq_jetstream.settings import WorkQueue
from dramatiq_jetstream.streams import Route
from dramatiq_jetstream.wire import DramatiqPayload, JsonPayload

QUEUE = "images"


def never(retries: int, error: BaseException) -> bool:
    return False


def policy(*actors: dict[str, Any], middleware: list[Middleware] | None = None) -> ActorOptions:
    """The policy of a broker whose actors a0, a1, … have these options."""
    broker = StubBroker(middleware=[Retries()] if middleware is None else middleware)
    for number, options in enumerate(actors):
        dramatiq.actor(broker=broker, actor_name=f"a{number}", **{"queue_name": QUEUE} | options)(lambda: None)
    return ActorOptions(broker)


def message(actor_name: str = "a0", **options: Any) -> Message[Any]:
    return Message(queue_name=QUEUE, actor_name=actor_name, args=(), kwargs={}, options=options)


@pytest.mark.parametrize(
    ("actors", "deliveries"),
    [
        ([], 21),
        ([{}], 21),
        ([{"max_retries": 0}], 1),
        ([{"max_retries": 3}], 4),
        ([{"max_retries": 3}, {"max_retries": 5}, {"max_retries": 0}], 6),
        ([{"max_retries": 3}, {}], 21),
        ([{"max_retries": 50}, {}], 51),
        ([{"max_retries": None}], 21),
        ([{"max_retries": None}, {"max_retries": 3}], 21),
        ([{"max_retries": None}, {"max_retries": 50}], 51),
        ([{"retry_when": never}], 21),
        ([{"retry_when": never, "max_retries": 3}], 4),
        ([{"max_retries": 3}, {"max_retries": 50, "queue_name": "other"}], 4),
        ([{"max_retries": 50, "queue_name": "other"}], 21),
    ],
)
def test_message_is_delivered_once_more_than_the_most_patient_actor_of_its_queue_retries(
    actors: list[dict[str, Any]], deliveries: int
) -> None:
    assert policy(*actors).max_deliver(QUEUE) == deliveries


@pytest.mark.parametrize(
    ("default", "actors", "deliveries"),
    [
        (5, [], 6),
        (5, [{}], 6),
        (5, [{"max_retries": 2}], 3),
        (5, [{"max_retries": 2}, {}], 6),
        (0, [{}], 1),
        (None, [], 21),
        (None, [{}], 21),
        (None, [{"max_retries": 2}], 3),
    ],
)
def test_default_of_the_retries_middleware_counts(default: Any, actors: list[dict[str, Any]], deliveries: int) -> None:
    assert policy(*actors, middleware=[Retries(max_retries=default)]).max_deliver(QUEUE) == deliveries


@pytest.mark.parametrize("actors", [[], [{}]])
def test_without_the_retries_middleware_crashes_are_still_limited(actors: list[dict[str, Any]]) -> None:
    assert policy(*actors, middleware=[]).max_deliver(QUEUE) == DEFAULT_MAX_RETRIES + 1


def test_retries_are_limited_by_message_then_actor_then_middleware() -> None:
    mine = policy({"max_retries": 3}, {}, middleware=[Retries(max_retries=7)])

    assert mine.max_retries(message("a0", max_retries=9)) == 9
    assert mine.max_retries(message("a0")) == 3
    assert mine.max_retries(message("a1")) == 7
    assert mine.max_retries(message("unknown")) == 7


def test_retries_without_limit_are_no_number() -> None:
    assert policy({"max_retries": 3}).max_retries(message(max_retries=None)) is None
    assert policy({"max_retries": None}).max_retries(message()) is None
    assert policy({}, middleware=[]).max_retries(message()) is None


def test_retries_that_depend_on_the_exception_are_no_number() -> None:
    assert policy({"retry_when": never}).max_retries(message()) is None
    assert policy({}, middleware=[Retries(retry_when=never)]).max_retries(message()) is None


def test_a_message_cannot_bring_a_retry_when_of_its_own() -> None:
    assert policy({"max_retries": 3}).max_retries(message(retry_when=True)) == 3


def test_subclass_of_the_middleware_counts_as_the_middleware() -> None:
    class Fewer(Retries):
        def __init__(self) -> None:
            super().__init__(max_retries=2)

    assert policy({}, middleware=[Fewer()]).max_deliver(QUEUE) == 3


def test_time_limit_is_read_where_dramatiq_reads_it() -> None:
    mine = policy({"time_limit": 5_000}, {}, middleware=[TimeLimit(time_limit=60_000)])

    assert mine.time_limit(message("a0", time_limit=1_000)) == 1_000
    assert mine.time_limit(message("a0")) == 5_000
    assert mine.time_limit(message("a0", time_limit=0)) == 5_000
    assert mine.time_limit(message("a0", time_limit=None)) == 5_000
    assert mine.time_limit(message("a1")) == 60_000


@pytest.mark.parametrize("middleware", [[], [TimeLimit(time_limit=float("inf"))]], ids=["absent", "infinite"])
def test_there_may_be_no_time_limit(middleware: list[Middleware]) -> None:
    assert policy({}, middleware=middleware).time_limit(message()) is None


def test_other_options_are_the_messages_then_the_actors() -> None:
    mine = policy({"priority": 3, "max_retries": 1})

    assert mine.option(message(max_retries=2), "max_retries") == 2
    assert mine.option(message(), "max_retries") == 1
    assert mine.option(message(), "dead_message_ttl", 5) == 5
    assert mine.option(message("unknown"), "max_retries", 7) == 7


def test_declared_actors_are_known() -> None:
    assert policy({}).knows("a0")
    assert not policy({}).knows("a1")


BOUND = WorkQueue(stream="IMAGES", subject="IMAGES.bw", consumer="BW")


def test_our_own_queues_are_written_in_dramatiqs_format() -> None:
    assert isinstance(policy().payload(Route(QUEUE, WorkQueue(), Names())), DramatiqPayload)


def test_bound_queues_are_written_as_plain_json_for_the_only_actor() -> None:
    payload = policy({}, {"queue_name": "other"}).payload(Route(QUEUE, BOUND, Names()))

    assert isinstance(payload, JsonPayload)
    assert payload.actor_name() == "a0"


def test_actor_is_looked_for_when_it_is_needed() -> None:
    mine = policy()
    payload = mine.payload(Route(QUEUE, BOUND, Names()))
    assert isinstance(payload, JsonPayload)
    assert payload.actor_name() is None

    dramatiq.actor(broker=mine._broker, actor_name="late", queue_name=QUEUE)(lambda: None)

    assert payload.actor_name() == "late"


@pytest.mark.parametrize("actors", [[], [{}, {}]])
def test_queue_without_exactly_one_actor_has_no_default(actors: list[dict[str, Any]]) -> None:
    payload = policy(*actors).payload(Route(QUEUE, BOUND, Names()))

    assert isinstance(payload, JsonPayload)
    assert payload.actor_name() is None


def test_default_actor_may_be_named() -> None:
    named = WorkQueue(stream="IMAGES", subject="IMAGES.bw", consumer="BW", actor="a1")
    payload = policy({}, {}).payload(Route(QUEUE, named, Names()))

    assert isinstance(payload, JsonPayload)
    assert payload.actor_name() == "a1"
