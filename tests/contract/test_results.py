"""Results: what an actor returned, or why it returned nothing."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import Message, MessageProxy, Middleware, PickleEncoder, Worker
from dramatiq.middleware import SkipMessage
from dramatiq.results import ResultBackend, ResultFailure, ResultMissing, Results, ResultTimeout

from tests.contract.backends import make_result_backend
from tests.contract.helpers import AnyBroker, StartWorker, failing, finish
from tests.support.waiting import eventually
from tests.support.workers import in_background

TTL = 60_000


@pytest.fixture(autouse=True)
def backend(broker: AnyBroker, results: ResultBackend) -> ResultBackend:
    broker.add_middleware(Results(backend=results))
    return results


def message(actor_name: str = "answer", queue_name: str = "default") -> Message[Any]:
    return Message(queue_name=queue_name, actor_name=actor_name, args=(), kwargs={}, options={})


def test_result_can_be_waited_for(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor(store_results=True)
    def answer() -> int:
        return 42

    assert answer.send().get_result(block=True, timeout=10_000) == 42


def test_result_of_a_delayed_message_is_found_by_what_send_returned(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor(store_results=True)
    def answer() -> int:
        return 42

    sent = answer.send_with_options(delay=50)
    if sent.queue_name != "default":
        # The StubBroker returns the copy that waits in its delay queue.
        sent = sent.copy(queue_name="default")

    assert sent.get_result(block=True, timeout=10_000) == 42


def test_result_that_is_not_stored_is_missing(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor
    def answer() -> int:
        return 42

    sent = answer.send()
    finish(broker, worker)

    with pytest.raises(ResultMissing):
        sent.get_result()


def test_exception_is_stored_when_the_message_has_failed_for_good(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor(store_results=True, max_retries=1, min_backoff=1, max_backoff=1)
    def fail() -> None:
        raise RuntimeError("on purpose")

    sent = fail.send()
    finish(broker, worker)

    with pytest.raises(ResultFailure) as raised:
        sent.get_result()
    assert raised.value.orig_exc_type == "RuntimeError"
    assert raised.value.orig_exc_msg == "on purpose"


def test_result_of_the_attempt_that_succeeds_is_stored(broker: AnyBroker, worker: Worker) -> None:
    attempt = failing(2)

    @dramatiq.actor(store_results=True, min_backoff=1, max_backoff=1)
    def flaky() -> int:
        return attempt()

    assert flaky.send().get_result(block=True, timeout=10_000) == 3


@pytest.mark.parametrize("fail", [False, True])
def test_skipped_message_stores_none_or_the_reason_it_was_rejected_for(
    broker: AnyBroker, worker: Worker, fail: bool
) -> None:
    class Skip(Middleware):
        def before_process_message(self, broker: Any, message: MessageProxy) -> None:
            if fail:
                message.fail()
            raise SkipMessage("skipped on purpose")

    broker.add_middleware(Skip())

    @dramatiq.actor(store_results=True)
    def note() -> int:
        return 1

    sent = note.send()
    finish(broker, worker)

    if fail:
        with pytest.raises(ResultFailure, match="skipped on purpose"):
            sent.get_result()
    else:
        assert sent.get_result() is None


def test_result_stored_before_the_wait_began_is_found(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor(store_results=True)
    def answer() -> int:
        return 42

    sent = answer.send()
    finish(broker, worker)

    assert sent.get_result(block=True, timeout=1_000) == 42
    assert sent.get_result() == 42


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, {"__t": "something else"}, "text", 1.5, [1, [2]]])
def test_any_value_that_the_encoder_takes_comes_back(backend: ResultBackend, value: object) -> None:
    sent = message()
    backend.store_result(sent, value, TTL)

    assert backend.get_result(sent) == value
    assert backend.get_result(sent, block=True, timeout=1_000) == value


def test_none_is_a_result_and_not_a_missing_one(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor(store_results=True)
    def nothing() -> None: ...

    assert nothing.send().get_result(block=True, timeout=10_000) is None


@pytest.mark.parametrize("timeout", [0, 1, 150, 300])
def test_waiting_for_a_result_that_never_comes_times_out(backend: ResultBackend, timeout: int) -> None:
    with pytest.raises(ResultTimeout):
        backend.get_result(message(), block=True, timeout=timeout)


def test_result_that_comes_while_it_is_waited_for_is_returned(backend: ResultBackend) -> None:
    sent = message()
    waiting = in_background(lambda: backend.get_result(sent, block=True, timeout=10_000))
    backend.store_result(sent, "late", TTL)

    assert waiting.result(10) == "late"


def test_many_may_wait_for_one_result(backend: ResultBackend) -> None:
    sent = message()
    waiting = [in_background(lambda: backend.get_result(sent, block=True, timeout=10_000)) for _ in range(5)]
    backend.store_result(sent, "late", TTL)

    assert [each.result(10) for each in waiting] == ["late"] * 5


def test_exception_that_comes_while_it_is_waited_for_is_raised(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor(store_results=True, max_retries=0)
    def fail() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ResultFailure, match="ValueError: on purpose"):
        fail.send().get_result(block=True, timeout=10_000)


def test_later_result_of_a_message_replaces_the_earlier(backend: ResultBackend) -> None:
    sent = message()
    backend.store_exception(sent, RuntimeError("at first"), TTL)
    backend.store_result(sent, "at last", TTL)

    assert backend.get_result(sent) == "at last"


def test_result_is_gone_when_its_time_is_over(backend: ResultBackend) -> None:
    sent = message()
    backend.store_result(sent, 1, 1_000)
    assert backend.get_result(sent) == 1

    _await_gone(backend, sent)


def test_actor_and_message_choose_how_long_a_result_is_kept(broker: AnyBroker, start_worker: StartWorker) -> None:
    @dramatiq.actor(store_results=True, result_ttl=1_000)
    def brief() -> int:
        return 1

    short, long = brief.send(), brief.send_with_options(result_ttl=TTL)
    finish(broker, start_worker())
    backend = broker.get_results_backend()

    _await_gone(backend, short)
    assert long.get_result() == 1


def test_results_of_other_namespaces_queues_and_actors_are_apart(broker: AnyBroker) -> None:
    one, two = make_result_backend(broker, namespace="one"), make_result_backend(broker, namespace="two")
    sent = message()
    variants = [sent, sent.copy(queue_name="other"), sent.copy(actor_name="other")]
    for number, variant in enumerate(variants):
        one.store_result(variant, number, TTL)

    assert [one.get_result(variant) for variant in variants] == [0, 1, 2]
    for variant in variants:
        with pytest.raises(ResultMissing):
            two.get_result(variant)


def test_keys_that_begin_with_the_namespace_may_hold_any_character(broker: AnyBroker) -> None:
    backend = make_result_backend(broker, namespace="name:space *>.é", use_namespace_prefix_keys=True)
    awkward = [message("a:b"), message("a.b"), message("*"), message(">"), message("a b"), message("ü" * 200)]
    for number, sent in enumerate(awkward):
        backend.store_result(sent, number, TTL)

    assert [backend.get_result(sent) for sent in awkward] == [0, 1, 2, 3, 4, 5]
    assert [backend.get_result(sent, block=True, timeout=1_000) for sent in awkward] == [0, 1, 2, 3, 4, 5]


def test_encoder_of_ones_own_keeps_what_json_cannot_express(broker: AnyBroker) -> None:
    backend = make_result_backend(broker, encoder=PickleEncoder())
    sent = message()
    backend.store_result(sent, {"a": {1, 2}, "b": (3,)}, TTL)

    assert backend.get_result(sent) == {"a": {1, 2}, "b": (3,)}
    assert backend.get_result(sent, block=True, timeout=1_000) == {"a": {1, 2}, "b": (3,)}


def test_result_that_cannot_be_encoded_leaves_the_worker_alive(
    broker: AnyBroker, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor(store_results=True)
    def answer(value: int) -> object:
        return object() if value == 0 else value

    bad, good = answer.send(0), answer.send(1)

    assert good.get_result(block=True, timeout=10_000) == 1
    finish(broker, worker)
    with pytest.raises(ResultMissing):
        bad.get_result()


def _await_gone(backend: ResultBackend, sent: Message[Any]) -> None:
    def gone() -> bool:
        try:
            backend.get_result(sent)
        except ResultMissing:
            return True
        return False

    eventually(gone, message="the end of the result")
