from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import PriorityQueue
from types import SimpleNamespace
from typing import Any, NamedTuple

import dramatiq
import dramatiq.worker
import pytest
from dramatiq import Message, MessageProxy, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import DecodeError
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, TimeLimit
from hypothesis import example, given
from hypothesis import strategies as st

from dramatiq_jetstream.errors import MessageTooLarge, UnsupportedMessage
from dramatiq_jetstream.wire import (
    ACTOR,
    MESSAGE_ID,
    MSG_ID,
    OPTIONS,
    TIMESTAMP,
    DramatiqPayload,
    JsonPayload,
    Origin,
    PayloadFormat,
    Publication,
    pending_of,
    quote_text,
    unquote_text,
)
from dramatiq_jetstream.wire.checks import MAX_NESTING

QUEUE = "images"
STORED = 1_606_000_000_123
ORIGIN = Origin("IMAGES", "BW", 1, 121, STORED * 1_000_000 + 456)

ANY_TEXT = st.text(st.characters())
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
#: Options that mean nothing to us.
OTHER_OPTIONS = st.dictionaries(st.text("xyz", min_size=1), JSON_VALUES)

FIELDS: dict[str, Any] = {
    "queue_name": QUEUE,
    "actor_name": "convert",
    "args": [1],
    "kwargs": {"x": 2},
    "options": {},
    "message_id": "5e91425f",
    "message_timestamp": STORED,
}


class Received(NamedTuple):
    """What a message is decoded from."""

    body: bytes
    headers: Mapping[str, str]
    origin: Origin


def encoded(**changes: Any) -> bytes:
    return json.dumps(FIELDS | changes).encode()


def message(*args: Any, actor_name: str = "convert", **kwargs: Any) -> Message[Any]:
    return Message(queue_name=QUEUE, actor_name=actor_name, args=args, kwargs=kwargs, options={})


#: dramatiq 1 has it under another name.
WORKER_THREAD: Any = getattr(dramatiq.worker, "WorkerThread", None) or dramatiq.worker._WorkerThread


class Stage:
    """A broker with actors, and one thread's work on a message, done at once."""

    def __init__(self) -> None:
        middleware = [AgeLimit(), TimeLimit(), Callbacks(), Pipelines(), Retries(max_retries=3)]
        self.broker = StubBroker(middleware=middleware)
        self.finished: list[MessageProxy] = []
        consumer = SimpleNamespace(post_process_message=self.finished.append)
        self.work: PriorityQueue[Any] = PriorityQueue()
        self.thread = WORKER_THREAD(
            broker=self.broker, consumers={QUEUE: consumer}, work_queue=self.work, worker_timeout=100
        )

    def actor(self, fn: Callable[..., Any], **options: Any) -> dramatiq.Actor[..., Any]:
        return dramatiq.actor(broker=self.broker, queue_name=QUEUE, **options)(fn)

    def plain_json(self, actor_name: str | None = "convert") -> JsonPayload:
        return JsonPayload(QUEUE, lambda: actor_name, lambda: self.broker.actors)

    def run(self, decoded: Message[Any]) -> list[str]:
        """Do what dramatiq's threads do with a message; return what its hooks tripped over."""
        proxy = MessageProxy(decoded)
        self.work.put(0)
        self.work.get()
        with criticals() as found:
            self.thread.process_message(proxy)
        assert self.finished == [proxy]
        self.finished.clear()
        self.broker.flush_all()
        return found


@contextmanager
def criticals() -> Iterator[list[str]]:
    """Collect what dramatiq logs about hooks that failed."""
    found: list[str] = []
    handler = logging.Handler(logging.CRITICAL)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)


def fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("the actor fails")


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.actor(fail, actor_name="convert")
    return stage


STAGE = Stage()
STAGE.actor(fail, actor_name="convert")

FORMATS: dict[str, PayloadFormat] = {"dramatiq": DramatiqPayload(QUEUE), "json": STAGE.plain_json()}


