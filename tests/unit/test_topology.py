from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dramatiq_jetstream.errors import ConfigMismatch
from dramatiq_jetstream.names import Names, covers
from dramatiq_jetstream.settings import WorkQueue
from dramatiq_jetstream.streams import Limits, Route, bucket_config, dead_letter_config, limits
from dramatiq_jetstream.streams.differences import differences

SECOND = 1_000_000_000

#: The stream and the consumer that the walkthrough prepares with the nats command line.
IMAGES = WorkQueue(
    stream="IMAGES",
    subject="IMAGES.blackandwhite",
    consumer="BW",
    stream_subjects=["IMAGES.>"],
    max_deliver=5,
    ack_wait=30_000,
    max_msg_size=512,
    duplicate_window=3_600_000,
    discard="old",
)


def route(settings: WorkQueue | None = None, queue_name: str = "default", replicas: int = 1) -> Route:
    return Route(queue_name, settings or WorkQueue(), Names(), replicas)


def test_stream_of_our_own() -> None:
    assert route(queue_name="image.work", replicas=3).stream_config() == {
        "name": "dramatiq_image=2Ework",
        "subjects": ["dramatiq.work.image=2Ework.*", "dramatiq.delayed.image=2Ework.*.*"],
        "retention": "workqueue",
        "storage": "file",
        "num_replicas": 3,
        "discard": "old",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "max_age": 0,
        "max_consumers": -1,
        "duplicate_window": 120 * SECOND,
        "allow_direct": True,
        "allow_atomic": True,
        "allow_msg_schedules": True,
    }


def test_consumer_of_our_own() -> None:
    assert route().consumer_config(21) == {
        "name": "dramatiq",
        "durable_name": "dramatiq",
        "filter_subject": "dramatiq.work.default.*",
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "ack_wait": 30 * SECOND,
        "max_deliver": 21,
        "max_ack_pending": -1,
        "max_waiting": 8192,
    }


def test_bound_stream_is_made_as_the_walkthrough_makes_it() -> None:
    assert route(IMAGES).stream_config() == {
        "name": "IMAGES",
        "subjects": ["IMAGES.>"],
        "retention": "workqueue",
        "storage": "file",
        "num_replicas": 1,
        "discard": "old",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msg_size": 512,
        "max_age": 0,
        "max_consumers": -1,
        "duplicate_window": 3600 * SECOND,
    }


def test_bound_consumer_is_made_as_the_walkthrough_makes_it() -> None:
    assert route(IMAGES).consumer_config(None) == {
        "name": "BW",
        "durable_name": "BW",
        "filter_subject": "IMAGES.blackandwhite",
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "ack_wait": 30 * SECOND,
        "max_deliver": 5,
    }


def test_bound_stream_listens_on_the_queues_subject_unless_told() -> None:
    bound = WorkQueue(stream="IMAGES", subject="IMAGES.bw", consumer="BW")

    assert route(bound).stream_config()["subjects"] == ["IMAGES.bw"]


def test_settings_of_a_queue_reach_the_server() -> None:
    settings = WorkQueue(
        ack_wait=60_000, max_deliver=3, max_msg_size=1_000, max_msgs=5, max_bytes=9_000, discard="new", replicas=5
    )

    stream = route(settings).stream_config()
    consumer = route(settings).consumer_config(21)

    assert (stream["max_msg_size"], stream["max_msgs"]) == (1_000, 5)
    assert (stream["max_bytes"], stream["discard"], stream["num_replicas"]) == (9_000, "new", 5)
    assert (consumer["ack_wait"], consumer["max_deliver"]) == (60 * SECOND, 3)


def test_stream_that_refuses_messages_when_full_has_no_scheduler() -> None:
    config = route(WorkQueue(discard="new")).stream_config()

    assert "allow_msg_schedules" not in config
    assert config["subjects"] == ["dramatiq.work.default.*"]


def test_consumer_without_any_limit_delivers_for_ever() -> None:
    assert route().consumer_config(None)["max_deliver"] == -1


def test_messages_of_our_own_queue_have_a_subject_for_each_actor() -> None:
    assert route().subject("resize") == "dramatiq.work.default.resize"
    assert route(IMAGES).subject("resize") == "IMAGES.blackandwhite"


@given(st.text(min_size=1), st.text())
def test_consumer_and_stream_hear_every_actor_of_the_queue(queue_name: str, actor_name: str) -> None:
    own = route(queue_name=queue_name)
    subject = own.subject(actor_name)

    assert covers(own.filter, subject)
    assert any(covers(pattern, subject) for pattern in own.stream_config()["subjects"])


