from __future__ import annotations

import json
import re
import time
from datetime import datetime, timezone
from typing import Any

import pytest
from dramatiq import Message
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_jetstream.deliveries.delivery import nak
from dramatiq_jetstream.errors import DelayNotSupported, MessageTooLarge
from dramatiq_jetstream.names import Names, covers
from dramatiq_jetstream.sending.outgoing import check_delay, due_at, publication
from dramatiq_jetstream.sending.scheduled import due_of
from dramatiq_jetstream.settings import WorkQueue
from dramatiq_jetstream.streams import Route, StoredMessage
from dramatiq_jetstream.wire import MSG_ID, SCHEDULE, SCHEDULE_TARGET, DramatiqPayload, JsonPayload, Publication

QUEUE = "default"
BOUND: dict[str, Any] = {"stream": "IMAGES", "subject": "IMAGES.bw", "consumer": "BW"}


def route(**settings: Any) -> Route:
    return Route(QUEUE, WorkQueue(**settings), Names())


def publish(route: Route, due: int | None = None, message_id: str = "5e91", **kwargs: Any) -> Publication:
    message = Message[Any](QUEUE, "resize", (), kwargs, {}, message_id)
    plain_json = JsonPayload(QUEUE, lambda: "resize", dict)
    return publication(route, plain_json if route.settings.plain_json else DramatiqPayload(QUEUE), message, due)


def test_message_for_now_goes_to_its_actors_subject() -> None:
    published = publish(route())

    assert published.subject == "dramatiq.work.default.resize"
    assert list(published.headers) == [MSG_ID]


def test_delayed_message_is_held_by_the_server_until_it_is_due() -> None:
    published = publish(route(), due=1_606_000_000_007)

    assert re.fullmatch(r"dramatiq\.delayed\.default\.5e91\.[0-9a-f]{25,}", published.subject)
    assert published.headers[SCHEDULE] == "@at 2020-11-21T23:06:40.007Z"
    assert published.headers[SCHEDULE_TARGET] == "dramatiq.work.default.resize"


@given(st.integers(0, 253_402_300_799_999))
def test_due_time_is_exact_to_the_millisecond(due: int) -> None:
    schedule = publish(route(), due=due).headers[SCHEDULE]

    moment = datetime.strptime(schedule, "@at %Y-%m-%dT%H:%M:%S.%f%z")
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert since.total_seconds() * 1000 == pytest.approx(due, abs=0.1)


def held(schedule: str | None) -> StoredMessage:
    return StoredMessage(
        "s", 1, "dramatiq.delayed.default.a.b", {} if schedule is None else {SCHEDULE: schedule}, b"", 0
    )


@given(st.integers(0, 253_402_300_799_999))
def test_due_time_is_read_back_as_it_was_written(due: int) -> None:
    assert due_of(held(publish(route(), due=due).headers[SCHEDULE])) == due


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("@at 1970-01-01T00:00:01Z", 1_000),
        ("@at 1970-01-01T00:00:01.5Z", 1_500),
        ("@at 1970-01-01T00:00:01.123456789Z", 1_123),
        ("@at 1970-01-01T02:00:01+02:00", 1_000),
        ("@at 1969-12-31T23:30:00.250-00:45", 900_250),
        ("@at 9999-12-31T23:59:59-14:00", 253_402_351_199_000),
        ("@at 0001-01-01T00:00:00+14:00", -62_135_647_200_000),
    ],
)
def test_due_time_is_read_in_every_form_of_rfc_3339(schedule: str, due: int) -> None:
    assert due_of(held(schedule)) == due


@pytest.mark.parametrize(
    "schedule",
    [
        *(None, "", "@every 1s", "@hourly", "0 0 * * * *", "@at", "@at tomorrow", "@at 1970-01-01T00:00:01"),
        *("@at 1970-13-01T00:00:01Z", "@at 1970-01-01T00:00:60Z", "@at ١٩٧٠-01-01T00:00:01Z", "1970-01-01T00:00:01Z"),
    ],
)
def test_schedule_that_names_no_moment_has_no_due_time(schedule: str | None) -> None:
    assert due_of(held(schedule)) is None


@given(st.text())
def test_due_time_of_any_schedule_can_be_asked(schedule: str) -> None:
    assert due_of(held(schedule)) is None or schedule.startswith("@at ")


@given(st.text(st.characters()))
def test_delayed_message_of_any_id_stays_in_its_queues_stream(message_id: str) -> None:
    mine = route()

    delayed = publish(mine, due=1, message_id=message_id).subject

    assert [covers(pattern, delayed) for pattern in mine.stream_config()["subjects"]] == [False, True]


def test_two_delayed_sends_of_one_message_do_not_replace_each_other() -> None:
    assert publish(route(), due=1).subject != publish(route(), due=1).subject


@pytest.mark.parametrize("due", [253_402_300_800_000, 10**30])
def test_delay_beyond_all_dates_is_refused(due: int) -> None:
    with pytest.raises(ValueError, match=f"a delay until {due} ms after 1970 is too long to be a date"):
        publish(route(), due=due)


@pytest.mark.parametrize("delay", [1, 1.5, 15_000, 86_400_000 * 365])
def test_delay_is_never_over_early_and_ends_at_a_whole_millisecond(delay: float) -> None:
    before = time.time() * 1000
    due = due_at(delay)

    assert isinstance(due, int)
    assert due - before >= delay


def test_bound_queue_cannot_delay_and_says_which_setting_binds_it() -> None:
    with pytest.raises(DelayNotSupported) as raised:
        publish(route(**BOUND), due=1)

    assert str(raised.value) == (
        "queue 'default' is bound to the stream 'IMAGES', which is not ours, so nothing can be delayed in it: send "
        "without delay, or use a queue without WorkQueue(stream=…)"
    )


def test_queue_that_refuses_messages_when_full_cannot_delay_and_says_why() -> None:
    with pytest.raises(DelayNotSupported, match=r"discard='new'.*leave discard out of its WorkQueue"):
        check_delay(route(discard="new"))


def test_ordinary_queue_can_delay() -> None:
    check_delay(route())


def test_message_over_the_queues_limit_names_the_stream_and_the_sizes() -> None:
    with pytest.raises(MessageTooLarge) as raised:
        publish(route(**BOUND, max_msg_size=512), image="x" * 500)

    assert re.match(
        r"the message takes 5\d\d bytes \(512 of body, \d\d of headers\), but the stream 'IMAGES' \(max_msg_size\) "
        "takes at most 512;",
        str(raised.value),
    )


def test_schedule_counts_toward_the_limit() -> None:
    size = publish(route()).size

    publish(route(max_msg_size=size))
    with pytest.raises(MessageTooLarge):
        publish(route(max_msg_size=size), due=1_606_000_000_000)


def test_negative_acknowledgement_names_its_delay_in_whole_nanoseconds() -> None:
    word, _, options = nak(1_500).partition(b" ")

    assert word == b"-NAK"
    assert json.loads(options) == {"delay": 1_500_000_000}


@pytest.mark.parametrize("delay", [0, -1])
def test_negative_acknowledgement_without_delay_is_plain(delay: int) -> None:
    assert nak(delay) == b"-NAK"