# What the server tells of a delivery.


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.IMAGES.BW.2.121.7.1606000000123000456.3",
        "$JS.ACK.hub.Xa7Bq.IMAGES.BW.2.121.7.1606000000123000456.3",
        "$JS.ACK._.Xa7Bq.IMAGES.BW.2.121.7.1606000000123000456.3.r4nd0m",
    ],
    ids=["9 tokens", "11 tokens", "12 tokens"],
)
def test_origin_is_read_from_every_form_of_acknowledgement_subject(reply: str) -> None:
    origin = Origin.parse(reply)

    assert origin == Origin("IMAGES", "BW", deliveries=2, sequence=121, timestamp=1_606_000_000_123_000_456)
    assert origin.milliseconds == 1_606_000_000_123
    assert pending_of(reply) == 3


@pytest.mark.parametrize("reply", ["", "_INBOX.abc.1", "$JS.ACK.IMAGES.BW.2.121.7.1606000000123000456"])
def test_other_reply_subjects_are_refused(reply: str) -> None:
    with pytest.raises(ValueError, match="not an acknowledgement subject"):
        Origin.parse(reply)


# Sizes.


def test_size_is_what_the_server_counts() -> None:
    fits = Publication("IMAGES.bw", b"x" * 494, {"A": "b"})

    assert len(b"NATS/1.0\r\nA: b\r\n\r\n") == 18
    assert fits.size == 512
    fits.check_size(512, "the stream")
    with pytest.raises(MessageTooLarge):
        fits._replace(body=b"x" * 495).check_size(512, "the stream")


@given(st.binary(), st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
def test_size_is_the_bytes_of_the_header_block_and_the_body(body: bytes, headers: dict[str, str]) -> None:
    block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"

    assert Publication("s", body, headers).size == len(block.encode()) + len(body)


def test_without_headers_only_the_body_counts() -> None:
    assert Publication("s", b"12345", {}).size == 5


def test_message_over_the_limit_says_all_sizes_and_what_to_do() -> None:
    too_large = Publication("s", b"x" * 600, {"A": "b"})

    with pytest.raises(MessageTooLarge) as raised:
        too_large.check_size(512, "the stream 'IMAGES' (max_msg_size)")

    assert str(raised.value) == (
        "the message takes 618 bytes (600 of body, 18 of headers), but the stream 'IMAGES' (max_msg_size) takes at "
        "most 512; send a reference to large data instead"
    )


def test_without_a_limit_any_size_is_fine() -> None:
    Publication("s", b"x" * 10_000_000, {}).check_size(None, "the stream")


# Round trips.


@given(
    st.builds(
        Message,
        queue_name=st.just(QUEUE),
        actor_name=ANY_TEXT,
        args=st.lists(JSON_VALUES).map(tuple),
        kwargs=st.dictionaries(ANY_TEXT, JSON_VALUES),
        options=OTHER_OPTIONS,
        message_id=ANY_TEXT,
        message_timestamp=st.integers(),
    )
)
def test_message_survives_dramatiqs_own_format(sent: Message[Any]) -> None:
    payload = DramatiqPayload(QUEUE)

    assert payload.decode(Received(*payload.encode(sent), ORIGIN)) == sent


@given(
    st.builds(
        Message,
        queue_name=st.just(QUEUE),
        actor_name=ANY_TEXT | st.just("convert"),
        args=st.just(()),
        kwargs=st.dictionaries(st.text(), JSON_VALUES),
        options=OTHER_OPTIONS,
        message_id=st.text(st.characters(), min_size=1) | st.uuids().map(str),
        message_timestamp=st.integers(max_value=STORED),
    )
)
def test_message_survives_plain_json(sent: Message[Any]) -> None:
    payload = STAGE.plain_json()

    assert payload.decode(Received(*payload.encode(sent), ORIGIN)) == sent


@pytest.mark.parametrize("form", FORMATS)
def test_each_encoding_has_a_message_id_of_its_own(form: str) -> None:
    sent = message(x=1)

    ids = {FORMATS[form].encode(sent)[1][MSG_ID] for _ in range(100)}

    assert len(ids) == 100


@pytest.mark.parametrize("form", FORMATS)
def test_message_is_taken_to_be_of_the_queue_it_was_read_from(form: str) -> None:
    foreign = Message[Any](queue_name="other.DQ", actor_name="convert", args=(), kwargs={}, options={})

    assert FORMATS[form].decode(Received(*FORMATS[form].encode(foreign), ORIGIN)).queue_name == QUEUE


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("eta", [1_606_000_000_000, float("inf"), float("nan"), None, "soon", []])
def test_no_eta_reaches_dramatiqs_delay_queue(form: str, eta: object) -> None:
    delayed = message(x=1).copy(options={"eta": eta, "kept": 1})

    assert FORMATS[form].decode(Received(*FORMATS[form].encode(delayed), ORIGIN)).options == {"kept": 1}


# Whatever comes in.


@pytest.mark.parametrize("form", FORMATS)
@given(body=st.binary() | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
@example(body=b'"\\ud800"')
@example(body=b"\xef\xbb\xbf{}")
@example(body="{}".encode("utf-16"))
def test_any_body_is_a_message_or_a_decode_error(form: str, body: bytes) -> None:
    assert_survived(FORMATS[form], body, {})


@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON_VALUES),
    st.dictionaries(
        st.sampled_from(
            [
                "eta",
                "retries",
                "max_retries",
                "min_backoff",
                "max_backoff",
                "max_age",
                "time_limit",
                "throws",
                "pipe_target",
                "on_retry_exhausted",
                "on_failure",
                "traceback",
                "requeue_timestamp",
            ]
        ),
        JSON_VALUES | st.sampled_from([float("inf"), float("nan"), 10**400, -(10**400)]),
    ),
)
def test_message_with_any_fields_and_options_is_run_or_a_decode_error(
    fields: dict[str, Any], options: dict[str, Any]
) -> None:
    assert_survived(DramatiqPayload(QUEUE), encoded(**{"options": options} | fields), {})