def test_held_back_messages_are_stored_by_the_stream_and_unseen_by_the_consumer() -> None:
    own = route()
    delayed = Names().delayed_subject("default", "id", "nonce")

    assert any(covers(pattern, delayed) for pattern in own.stream_config()["subjects"])
    assert not covers(own.filter, delayed)


def test_queue_is_described_with_its_stream() -> None:
    assert route(IMAGES, "blackandwhite").describe() == "queue 'blackandwhite' (stream 'IMAGES')"


def test_nothing_but_what_was_set_is_demanded_of_somebody_elses_stream() -> None:
    plain = route(WorkQueue(stream="IMAGES", subject="IMAGES.bw", consumer="BW"))

    assert plain.stream_demands() == {"retention"}
    assert plain.consumer_demands() == {"filter_subject", "ack_policy"}
    assert route(IMAGES).stream_demands() == {"retention", "max_msg_size", "duplicate_window", "discard"}
    assert route(IMAGES).consumer_demands() == {"filter_subject", "ack_policy", "ack_wait", "max_deliver"}


def test_our_own_stream_is_held_to_what_the_broker_relies_on() -> None:
    assert {"subjects", "retention", "storage", "discard", "allow_msg_schedules"} <= route().stream_demands()
    assert {"max_deliver", "ack_wait", "max_ack_pending", "deliver_policy"} <= route().consumer_demands()


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (None, {}),
        (IMAGES, {"storage": "memory", "max_age": 60 * SECOND, "subjects": ["IMAGES.*"], "_nats.ver": "2.15"}),
    ],
)
def test_stream_that_fits_has_no_differences(settings: WorkQueue | None, changes: dict[str, Any]) -> None:
    mine = route(settings)
    expected = mine.stream_config()

    assert differences(expected, expected | changes, mine.stream_demands()) == []


FITS = [
    ("retention", "workqueue", "workqueue"),
    ("subjects", ["a.*"], ["a.*", "b"]),
    ("subjects", ["a.*", "b"], [">"]),
    ("max_msgs", 10, 11),
    ("max_msgs", 10, -1),
    ("max_msgs", -1, -1),
    ("max_bytes", 10, -1),
    ("max_msg_size", 512, 1024),
    ("max_msg_size", 512, -1),
    ("max_age", 60 * SECOND, 0),
    ("max_age", 0, 0),
    ("max_deliver", 5, 6),
    ("max_deliver", 5, -1),
    ("max_ack_pending", -1, -1),
    ("num_replicas", 1, 3),
    ("duplicate_window", 120 * SECOND, 3600 * SECOND),
    ("ack_wait", 30 * SECOND, 10 * SECOND),
    ("allow_msg_schedules", True, True),
]

