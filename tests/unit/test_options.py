"""Options are judged where they are declared or sent; whatever arrives all the same is read without an error."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, Middleware
from dramatiq.middleware import AgeLimit, Callbacks, Retries, TimeLimit
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.deliveries import ActorOptions
from dramatiq_jetstream.deliveries.delivery import nak
from dramatiq_jetstream.errors import BatchFailed
from dramatiq_jetstream.options import LONGEST, check_message, milliseconds
from dramatiq_jetstream.wire import DramatiqPayload
from dramatiq_jetstream.wire.checks import check_options

INF, NAN = math.inf, math.nan
HUGE = 10**400


class Broken:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


#: Values that dramatiq's middleware would fail on, or that say nothing sensible.
REFUSED: list[tuple[str, Any]] = [
    *(("max_retries", value) for value in ("3", -1, -0.5, -INF, NAN, [3], timedelta(1), Decimal(3), Broken())),
    *(("min_backoff", value) for value in ("100", None, -1, INF, NAN, HUGE, 1e300, timedelta(1))),
    *(("max_backoff", value) for value in ("100", None, -1, -INF, NAN, HUGE)),
    *(("time_limit", value) for value in ("60000", None, -1, -INF, NAN, HUGE, [60], timedelta(1))),
    *(("max_age", value) for value in ("1h", -1, NAN, HUGE, {1: 2})),
    *(("dead_message_ttl", value) for value in ("7d", -1, NAN, HUGE, 1e300, timedelta(1))),
    *(("throws", value) for value in ("ValueError", ["ValueError"], 5, ValueError(), (ValueError, "x"))),
    *(("retry_when", value) for value in ("always", 5, False)),
    *((name, value) for name in ("on_retry_exhausted", "on_success", "on_failure") for value in (5, ["x"], print)),
]

#: Values that mean what they mean with dramatiq's own brokers.
TAKEN: list[tuple[str, Any]] = [
    *(("max_retries", value) for value in (0, 3, 2.5, True, INF, None, HUGE)),
    *(("min_backoff", value) for value in (0, 1, 0.5, LONGEST)),
    *(("max_backoff", value) for value in (0, 1.5, INF)),
    *(("time_limit", value) for value in (0, 100, 0.5, INF)),
    *(("max_age", value) for value in (None, 0, 1.5, INF)),
    *(("dead_message_ttl", value) for value in (None, 0, 1.5, INF, LONGEST)),
    *(("throws", value) for value in (None, (), ValueError, (ValueError, KeyError), (ValueError, (KeyError,)))),
    *(("retry_when", value) for value in (None, lambda retries, error: True)),
    *((name, value) for name in ("on_retry_exhausted", "on_success", "on_failure") for value in (None, "", "other")),
]

OF_MIDDLEWARE = {"max_retries", "min_backoff", "max_backoff", "retry_when", "time_limit", "max_age"}

#: Anything that an application may have put there after all was judged.
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([HUGE, -HUGE, [], {}, print, Broken(), timedelta(1), Decimal("NaN")])
)


def make_broker(*middleware: Middleware) -> JetStreamBroker:
    return JetStreamBroker(middleware=[Retries(), TimeLimit(), AgeLimit(), Callbacks(), *middleware])


def declare(broker: JetStreamBroker, **options: Any) -> dramatiq.Actor[..., None]:
    @dramatiq.actor(broker=broker, actor_name="run", **options)
    def run() -> None: ...

    return run


def middleware_with(option: str, value: Any) -> Middleware:
    middleware: Any = next(kind() for kind in (Retries, TimeLimit, AgeLimit) if hasattr(kind(), option))
    setattr(middleware, option, value)
    return middleware  # type: ignore[no-any-return]


@pytest.mark.parametrize(("option", "value"), REFUSED)
def test_option_that_cannot_be_followed_is_refused_where_it_is_declared(option: str, value: Any) -> None:
    broker = make_broker()

    with pytest.raises(ValueError, match=f"^actor 'run': {option} must be .*, not ") as raised:
        declare(broker, **{option: value})

    assert len(str(raised.value)) < 300
    assert broker.get_declared_actors() == set()
    declare(broker)


@pytest.mark.parametrize(("option", "value"), TAKEN)
def test_option_that_means_something_to_dramatiq_is_taken(option: str, value: Any) -> None:
    actor = declare(make_broker(), **{option: value})

    assert actor.options == {option: value}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, value in REFUSED if name in OF_MIDDLEWARE])
def test_default_that_cannot_be_followed_is_refused_with_its_middleware(option: str, value: Any) -> None:
    middleware = middleware_with(option, value)

    with pytest.raises(ValueError, match=f"^middleware {type(middleware).__name__}: {option} must be .*, not "):
        make_broker(middleware)
    broker = make_broker()
    with pytest.raises(ValueError, match=f"{option} must be"):
        broker.add_middleware(middleware, before=Retries)
    assert middleware not in broker.middleware


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, value in TAKEN if name in OF_MIDDLEWARE])
def test_default_that_means_something_to_dramatiq_is_taken(option: str, value: Any) -> None:
    middleware = middleware_with(option, value)

    assert make_broker(middleware).middleware[-1] is middleware


@pytest.mark.parametrize("priority", ["high", None, NAN, [1]], ids=repr)
def test_priority_that_cannot_be_ordered_is_refused(priority: Any) -> None:
    with pytest.raises(ValueError, match=r"^actor 'run': priority must be a number, not "):
        declare(make_broker(), priority=priority)


OF_MESSAGES: list[tuple[str, Any]] = [
    *((name, value) for name, value in REFUSED if name != "retry_when" and value is not None),
    *(("retries", value) for value in ("3", 1.5, INF, HUGE)),
    *(("pipe_target", value) for value in ("run", 5, [1])),
    *(("group_completion_callbacks", value) for value in ("run", 5, {"a": 1})),
]


@pytest.mark.parametrize(("option", "value"), OF_MESSAGES)
def test_option_that_cannot_be_followed_is_refused_where_it_is_sent(option: str, value: Any) -> None:
    actor = declare(make_broker())

    with pytest.raises(ValueError, match=f"^a message to actor 'run': {option} must be .*, not "):
        actor.broker.enqueue(actor.message().copy(options={option: value}))


@pytest.mark.parametrize("delay", ["5", NAN, INF, HUGE, 1e300, LONGEST + 1, [], timedelta(1), Decimal(1)], ids=repr)
def test_delay_that_is_none_is_refused(delay: Any) -> None:
    actor = declare(make_broker())

    with pytest.raises(ValueError, match=r"^a message to actor 'run': delay must be a number of milliseconds up to"):
        actor.broker.enqueue(actor.message(), delay=delay)


def test_batch_names_the_message_that_cannot_be_sent() -> None:
    broker = make_broker()
    actor = declare(broker)

    with pytest.raises(BatchFailed, match="time_limit must be") as raised:
        broker.enqueue_many([actor.message_with_options(time_limit="1h")])

    assert len(raised.value.failures) == 1


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("option", "value"), [("time_limit", "1h"), ("delay", "soon"), ("max_retries", -1)])
def test_what_follows_a_message_is_judged_with_it(depth: int, option: str, value: Any) -> None:
    actor = declare(make_broker())
    first, last = actor.message(), actor.message_with_options(**{option: value})
    steps = [actor.message() for _ in range(depth - 1)]

    with pytest.raises(ValueError, match=f"^a message to actor 'run': {option} must be "):
        dramatiq.pipeline([first, *steps, last], broker=actor.broker).run()
    with pytest.raises(ValueError, match=f"^a message to actor 'run': {option} must be "):
        actor.broker.enqueue(first.copy(options={"group_completion_callbacks": [last.asdict()]}))


def test_message_that_follows_itself_is_judged_once() -> None:
    options: dict[str, Any] = {}
    options["pipe_target"] = {"actor_name": "run", "options": options}

    assert check_message("run", options, None) == {}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"max_retries": INF}, {"max_retries": None}),
        ({"max_retries": 10**400}, {"max_retries": None}),
        ({"max_retries": 2.5}, {"max_retries": 3}),
        ({"max_backoff": INF}, {"max_backoff": LONGEST}),
        ({"dead_message_ttl": INF}, {"dead_message_ttl": 0}),
        ({"dead_message_ttl": 1.5}, {"dead_message_ttl": 2}),
        ({"max_retries": None, "time_limit": INF, "min_backoff": 0.5, "max_age": None, "mine": object}, {}),
        ({}, {}),
    ],
    ids=repr,
)
def test_numbers_are_sent_as_every_worker_takes_them(options: dict[str, Any], sent: dict[str, Any]) -> None:
    assert check_message("run", options, None) == sent


@given(st.dictionaries(st.sampled_from([name for name, _ in OF_MESSAGES]), ANYTHING), ANYTHING)
def test_what_may_be_sent_is_decoded_again(options: dict[str, Any], delay: Any) -> None:
    try:
        changed = check_message("run", options, delay)
    except ValueError:
        return
    check_options(options | changed)


@given(ANYTHING, ANYTHING, ANYTHING)
def test_whatever_an_option_is_reading_it_does_not_raise(of_message: Any, of_actor: Any, of_middleware: Any) -> None:
    retries, limiter = Retries(), TimeLimit()
    broker = JetStreamBroker(middleware=[retries, limiter])
    actor = declare(broker)
    # What is changed later is not judged.
    retries.max_retries = limiter.time_limit = of_middleware
    names = ("max_retries", "time_limit", "dead_message_ttl")
    actor.options.update(dict.fromkeys(names, of_actor))
    options = ActorOptions(broker)

    for message in (actor.message(), actor.message_with_options(**dict.fromkeys(names, of_message))):
        limits = options.max_retries(message), options.max_deliver("default"), options.dead_message_ttl(message)
        assert all(limit is None or (type(limit) is int and 0 <= limit < 2**63) for limit in limits)
        assert options.max_deliver("default") >= 1
        for seconds in (options.time_limit(message), options.lease_limit(message)):
            assert seconds is None or math.isfinite(seconds)


@pytest.mark.parametrize("value", [INF, HUGE, "3"], ids=repr)
def test_retries_without_limit_make_a_consumer_that_the_server_takes(value: Any) -> None:
    broker = make_broker()
    declare(broker).options["max_retries"] = value

    assert ActorOptions(broker).max_deliver("default") == 21


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((0, 0), (1500.0, 1500), (0.5, 1), (-5, 0), (-INF, 0), (INF, LONGEST), (HUGE, LONGEST), (True, 1)),
        *((timedelta(seconds=1.5), 1500), (NAN, None), ("5", None), (None, None), ([], None)),
    ],
)
def test_time_is_read_as_whole_milliseconds(value: Any, expected: int | None) -> None:
    assert milliseconds(value) == expected


@pytest.mark.parametrize("delay", [1500, 1500.0])
def test_server_is_asked_for_whole_nanoseconds(delay: float) -> None:
    assert nak(delay) == b'-NAK {"delay": 1500000000}'


def test_message_with_plainer_options_is_what_enqueue_returns_and_sends() -> None:
    message = Message[Any]("default", "run", (), {}, {"max_retries": INF, "mine": 1})

    changed = message.copy(options=check_message("run", message.options, None))

    body, _ = DramatiqPayload("default").encode(changed)
    assert b"Infinity" not in body
    assert changed.options == {"max_retries": None, "mine": 1}