@given(
    JSON_VALUES,
    st.dictionaries(
        st.sampled_from([ACTOR, MESSAGE_ID, MSG_ID, OPTIONS, TIMESTAMP, "Status", "Nats-TTL"]),
        ANY_TEXT | JSON_VALUES.map(json.dumps) | st.sampled_from(["%", "%FF", "-1", "0" * 5000, "9" * 5000, "٣"]),
    ),
)
def test_any_headers_of_plain_json_are_run_or_a_decode_error(value: object, headers: dict[str, str]) -> None:
    assert_survived(STAGE.plain_json(), json.dumps({"x": value}).encode(), headers)


def assert_survived(payload: PayloadFormat, body: bytes, headers: dict[str, str]) -> None:
    """Decode, and do with the message what dramatiq's threads would do."""
    try:
        decoded = payload.decode(Received(body, headers, ORIGIN))
    except DecodeError:
        return
    assert decoded.queue_name == QUEUE
    assert "eta" not in decoded.options
    STAGE.run(decoded)


def nested(depth: int) -> bytes:
    return encoded(args="NESTED").replace(b'"NESTED"', b"[" * depth + b"]" * depth)


REFUSED = {
    "empty body": b"",
    "byte order mark": b"\xef\xbb\xbf" + encoded(),
    "not UTF-8": encoded().replace(b"convert", b"conv\xffrt"),
    "UTF-16": encoded().decode().encode("utf-16"),
    "list": b"[]",
    "empty object": b"{}",
    "null": b"null",
    "NaN": b"NaN",
    "text": b'"convert"',
    "200,000 levels": nested(200_000),
    "600 levels": nested(600),
    "number of 5,000 digits": encoded(message_timestamp="N").replace(b'"N"', b"1" * 5000),
    "extra field": encoded(surplus=1),
    "dict for message_id": encoded(message_id={"a": 1}),
    "null for message_id": encoded(message_id=None),
    "list for options": encoded(options=[]),
    "null for options": encoded(options=None),
    "list for kwargs": encoded(kwargs=[]),
    "null for kwargs": encoded(kwargs=None),
    "text for args": encoded(args="abc"),
    "null for args": encoded(args=None),
    "object for args": encoded(args={"a": 1}),
    "number for queue_name": encoded(queue_name=1),
    "list for actor_name": encoded(actor_name=["convert"]),
    "null for actor_name": encoded(actor_name=None),
    "float for message_timestamp": encoded(message_timestamp=1e300),
    "text for message_timestamp": encoded(message_timestamp="now"),
}