UNFIT = [
    ("retention", "workqueue", "limits", "retention: expected 'workqueue', found 'limits'"),
    ("storage", "file", "memory", "storage: expected 'file', found 'memory'"),
    ("discard", "new", "old", "discard: expected 'new', found 'old'"),
    ("subjects", ["a.*"], ["a.b"], "subjects: expected ['a.*'], found ['a.b']"),
    ("subjects", ["a", "b"], ["a"], "subjects: expected ['a', 'b'], found ['a']"),
    ("subjects", ["a"], None, "subjects: expected ['a'], found None"),
    ("max_msgs", 10, 9, "max_msgs: expected 10, found 9"),
    ("max_msgs", -1, 10, "max_msgs: expected 'unlimited', found 10"),
    ("max_bytes", -1, 10, "max_bytes: expected 'unlimited', found 10"),
    ("max_msg_size", 1024, 512, "max_msg_size: expected 1024, found 512"),
    ("max_age", 0, 60 * SECOND, "max_age: expected 'unlimited', found '60s'"),
    ("max_deliver", 6, 5, "max_deliver: expected 6, found 5"),
    ("max_deliver", -1, 5, "max_deliver: expected 'unlimited', found 5"),
    ("max_ack_pending", -1, 1000, "max_ack_pending: expected 'unlimited', found 1000"),
    ("num_replicas", 3, 1, "num_replicas: expected 3, found 1"),
    ("duplicate_window", 3600 * SECOND, 120 * SECOND, "duplicate_window: expected '3600s', found '120s'"),
    ("duplicate_window", 2592000 * SECOND, SECOND // 10, "duplicate_window: expected '2592000s', found '0.1s'"),
    ("ack_wait", 30 * SECOND, 31 * SECOND, "ack_wait: expected '30s', found '31s'"),
    ("ack_policy", "explicit", "none", "ack_policy: expected 'explicit', found 'none'"),
    ("deliver_policy", "all", "new", "deliver_policy: expected 'all', found 'new'"),
    ("filter_subject", "a.b", None, "filter_subject: expected 'a.b', found None"),
    ("allow_msg_schedules", True, None, "allow_msg_schedules: expected True, found None"),
]


@pytest.mark.parametrize(("field", "expected", "found"), FITS)
def test_looser_setting_on_the_server_is_accepted(field: str, expected: object, found: object) -> None:
    assert differences({field: expected}, {field: found}, {field}) == []


@pytest.mark.parametrize(("field", "expected", "found", "text"), UNFIT)
def test_tighter_or_other_setting_on_the_server_is_found(
    field: str, expected: object, found: object, text: str
) -> None:
    assert [str(difference) for difference in differences({field: expected}, {field: found}, {field})] == [text]


def test_setting_that_is_not_demanded_may_differ() -> None:
    assert differences({"storage": "file"}, {"storage": "memory"}, set()) == []


def test_mismatch_lists_every_field_and_says_what_to_do() -> None:
    unfit = differences(
        {"retention": "workqueue", "max_msg_size": 512},
        {"retention": "limits", "max_msg_size": 100},
        {"retention", "max_msg_size"},
    )

    assert str(ConfigMismatch("the stream 'IMAGES'", unfit, "Change one.")) == (
        "the stream 'IMAGES' exists with other settings:\n"
        "  max_msg_size: expected 512, found 100\n"
        "  retention: expected 'workqueue', found 'limits'\n"
        "Change one."
    )


def test_workers_go_by_the_servers_limits() -> None:
    assert limits({"ack_wait": 30 * SECOND, "max_deliver": 5}) == Limits(ack_wait=30_000, max_deliver=5)
    assert limits({"ack_wait": 10 * SECOND, "max_deliver": -1}) == Limits(ack_wait=10_000, max_deliver=None)


def test_dead_letters_expire_one_by_one_and_are_not_doubled_within_a_day() -> None:
    config = dead_letter_config(Names(), replicas=3)

    assert config["name"] == "dramatiq-dead-letters"
    assert config["subjects"] == ["dramatiq.dead.*.*"]
    assert (config["retention"], config["num_replicas"], config["allow_msg_ttl"]) == ("limits", 3, True)
    assert config["duplicate_window"] == 86_400 * SECOND
    assert "max_msgs" not in config
    assert "max_age" not in config


def test_bucket_is_what_nats_clients_take_for_one() -> None:
    config = bucket_config("dramatiq-attempts", replicas=1)

    assert (config["name"], config["subjects"]) == ("KV_dramatiq-attempts", ["$KV.dramatiq-attempts.>"])
    assert (config["max_msgs_per_subject"], config["discard"]) == (1, "new")
    assert config["allow_rollup_hdrs"]
    assert config["deny_delete"]


# Which subjects a pattern covers, against trying every subject.

LITERALS = ("a", "b", "c")
DEPTH = 4
SUBJECTS = [subject for depth in range(1, DEPTH + 2) for subject in itertools.product(LITERALS, repeat=depth)]

#: No literal of them is "c", so that "c" stands for whatever else there is.
TOKENS = st.lists(st.sampled_from(["a", "b", "*"]), max_size=DEPTH - 1)
PATTERNS = st.builds(
    lambda tokens, rest: ".".join([*tokens, ">"] if rest or not tokens else tokens), TOKENS, st.booleans()
)


def matches(pattern: Iterable[str], subject: tuple[str, ...]) -> bool:
    tokens = list(pattern)
    if tokens[-1] == ">":
        return len(subject) >= len(tokens) and matches_each(tokens[:-1], subject)
    return len(subject) == len(tokens) and matches_each(tokens, subject)


def matches_each(tokens: list[str], subject: tuple[str, ...]) -> bool:
    return all(token in ("*", literal) for token, literal in zip(tokens, subject, strict=False))


@given(PATTERNS, PATTERNS)
@example(">", ">")
@example("a.>", "a")
@example("*.>", ">")
@example("a.*", "a.>")
@example("a.>", "a.*")
@example("*", "*")
def test_pattern_covers_another_if_it_matches_whatever_that_matches(wide: str, narrow: str) -> None:
    matched = [subject for subject in SUBJECTS if matches(narrow.split("."), subject)]

    assert covers(wide, narrow) == all(matches(wide.split("."), subject) for subject in matched)


@given(PATTERNS, st.sampled_from(SUBJECTS))
def test_pattern_covers_the_subjects_it_matches(pattern: str, subject: tuple[str, ...]) -> None:
    assert covers(pattern, ".".join(subject)) == matches(pattern.split("."), subject)
