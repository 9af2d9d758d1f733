"""The Results middleware over dramatiq's own backend."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import MessageProxy, Middleware, Worker
from dramatiq.middleware import SkipMessage
from dramatiq.results import ResultFailure, ResultMissing, Results

from tests.contract.helpers import AnyBroker, ResultBackend, failing, finish


@pytest.fixture(autouse=True)
def backend(broker: AnyBroker) -> ResultBackend:
    backend = ResultBackend()
    broker.add_middleware(Results(backend=backend))
    return backend


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