REFUSED_OPTIONS = {
    "throws as a list": {"throws": ["ValueError"]},
    "throws as text": {"throws": "ValueError"},
    "throws as a number": {"throws": 1},
    "retries as text": {"retries": "3"},
    "retries as a list": {"retries": [3]},
    "retries as a fraction": {"retries": 1.5},
    "huge retries": {"retries": 10**400},
    "max_retries as text": {"max_retries": "3"},
    "min_backoff as text": {"min_backoff": "100"},
    "infinite min_backoff": {"min_backoff": float("inf")},
    "min_backoff that is no number": {"min_backoff": float("nan")},
    "huge max_backoff": {"max_backoff": -(10**400)},
    "max_age as text": {"max_age": "1h"},
    "time_limit as text": {"time_limit": "1h"},
    "huge time_limit": {"time_limit": 10**400},
    "time_limit that is no number": {"time_limit": float("nan")},
    "on_retry_exhausted as a list": {"on_retry_exhausted": ["convert"]},
    "pipe_target as text": {"pipe_target": "convert"},
    "group_completion_callbacks as text": {"group_completion_callbacks": "convert"},
    "dead_message_ttl as text": {"dead_message_ttl": "7d"},
}


@pytest.mark.parametrize("name", ["origin", "not_before", "removed_options", "handoff_failures", "unknown_actor_since"])
@pytest.mark.parametrize("value", ["a shop", "yesterday", 5, 10**18, ["x"], {"y": 1}], ids=repr)
def test_option_of_any_name_that_is_not_dramatiqs_is_the_applications(name: str, value: object) -> None:
    decoded = DramatiqPayload(QUEUE).decode(Received(encoded(options={name: value}), {}, ORIGIN))

    assert decoded.options == {name: value}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_malformed_message_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError, match="not a dramatiq message: ") as raised:
        DramatiqPayload(QUEUE).decode(Received(body, {}, ORIGIN))

    assert raised.value.data == body
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("name", FIELDS)
def test_message_that_lacks_a_field_is_refused(name: str) -> None:
    body = json.dumps({field: value for field, value in FIELDS.items() if field != name}).encode()

    with pytest.raises(DecodeError, match=f"{name} must be .*, found None"):
        DramatiqPayload(QUEUE).decode(Received(body, {}, ORIGIN))


@pytest.mark.parametrize("options", REFUSED_OPTIONS.values(), ids=REFUSED_OPTIONS)
def test_options_that_dramatiqs_middleware_would_trip_over_are_refused(options: dict[str, Any]) -> None:
    [name] = options

    with pytest.raises(DecodeError, match=f"option {name}"):
        DramatiqPayload(QUEUE).decode(Received(encoded(options=options), {}, ORIGIN))
    with pytest.raises(DecodeError, match=f"option {name}"):
        STAGE.plain_json().decode(Received(b"{}", {OPTIONS: json.dumps(options)}, ORIGIN))


