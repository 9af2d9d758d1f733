"""The walkthrough's protocol, from the other side: nothing here but core NATS requests, against our worker's queue."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import CurrentMessage
from nats.aio.msg import Msg

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.errors import DelayNotSupported, MessageTooLarge, UnsupportedMessage
from dramatiq_jetstream.worker import keeping
from tests.support.admin import Admin
from tests.support.images import BLACK_AND_WHITE, make_images
from tests.support.waiting import eventually
from tests.support.workers import run_worker, threads_alive

SUBJECT = "IMAGES.blackandwhite"
NEXT = "$JS.API.CONSUMER.MSG.NEXT.IMAGES.BW"
EXCEEDED = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.IMAGES.BW"

#: A worker process that a message kills.
CRASH = """
import os
import sys
import threading

import dramatiq
from dramatiq_jetstream import JetStreamBroker
from tests.support.images import BLACK_AND_WHITE
from tests.support.workers import run_worker

broker = JetStreamBroker(sys.argv[1], namespace=sys.argv[2], queues={"blackandwhite": BLACK_AND_WHITE})

@dramatiq.actor(broker=broker, queue_name="blackandwhite")
def convert(id, image, advisory=None):
    print(id, flush=True)
    if id == "deadly":
        os._exit(1)

with run_worker(broker, threads=1):
    threading.Event().wait()
"""


@pytest.fixture
def images(admin: Admin) -> Admin:
    """A server on which the walkthrough's commands were run."""
    make_images(admin)
    return admin


@pytest.fixture
def broker(nats_url: str, namespace: str, images: Admin) -> Iterator[JetStreamBroker]:
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"blackandwhite": BLACK_AND_WHITE})
    broker.add_middleware(CurrentMessage())
    yield broker
    broker.close()


def declare(broker: JetStreamBroker) -> list[tuple[str, str, str | None]]:
    converted: list[tuple[str, str, str | None]] = []

    @dramatiq.actor(broker=broker, queue_name="blackandwhite", min_backoff=10, max_backoff=50)
    def convert(id: str, image: str, advisory: str | None = None) -> None:
        if image == "file:///broken":
            raise OSError("cannot read the image")
        converted.append((id, image, advisory))

    return converted


def request(id: str, image: str = "file:///a.jpg", **more: str) -> bytes:
    return json.dumps({"id": id, "image": image, **more}).encode()


def exceeded(advisories: SimpleQueue[Msg]) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(advisories.get(timeout=30).data)
    return fields


def test_request_is_answered_by_the_stream_and_done_by_our_worker(broker: JetStreamBroker, images: Admin) -> None:
    converted = declare(broker)

    answer = images.store(SUBJECT, request("1", advisory="advisory.1"))
    assert (answer["stream"], answer["seq"]) == ("IMAGES", 1)
    with run_worker(broker):
        eventually(lambda: converted == [("1", "file:///a.jpg", "advisory.1")])
        eventually(lambda: images.count("IMAGES") == 0)


def test_what_python_sends_is_taken_and_acknowledged_by_a_plain_client(broker: JetStreamBroker, images: Admin) -> None:
    declare(broker)
    convert = broker.get_actor("convert")
    convert.send(id="1", image="file:///ä.jpg")
    convert.send("2", "file:///b.jpg", advisory="advisory.2")

    first = images.pull(NEXT)
    assert json.loads(first.data) == {"id": "1", "image": "file:///ä.jpg"}
    assert set(first.headers or {}) == {"Nats-Msg-Id"}
    second = images.pull(NEXT)
    assert json.loads(second.data) == {"id": "2", "image": "file:///b.jpg", "advisory": "advisory.2"}
    for message in (first, second):
        images.publish(message.reply, b"")

    eventually(lambda: images.count("IMAGES") == 0)


def test_our_worker_and_a_plain_client_share_the_queue(broker: JetStreamBroker, images: Admin) -> None:
    converted = declare(broker)
    for number in range(20):
        images.store(SUBJECT, request(str(number)))

    theirs = images.pull(NEXT)
    with run_worker(broker):
        eventually(lambda: len(converted) == 19)
    images.publish(theirs.reply, b"")

    done = [id for id, _, _ in converted] + [json.loads(theirs.data)["id"]]
    assert sorted(done, key=int) == [str(number) for number in range(20)]
    eventually(lambda: images.count("IMAGES") == 0)


def test_message_from_outside_has_an_id_that_stays(broker: JetStreamBroker, images: Admin) -> None:
    ids: list[str] = []

    @dramatiq.actor(broker=broker, queue_name="blackandwhite", min_backoff=10, max_backoff=50)
    def convert(id: str, image: str) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        ids.append(message.message_id)
        if len(ids) < 3:
            raise ValueError("not yet")

    images.store(SUBJECT, request("1"))
    with run_worker(broker):
        eventually(lambda: images.count("IMAGES") == 0)

    assert ids == ["IMAGES-1"] * 3


