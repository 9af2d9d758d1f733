from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dramatiq_jetstream.settings import (
    DEAD_MESSAGE_TTL_VARIABLE,
    DEFAULT_DEAD_MESSAGE_TTL,
    DEFAULT_URL,
    BrokerSettings,
    WorkQueue,
)

BOUND: dict[str, Any] = {"stream": "IMAGES", "subject": "IMAGES.blackandwhite", "consumer": "BW"}


def test_ordinary_queue_is_our_own() -> None:
    queue = WorkQueue()

    assert not queue.bound
    assert not queue.plain_json
    assert not queue.keeps_dead_letters
    assert queue.allows_delays


def test_bound_queue_follows_the_walkthrough() -> None:
    queue = WorkQueue(**BOUND)

    assert queue.bound
    assert queue.plain_json
    assert queue.keeps_dead_letters
    assert not queue.allows_delays


def test_bound_queue_may_choose_our_ways() -> None:
    queue = WorkQueue(**BOUND, payload="dramatiq", dead_letters="move")

    assert not queue.plain_json
    assert not queue.keeps_dead_letters


def test_queue_that_refuses_messages_when_full_cannot_delay() -> None:
    assert not WorkQueue(discard="new", max_msgs=10).allows_delays


@pytest.mark.parametrize("missing", BOUND)
def test_binding_needs_stream_subject_and_consumer_together(missing: str) -> None:
    given = {name: value for name, value in BOUND.items() if name != missing}

    with pytest.raises(ValueError, match="stream, subject and consumer together"):
        WorkQueue(**given)


@pytest.mark.parametrize("options", [{"payload": "json"}, {"stream_subjects": ["a.>"]}, {"dead_letters": "keep"}])
def test_settings_of_bound_queues_are_refused_on_our_own(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need a bound stream"):
        WorkQueue(**options)


@pytest.mark.parametrize("options", [{"max_msgs": 10}, {"max_bytes": 10, "discard": "old"}])
def test_limited_queue_must_not_drop_messages_silently(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="add discard='new'"):
        WorkQueue(**options)


def test_limited_queue_of_somebody_else_may_drop_its_oldest() -> None:
    assert WorkQueue(**BOUND, max_msgs=10, discard="old").max_msgs == 10


@pytest.mark.parametrize("subject", ["IMAGES.*", "IMAGES.>", "*", ">"])
def test_subject_with_a_wildcard_cannot_be_published_to(subject: str) -> None:
    with pytest.raises(ValueError, match="must be a full subject: messages are published to it"):
        WorkQueue(**BOUND | {"subject": subject})


@pytest.mark.parametrize("subject", ["IMAGES.", ".bw", "a..b", "IMAGES.black white", "a\r\nPUB b 0", "a\tb"])
def test_malformed_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="is not a subject"):
        WorkQueue(**BOUND | {"subject": subject})
    with pytest.raises(ValueError, match="is not a subject"):
        WorkQueue(**BOUND, stream_subjects=[subject])


def test_asterisk_within_a_token_is_no_wildcard() -> None:
    assert WorkQueue(**BOUND | {"subject": "IMAGES.a*b"}).subject == "IMAGES.a*b"


@pytest.mark.parametrize("field", ["stream", "consumer"])
@pytest.mark.parametrize("name", ["a.b", "a b", "a*", ">", "a/b", "a\\b", "a\r\nb", "x" * 256])
def test_name_that_the_server_does_not_take_is_refused(field: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{field} .* must be a name without"):
        WorkQueue(**BOUND | {field: name})


def test_empty_names_do_not_bind_a_queue() -> None:
    with pytest.raises(ValueError, match="stream '' must be a name"):
        WorkQueue(stream="", subject="", consumer="")


def test_text_in_place_of_a_list_of_subjects_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a list of subjects, not the text 'IMAGES.>'"):
        WorkQueue(**BOUND, stream_subjects="IMAGES.>")


@pytest.mark.parametrize("field", ["max_deliver", "max_msg_size", "max_msgs", "max_bytes", "replicas"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "5", float("inf"), True])
def test_number_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must be a whole number, at least 1, not {value!r}"):
        WorkQueue(**{field: value}, discard="new")


def test_times_are_milliseconds_and_have_a_least_value() -> None:
    with pytest.raises(ValueError, match="ack_wait must be a whole number, at least 1000, not 30"):
        WorkQueue(ack_wait=30)
    with pytest.raises(ValueError, match="duplicate_window must be a whole number, at least 100, not 99"):
        WorkQueue(duplicate_window=99)


def test_number_of_any_length_is_compared() -> None:
    assert WorkQueue(max_deliver=10**400).max_deliver == 10**400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ack_wait", 10**14),
        ("duplicate_window", 10**400),
        ("max_msg_size", 2**31),
        ("max_msgs", 2**63),
        ("max_bytes", 10**400),
    ],
)
def test_number_that_the_server_cannot_read_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must be a whole number, at most "):
        WorkQueue(**{field: value}, discard="new")