@pytest.mark.parametrize(
    "options",
    [
        {"max_age": float("inf"), "time_limit": float("inf")},
        {"min_backoff": 0.5, "max_backoff": 1e9},
        {"min_backoff": -5, "retries": -5},
        {"max_retries": None, "retries": 2**62},
        {"retries": True},
        {"requeue_timestamp": "now", "traceback": 5, "priority": []},
        {"pipe_ignore": [], "delay": "x"},
    ],
    ids=str,
)
def test_odd_options_do_no_harm(stage: Stage, options: dict[str, Any]) -> None:
    decoded = DramatiqPayload(QUEUE).decode(Received(encoded(options=options), {}, ORIGIN))

    assert decoded.options == options
    assert stage.run(decoded) == []


@pytest.mark.parametrize(
    "name",
    ["retries", "min_backoff", "max_backoff", "max_age", "time_limit", "throws", "on_retry_exhausted", "pipe_target"],
)
def test_option_that_is_null_counts_as_not_given(stage: Stage, name: str) -> None:
    decoded = DramatiqPayload(QUEUE).decode(Received(encoded(options={name: None}), {}, ORIGIN))

    assert decoded.options == {}
    assert stage.run(decoded) == []


def test_retries_may_be_unlimited() -> None:
    decoded = DramatiqPayload(QUEUE).decode(Received(encoded(options={"max_retries": None}), {}, ORIGIN))

    assert decoded.options == {"max_retries": None}


def test_nan_among_the_arguments_is_the_actors_business(stage: Stage) -> None:
    decoded = DramatiqPayload(QUEUE).decode(Received(encoded(args=[float("nan")]), {}, ORIGIN))

    assert decoded.args[0] != decoded.args[0]
    assert stage.run(decoded) == []


def test_of_duplicate_keys_the_last_counts() -> None:
    body = encoded().replace(b'"actor_name": "convert"', b'"actor_name": [], "actor_name": "convert"')

    assert DramatiqPayload(QUEUE).decode(Received(body, {}, ORIGIN)).actor_name == "convert"


def test_deepest_message_that_is_accepted_runs_and_is_logged_on_a_thread_of_its_own(stage: Stage) -> None:
    decoded = DramatiqPayload(QUEUE).decode(Received(nested(MAX_NESTING - 1), {}, ORIGIN))
    outcomes: list[object] = []

    thread = threading.Thread(target=lambda: outcomes.append(stage.run(decoded)))
    thread.start()
    thread.join()

    assert outcomes == [[]]
    with pytest.raises(DecodeError, match=f"nested more than {MAX_NESTING} levels deep"):
        DramatiqPayload(QUEUE).decode(Received(nested(MAX_NESTING), {}, ORIGIN))


def test_long_pipelines_are_not_too_deep(stage: Stage) -> None:
    step = message(1)
    for _ in range(200):
        step = message(1).copy(options={"pipe_target": step.asdict()})
    payload = DramatiqPayload(QUEUE)

    assert stage.run(payload.decode(Received(*payload.encode(step), ORIGIN))) == []


def test_hostile_messages_leave_every_thread_of_a_worker_alive() -> None:
    """The whole way, with dramatiq's real threads: what decodes is run, whatever it says."""
    stage = Stage()
    seen: list[object] = []
    stage.actor(lambda *args, **kwargs: seen.append(args), actor_name="convert")
    payload = DramatiqPayload(QUEUE)
    bodies = [*REFUSED.values(), *(encoded(options=options) for options in REFUSED_OPTIONS.values())]
    bodies += [encoded(queue_name="other"), encoded(options={"eta": float("inf")}), encoded(options={"retries": None})]
    for body in bodies:
        try:
            stage.broker.enqueue(payload.decode(Received(body, {}, ORIGIN)))
        except DecodeError:
            continue
    worker = Worker(stage.broker, worker_threads=2, worker_timeout=50)
    worker.start()
    try:
        stage.broker.join(QUEUE, timeout=10_000)
        worker.join()
        assert [thread.is_alive() for thread in [*worker.workers, *worker.consumers.values()]] == [True] * 4
    finally:
        worker.stop()

    assert seen == [(1,)] * 3


