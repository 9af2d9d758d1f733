"""Answers that may change soon are waited out; what never becomes certain is said to be uncertain."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.client.publisher import Publisher
from dramatiq_jetstream.errors import BatchFailed, BatchUnconfirmed, CallTimeout, EnqueueRejected
from tests.support.admin import Admin

IN_PROCESS = {"code": 409, "err_code": 10158, "description": "duplicate message id is in process"}
UNAVAILABLE = {"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"}
CLOSED = {"code": 503, "err_code": 10077, "description": "store is closed"}
FULL = {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="keep", args=(), kwargs={}, options={})


class Answers:
    """Puts other answers in the place of the server's first ones.

    Parameters:
      errors(list): What is answered, one after the other; the last one for ever if so wanted.
    """

    def __init__(self, errors: list[dict[str, Any]], *, for_ever: bool = False) -> None:
        self.given = 0
        self._errors = errors
        self._for_ever = for_ever
        self._original = Publisher.on_reply

    def on_reply(self, publisher: Publisher, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        if self.given < len(self._errors) or self._for_ever:
            error = self._errors[min(self.given, len(self._errors) - 1)]
            self.given += 1
            body, headers = json.dumps({"error": error}).encode(), b""
        self._original(publisher, subject, reply, headers, body)


@pytest.fixture
def impatient(nats_url: str, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    with closing(JetStreamBroker(nats_url, namespace=namespace, timeout=1_500)) as broker:
        broker.enqueue(message())
        yield broker


def replace_answers(
    monkeypatch: pytest.MonkeyPatch, errors: list[dict[str, Any]], *, for_ever: bool = False
) -> Answers:
    answers = Answers(errors, for_ever=for_ever)
    monkeypatch.setattr(Publisher, "on_reply", lambda *args: answers.on_reply(*args))
    return answers


def enqueue(broker: JetStreamBroker, kind: str) -> None:
    if kind == "one":
        broker.enqueue(message())
    else:
        broker.enqueue_many([message()], atomic=kind == "atomic batch")


@pytest.fixture
def reconnected(impatient: JetStreamBroker) -> JetStreamBroker:
    """A broker whose inbox receives through what a test put in the publisher's place."""
    impatient.connection.close()
    return impatient


KINDS = ["one", "batch", "atomic batch"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [IN_PROCESS, UNAVAILABLE, CLOSED], ids=["10158", "10008", "10077"])
def test_passing_answer_is_waited_out(
    reconnected: JetStreamBroker, admin: Admin, monkeypatch: pytest.MonkeyPatch, kind: str, error: dict[str, Any]
) -> None:
    answers = replace_answers(monkeypatch, [error, error])

    enqueue(reconnected, kind)

    assert answers.given == 2
    assert admin.count(reconnected.names.stream("default")) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [IN_PROCESS, UNAVAILABLE], ids=["10158", "10008"])
def test_answer_that_never_passes_ends_as_unconfirmed(
    reconnected: JetStreamBroker, monkeypatch: pytest.MonkeyPatch, kind: str, error: dict[str, Any]
) -> None:
    answers = replace_answers(monkeypatch, [error], for_ever=True)

    with pytest.raises(CallTimeout if kind == "one" else BatchUnconfirmed) as caught:
        enqueue(reconnected, kind)

    assert answers.given > 2
    assert "may or may not be stored" in str(caught.value)
    assert error["description"] in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_refusal_of_a_repeated_message_is_not_certain(
    reconnected: JetStreamBroker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # The first copy may have taken the last place.
    replace_answers(monkeypatch, [UNAVAILABLE, FULL])

    with pytest.raises(CallTimeout if kind == "one" else BatchUnconfirmed, match="may or may not be stored"):
        enqueue(reconnected, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_refusal_at_once_is_certain(reconnected: JetStreamBroker, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    replace_answers(monkeypatch, [FULL])

    with pytest.raises(EnqueueRejected if kind == "one" else BatchFailed) as caught:
        enqueue(reconnected, kind)

    assert not isinstance(caught.value, BatchUnconfirmed)


def test_request_is_asked_again_while_its_answer_may_pass(
    impatient: JetStreamBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = impatient.connection.session()
    original, asked = session.request, threading.Semaphore(2)

    async def request(*args: Any, **options: Any) -> Any:
        answer = await original(*args, **options)
        if asked.acquire(blocking=False):
            answer.data = json.dumps({"error": UNAVAILABLE}).encode()
        return answer

    monkeypatch.setattr(session, "request", request)

    assert impatient.get_queue_message_counts("default") == (1, 0, 0)