def test_message_from_python_keeps_its_id_and_options(broker: JetStreamBroker) -> None:
    seen: list[tuple[str, Any]] = []

    @dramatiq.actor(broker=broker, queue_name="blackandwhite")
    def convert(id: str) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append((message.message_id, message.options.get("max_age")))

    sent = convert.send_with_options(kwargs={"id": "1"}, max_age=60_000)
    with run_worker(broker):
        eventually(lambda: seen == [(sent.message_id, 60_000)])


FAILING = {
    "an exception": request("1", "file:///broken"),
    "an empty object": b"{}",
    "invalid JSON": b'{"id": ',
    "another type of JSON": b"[1]",
    "nothing": b"",
    "not UTF-8": b"\xff\xfe",
    "unknown keys": b'{"id": "1", "image": "file:///a.jpg", "colour": "red"}',
    "deep nesting": b'{"id":' + b"[" * 240 + b"]" * 240 + b"}",
}


def test_what_fails_is_delivered_five_times_and_stays_for_inspection(
    broker: JetStreamBroker, images: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Like the actor's own, lower than the usual one, only for the test not to wait that long.
    monkeypatch.setattr(keeping, "MIN_BACKOFF", 10)
    monkeypatch.setattr(keeping, "MAX_BACKOFF", 50)
    converted = declare(broker)
    advisories = images.subscribe(EXCEEDED)
    failing = {images.store(SUBJECT, body)["seq"]: body for body in FAILING.values()}

    with run_worker(broker, threads=8) as worker:
        images.store(SUBJECT, request("neighbour"))
        told = [exceeded(advisories) for _ in failing]
        images.store(SUBJECT, request("later neighbour"))
        eventually(lambda: [id for id, _, _ in converted] == ["neighbour", "later neighbour"])
        eventually(lambda: images.count("IMAGES") == len(failing))
        assert threads_alive(worker)

    assert {each["stream_seq"] for each in told} == set(failing)
    assert [each["deliveries"] for each in told] == [5] * len(failing)
    assert {each.sequence: each.body for each in images.stored("IMAGES")} == failing
    assert advisories.empty()


def test_exception_that_an_actor_throws_is_logged_at_info_and_its_dead_letter_once(
    broker: JetStreamBroker, images: Admin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "MIN_BACKOFF", 10)
    monkeypatch.setattr(keeping, "MAX_BACKOFF", 50)
    caplog.set_level(logging.INFO)

    @dramatiq.actor(broker=broker, queue_name="blackandwhite", throws=LookupError)
    def convert(id: str) -> None:
        raise LookupError(id)

    advisories = images.subscribe(EXCEEDED)
    images.store(SUBJECT, b'{"id": "1"}')
    with run_worker(broker):
        exceeded(advisories)
        eventually(lambda: len(list(broker.dead_letters.list("blackandwhite"))) == 1)

    said = [record for record in caplog.records if "IMAGES:1" in record.getMessage()]
    assert {record.levelname for record in said} == {"INFO"}
    assert sum("is a dead letter" in record.getMessage() for record in said) == 1


def test_message_that_kills_its_worker_is_delivered_five_times_and_stays(
    nats_url: str, namespace: str, images: Admin
) -> None:
    # Lower than the walkthrough's 30 s, only for the test not to wait that long five times.
    config = images.consumer("IMAGES", "BW")["config"] | {"ack_wait": 1_000_000_000}
    images.api("CONSUMER.DURABLE.CREATE.IMAGES.BW", {"stream_name": "IMAGES", "config": config})
    advisories = images.subscribe(EXCEEDED)
    deadly = images.store(SUBJECT, request("deadly"))["seq"]
    command = [sys.executable, "-c", CRASH, nats_url, namespace]

    ran: Counter[str] = Counter()
    for number in range(5):
        images.store(SUBJECT, request(f"neighbour {number}"))
        outcome = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
        assert outcome.returncode == 1
        ran.update(outcome.stdout.splitlines())
    survivor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told = exceeded(advisories)
    images.store(SUBJECT, request("last neighbour"))
    eventually(lambda: images.count("IMAGES") == 1)
    survivor.terminate()
    ran.update(survivor.communicate(timeout=10)[0].splitlines())

    assert (told["stream_seq"], told["deliveries"]) == (deadly, 5)
    assert ran.pop("deadly") == 5
    assert set(ran) == {*(f"neighbour {number}" for number in range(5)), "last neighbour"}
    assert [each.sequence for each in images.stored("IMAGES")] == [deadly]


def test_message_over_512_bytes_is_refused_with_the_sizes(broker: JetStreamBroker, images: Admin) -> None:
    declare(broker)

    with pytest.raises(MessageTooLarge, match=r"takes \d+ bytes \(\d+ of body, \d+ of headers\).* at most 512"):
        broker.get_actor("convert").send(id="1", image="file:///" + "x" * 480)

    assert images.count("IMAGES") == 0


def test_what_plain_json_cannot_express_is_refused(broker: JetStreamBroker, images: Admin) -> None:
    declare(broker)
    convert = broker.get_actor("convert")

    with pytest.raises(UnsupportedMessage, match="takes plain JSON"):
        convert.send(id="1", image=object())
    with pytest.raises(UnsupportedMessage, match="too many positional arguments"):
        convert.send("1", "file:///a.jpg", None, "more")
    with pytest.raises(UnsupportedMessage, match="takes plain JSON"):
        convert.send(id="1", image=float("nan"))

    assert images.count("IMAGES") == 0


def test_delay_is_refused_in_a_stream_that_is_not_ours(broker: JetStreamBroker, images: Admin) -> None:
    declare(broker)

    with pytest.raises(DelayNotSupported, match="bound to the stream 'IMAGES', which is not ours"):
        broker.get_actor("convert").send_with_options(kwargs={"id": "1", "image": "a"}, delay=1_000)

    assert images.count("IMAGES") == 0


def test_counts_and_flush_touch_this_queues_subject_only(broker: JetStreamBroker, images: Admin) -> None:
    declare(broker)
    images.store("IMAGES.sepia", b"{}")
    images.store(SUBJECT, request("1"))
    assert broker.get_queue_message_counts("blackandwhite") == (1, 0, 0)

    broker.flush("blackandwhite")

    assert broker.get_queue_message_counts("blackandwhite") == (0, 0, 0)
    assert [each.subject for each in images.stored("IMAGES")] == ["IMAGES.sepia"]


def test_advisory_published_by_an_actor_arrives_before_the_message_is_gone(
    broker: JetStreamBroker, images: Admin
) -> None:
    heard = images.subscribe("advisory.>")

    @dramatiq.actor(broker=broker, queue_name="blackandwhite")
    def convert(id: str, advisory: str) -> None:
        broker.publish(advisory, json.dumps({"id": id}).encode())

    images.store(SUBJECT, json.dumps({"id": "1", "advisory": "advisory.1"}).encode())
    with run_worker(broker):
        advisory = heard.get(timeout=10)
        eventually(lambda: images.count("IMAGES") == 0)

    assert (advisory.subject, json.loads(advisory.data)) == ("advisory.1", {"id": "1"})


def test_argument_that_dramatiq_cannot_pass_is_dropped_like_any_other_unknown_key(
    broker: JetStreamBroker, images: Admin
) -> None:
    seen: list[tuple[str, dict[str, object]]] = []

    @dramatiq.actor(broker=broker, queue_name="blackandwhite", max_retries=0)
    def convert(id: str, **more: object) -> None:
        seen.append((id, more))

    images.store(SUBJECT, b'{"id": "1", "self": 1, "cls": 2, "args": [3], "kwargs": {}, "fn": 4}')
    with run_worker(broker):
        eventually(lambda: images.count("IMAGES") == 0)

    assert seen == [("1", {"cls": 2, "args": [3], "kwargs": {}, "fn": 4})]


def target(queue_name: Any = "blackandwhite", actor_name: Any = "convert", **options: Any) -> dict[str, Any]:
    """A message to lead on to."""
    fields = {"queue_name": queue_name, "actor_name": actor_name, "args": [], "kwargs": {"id": "2"}}
    return {**fields, "options": options, "message_id": "hostile", "message_timestamp": 1}


HOSTILE_TARGETS: dict[str, dict[str, Any]] = {
    "another queue": {"pipe_target": target("hostile")},
    "another queue for an unknown actor": {"pipe_target": target("hostile", "nobody")},
    "the dead-letter form of its queue": {"pipe_target": target("blackandwhite.XQ")},
    "a queue in a callback": {"group_completion_callbacks": [target("hostile")], "group_completion_uuid": "x"},
    "a target of a target": {"pipe_target": target(pipe_target=target("hostile"))},
    "a callback of a target": {"pipe_target": target(group_completion_callbacks=[target("hostile")])},
    "a target without options": {"pipe_target": {**target("hostile"), "options": None}},
    "an actor that is a list": {"pipe_target": target(actor_name=["convert"])},
    "no actor": {"pipe_target": {"queue_name": "hostile"}},
}


@pytest.mark.parametrize("name", HOSTILE_TARGETS)
def test_request_that_leads_on_to_what_is_not_declared_here_is_undecodable(
    broker: JetStreamBroker, images: Admin, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(keeping, "MIN_BACKOFF", 10)
    monkeypatch.setattr(keeping, "MAX_BACKOFF", 20)
    converted = declare(broker)
    broker.setup()
    before = set(images.streams())
    advisories = images.subscribe(EXCEEDED)

    images.store(SUBJECT, request("1"), {"Dramatiq-Options": json.dumps(HOSTILE_TARGETS[name])})
    with run_worker(broker):
        assert exceeded(advisories)["deliveries"] == 5

    [letter] = list(broker.dead_letters.list())
    assert (letter.reason, letter.kept) == ("undecodable", True)
    assert converted == []
    assert set(images.streams()) == before


def test_request_may_lead_on_to_a_declared_actor(broker: JetStreamBroker, images: Admin) -> None:
    converted = declare(broker)

    options = {"pipe_target": {**target(pipe_ignore=True), "kwargs": {"id": "2", "image": "file:///b.jpg"}}}
    images.store(SUBJECT, request("1"), {"Dramatiq-Options": json.dumps(options)})
    with run_worker(broker):
        eventually(lambda: [id for id, _, _ in converted] == ["1", "2"])
        eventually(lambda: images.count("IMAGES") == 0)