# Plain JSON from elsewhere.


def test_message_from_elsewhere_is_the_actors_keyword_arguments() -> None:
    body = b'{"id": "5e91", "image": "file:///data/5e91.jpg", "advisory": "advisory.5e91"}'

    decoded = STAGE.plain_json().decode(Received(body, {}, ORIGIN))

    assert decoded == Message(
        queue_name=QUEUE,
        actor_name="convert",
        args=(),
        kwargs={"id": "5e91", "image": "file:///data/5e91.jpg", "advisory": "advisory.5e91"},
        options={},
        message_id="IMAGES-121",
        message_timestamp=STORED,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"NaN",
        b'"abc"',
        b"{",
        b"{}}",
        b'{"id": "\xff"}',
        b'{"id": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"id": ' + b"[" * 600 + b"]" * 600 + b"}",
        b'{"id": ' + b"1" * 5000 + b"}",
    ],
    ids=[
        "empty",
        "list",
        "null",
        "NaN",
        "text",
        "cut",
        "surplus",
        "not UTF-8",
        "200,000 levels",
        "600 levels",
        "digits",
    ],
)
def test_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError, match="not a plain JSON message: "):
        STAGE.plain_json().decode(Received(body, {}, ORIGIN))


@pytest.mark.parametrize("body", [b"{}", b"\xef\xbb\xbf{}", b'{"id": NaN}', b'{"id": 1, "id": 2}', b'{"self": 1}'])
def test_odd_objects_end_as_an_ordinary_failure_of_the_actor(stage: Stage, body: bytes) -> None:
    assert stage.run(stage.plain_json().decode(Received(body, {}, ORIGIN))) == []


@pytest.mark.parametrize(
    "headers",
    [
        {MSG_ID: "../../etc/passwd"},
        {MSG_ID: "5e91425f-c89d-ac47-f6d2-e95d4cf6b74a"},
        {MSG_ID: "5E91425F-C89D-AC47-F6D2-E95D4CF6B74A.00000000"},
        {MSG_ID: "5e91425f-c89d-ac47-f6d2-e95d4cf6b74a.00000000\n"},
        {MESSAGE_ID: ""},
        {"Nats-TTL": "1s"},
        {"Nats-Expected-Stream": "OTHER"},
        {"Nats-Expected-Last-Sequence": "1"},
        {"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": "elsewhere"},
        {"Nats-Rollup": "all"},
        {"Status": "409", "Description": "Consumer Deleted"},
        {"Dramatiq-Queue": "other"},
    ],
    ids=str,
)
def test_headers_that_are_not_ours_change_nothing(headers: dict[str, str]) -> None:
    payload = STAGE.plain_json()

    assert payload.decode(Received(b'{"x": 1}', headers, ORIGIN)) == payload.decode(Received(b'{"x": 1}', {}, ORIGIN))


@pytest.mark.parametrize(
    "headers",
    [
        {OPTIONS: ""},
        {OPTIONS: "null"},
        {OPTIONS: "[]"},
        {OPTIONS: "{"},
        {OPTIONS: "[" * 200_000},
        {OPTIONS: '{"a": "\ud800"}'},
        {TIMESTAMP: ""},
        {TIMESTAMP: "now"},
        {TIMESTAMP: "1e3"},
        {TIMESTAMP: "9" * 5000},
        {MESSAGE_ID: "%FF"},
        {ACTOR: "%FF"},
    ],
    ids=lambda headers: f"{next(iter(headers))} {next(iter(headers.values()))[:12]!r}",
)
def test_malformed_headers_of_ours_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(DecodeError, match="not a plain JSON message: "):
        STAGE.plain_json().decode(Received(b"{}", headers, ORIGIN))


def test_message_without_actor_is_refused_where_there_is_not_exactly_one() -> None:
    with pytest.raises(DecodeError, match="it names no actor, and queue 'images' has not exactly one"):
        STAGE.plain_json(actor_name=None).decode(Received(b"{}", {}, ORIGIN))