@pytest.mark.parametrize(
    ("field", "value"),
    [("stream", 5), ("subject", ["a"]), ("consumer", b"c"), ("actor", 5), ("confirm_acks", "no")],
)
def test_setting_of_another_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must be "):
        WorkQueue(**BOUND | {field: value})


@pytest.mark.parametrize("field", ["payload", "discard", "dead_letters"])
def test_unknown_choice_is_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of '.*', '.*', not 'both'"):
        WorkQueue(**BOUND | {field: "both"})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WorkQueue().ack_wait = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("declare", None, "declare must not be None"),
        ("replicas", None, "replicas must not be None"),
        ("timeout", None, "timeout must not be None"),
        ("unknown_actor_grace", None, "unknown_actor_grace must not be None"),
        ("timeout", 1.5, "timeout must be a whole number, at least 1, not 1.5"),
        ("timeout", 10**400, "timeout must be a whole number, at most "),
        ("dead_message_ttl", 10**400, "dead_message_ttl must be a whole number, at most "),
        ("unknown_actor_grace", "5m", "unknown_actor_grace must be a whole number, at least 0, not '5m'"),
        ("domain", 5, "domain must be text, not 5"),
        ("url", 4222, "url 4222 names no server"),
        ("url", [4222], r"url \[4222\] names no server"),
        ("queues", {"slow": {"ack_wait": 60_000}}, r"queues\['slow'\] must be a WorkQueue, not "),
        ("declare", "always", "declare must be one of 'auto', 'never', not 'always'"),
        ("replicas", 0, "replicas must be a whole number, at least 1, not 0"),
        ("timeout", 0, "timeout must be a whole number, at least 1, not 0"),
        ("dead_message_ttl", -1, "dead_message_ttl must be a whole number, at least 0, not -1"),
        ("unknown_actor_grace", -1, "unknown_actor_grace must be a whole number, at least 0, not -1"),
    ],
)
def test_broker_refuses_settings_out_of_range(field: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BrokerSettings(**{field: value})


def test_queue_without_settings_of_its_own_is_an_ordinary_one() -> None:
    slow = WorkQueue(ack_wait=60_000)
    settings = BrokerSettings(queues={"slow": slow})

    assert settings.queue("slow") is slow
    assert settings.queue("default") == WorkQueue()


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://a:4222", ["nats://a:4222"]),
        ("nats://a:4222, nats://b:4222,", ["nats://a:4222", "nats://b:4222"]),
        (["nats://a:4222", " nats://b:4222 "], ["nats://a:4222", "nats://b:4222"]),
    ],
)
def test_servers_are_given_as_text_or_list(url: str | list[str], servers: list[str]) -> None:
    assert BrokerSettings(url=url).servers() == servers


@pytest.mark.parametrize("url", [None, "", []])
def test_without_url_the_environment_is_read_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, url: str | list[str] | None
) -> None:
    settings = BrokerSettings(url=url)

    monkeypatch.setenv("NATS_URL", "nats://a:4222,nats://b:4222")
    assert settings.servers() == ["nats://a:4222", "nats://b:4222"]

    monkeypatch.delenv("NATS_URL")
    assert settings.servers() == [DEFAULT_URL]


def test_dead_letters_are_kept_as_told_then_as_in_the_environment_then_seven_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(DEAD_MESSAGE_TTL_VARIABLE, raising=False)
    assert BrokerSettings().dead_letter_ttl() == DEFAULT_DEAD_MESSAGE_TTL == 7 * 24 * 3600 * 1000

    monkeypatch.setenv(DEAD_MESSAGE_TTL_VARIABLE, "60000")
    assert BrokerSettings().dead_letter_ttl() == 60_000
    assert BrokerSettings(dead_message_ttl=0).dead_letter_ttl() == 0


@pytest.mark.parametrize("value", ["", "7d", "-1", "1e9"])
def test_unreadable_time_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(DEAD_MESSAGE_TTL_VARIABLE, value)

    with pytest.raises(ValueError, match=f"{DEAD_MESSAGE_TTL_VARIABLE} in the environment must be milliseconds"):
        BrokerSettings().dead_letter_ttl()