# Plain JSON from here.


def test_only_metadata_that_is_not_default_becomes_headers() -> None:
    body, headers = STAGE.plain_json().encode(message(id="5e91", image="file:///é.jpg"))

    assert body == '{"id":"5e91","image":"file:///é.jpg"}'.encode()
    assert list(headers) == [MSG_ID]


def test_ordinary_message_carries_its_id_in_the_servers_own_header() -> None:
    sent = message(x=1)

    body, headers = STAGE.plain_json().encode(sent)

    assert re.fullmatch(re.escape(sent.message_id) + r"\.[0-9a-f]{8}", headers[MSG_ID])
    assert STAGE.plain_json().decode(Received(body, headers, ORIGIN)).message_id == sent.message_id


def test_id_of_another_form_has_a_header_of_its_own() -> None:
    sent = message(x=1)._replace(message_id="order 7\r\n")

    _, headers = STAGE.plain_json().encode(sent)

    assert headers[MESSAGE_ID] == "order%207%0D%0A"
    assert "order" not in headers[MSG_ID]


def test_other_actor_options_and_an_old_timestamp_become_headers() -> None:
    sent = message(actor_name="resize", x=1)._replace(options={"max_retries": 2}, message_timestamp=STORED)

    _, headers = STAGE.plain_json().encode(sent)

    assert headers.pop(MSG_ID)
    assert headers == {ACTOR: "resize", OPTIONS: '{"max_retries":2}', TIMESTAMP: str(STORED)}


def test_timestamp_of_a_message_just_made_is_left_to_the_server() -> None:
    fresh = message(x=1)._replace(message_timestamp=int(time.time() * 1000))

    assert TIMESTAMP not in STAGE.plain_json().encode(fresh)[1]


def test_actor_is_named_where_the_queue_has_no_default() -> None:
    assert STAGE.plain_json(actor_name=None).encode(message(x=1))[1][ACTOR] == "convert"


def test_walkthroughs_request_leaves_room_for_a_long_path() -> None:
    sent = message(id="5" * 32, image=f"file:///{'d' * 250}.jpg", advisory=f"advisory.{'5' * 32}")

    body, headers = STAGE.plain_json().encode(sent)

    assert Publication("IMAGES.blackandwhite", body, headers).size <= 512


@given(ANY_TEXT, ANY_TEXT, st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3))
@example("a\r\nNats-Rollup: all", "b\nStatus: 409", {"c": "\r\n\r\nPUB d 0"})
@example(" edges ", "\ttab\t", {})
@example("\ud800", "图像\x00\x7f\x85\u2028", {})
def test_nothing_in_a_message_can_add_or_break_a_header(message_id: str, actor_name: str, options: Any) -> None:
    sent = Message[Any](QUEUE, actor_name, (), {}, options, message_id, STORED)

    for form in FORMATS.values():
        for name, value in form.encode(sent)[1].items():
            assert re.fullmatch(r"[A-Za-z-]+", name)
            assert re.fullmatch(r"([!-~]([ -~]*[!-~])?)?", value)


@given(ANY_TEXT)
@example("%0D%0A")
@example("\ud83e\udd86")
def test_quoted_text_comes_back(text: str) -> None:
    assert unquote_text(quote_text(text)) == text


# Positional arguments.


def body_of(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> object:
    stage = Stage()
    actor = stage.actor(fn, actor_name="convert")
    return json.loads(stage.plain_json().encode(actor.message(*args, **kwargs))[0])


def test_positional_arguments_get_their_names() -> None:
    def convert(id: str, image: str, advisory: str | None = None) -> None: ...

    assert body_of(convert, "5e91", "file:///x") == {"id": "5e91", "image": "file:///x"}
    assert body_of(convert, "5e91", "file:///x", None) == {"id": "5e91", "image": "file:///x", "advisory": None}
    assert body_of(convert, "5e91", advisory="a", image="b") == {"id": "5e91", "image": "b", "advisory": "a"}
    assert body_of(convert, id="5e91", image="b") == {"id": "5e91", "image": "b"}


def test_further_keyword_arguments_stand_beside_the_named_ones() -> None:
    def convert(id: str, **more: Any) -> None: ...

    assert body_of(convert, "5e91", a=1, more=2) == {"id": "5e91", "a": 1, "more": 2}
    assert body_of(convert, "5e91") == {"id": "5e91"}


def test_keyword_only_arguments_are_kept() -> None:
    def convert(id: str, *, size: int = 3) -> None: ...

    assert body_of(convert, "5e91", size=5) == {"id": "5e91", "size": 5}


def test_asynchronous_actors_have_their_own_functions_names() -> None:
    async def convert(id: str, image: str = "b") -> None: ...

    assert body_of(convert, "5e91", "file:///x") == {"id": "5e91", "image": "file:///x"}


def test_unused_variable_arguments_are_no_obstacle() -> None:
    def convert(id: str, *rest: str) -> None: ...

    assert body_of(convert, "5e91") == {"id": "5e91"}


def takes_any(*images: str) -> None: ...


def takes_position(image: str, /) -> None: ...


def takes_one(image: str) -> None: ...


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("fn", "args", "reason"),
    [
        (takes_any, ("a", "b"), "parameter 'images' takes positional arguments only"),
        (takes_position, ("a",), "parameter 'image' takes positional arguments only"),
        (takes_one, ("a", "b"), "too many positional arguments"),
        (takes_one, ({1, 2},), "Object of type set is not JSON serializable"),
        (takes_one, (b"bytes",), "Object of type bytes is not JSON serializable"),
        (takes_one, (float("nan"),), "Out of range float values are not JSON compliant"),
        (takes_one, (float("inf"),), "Out of range float values are not JSON compliant"),
        (takes_one, ("\ud800",), "surrogates not allowed"),
        (takes_one, (CIRCLE,), "Circular reference detected"),
    ],
)
def test_what_plain_json_cannot_express_is_refused_with_the_reason(
    fn: Callable[..., Any], args: tuple[Any, ...], reason: str
) -> None:
    with pytest.raises(UnsupportedMessage) as raised:
        body_of(fn, *args)

    text = str(raised.value)
    assert text.startswith("queue 'images' takes plain JSON, and 'convert' was sent what it cannot express: ")
    assert reason in text


def test_argument_that_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(UnsupportedMessage, match="cannot express"):
        body_of(takes_one, deep)
    while deep:  # Python would recurse to free it at once.
        deep = deep.pop()


def test_argument_given_twice_is_refused() -> None:
    with pytest.raises(UnsupportedMessage, match="multiple values for argument 'image'"):
        body_of(takes_one, "a", image="b")


def test_options_that_are_no_json_are_refused(stage: Stage) -> None:
    with pytest.raises(UnsupportedMessage, match="not JSON serializable"):
        stage.plain_json().encode(message(x=1).copy(options={"throws": ValueError}))


def test_positional_arguments_of_an_undeclared_actor_are_refused(stage: Stage) -> None:
    with pytest.raises(UnsupportedMessage, match="that is not declared here; pass them by name"):
        stage.plain_json().encode(message("a", actor_name="elsewhere"))


def test_plain_json_that_its_actor_cannot_take_is_refused_before_it_reaches_a_worker() -> None:
    broker = StubBroker(middleware=[])
    dramatiq.actor(broker=broker, actor_name="convert", queue_name="images")(lambda id, image: None)
    payload = JsonPayload("images", lambda: "convert", lambda: broker.actors)

    with pytest.raises(DecodeError, match=r"the actor 'convert' cannot take it: missing a required argument: 'id'"):
        payload.decode(Received(b"{}", {}, Origin("IMAGES", "BW", 1, 1, 0)))
