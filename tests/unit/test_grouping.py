"""Findings are put in order, and those of a kind become one."""

from __future__ import annotations

import pytest

from dramatiq_jetstream.admin import Finding, Probe, grouped


def test_worst_comes_first() -> None:
    levels = ("ok", "note", "problem", "warning", "ok")
    findings = [Finding(level, str(number), "x", f"text {number}") for number, level in enumerate(levels)]

    assert [finding.level for finding in grouped(findings)] == ["problem", "warning", "note", "ok", "ok"]


def test_the_same_of_many_is_one_with_some_of_their_names() -> None:
    findings = [Finding("ok", "queues", f"q{number}", "nothing is wrong") for number in range(12)]

    [one] = grouped(findings)

    assert one.subject == "q0, q1, q2, q3, q4 and 7 more"
    assert one.text == "nothing is wrong"


def test_amounts_are_added_and_advice_is_for_any_of_them() -> None:
    findings = [
        Finding("note", "dead letters", name, f"{count:,} dead letters", f"run 'dead list --queue {name}'")
        for name, count in (("a", 1), ("b", 2_000), ("c", 30))
    ]

    [one] = grouped(findings)

    assert (one.subject, one.text) == ("a, b, c", "2,031 dead letters")
    assert one.advice == "run 'dead list --queue NAME'"


def test_different_things_stay_apart() -> None:
    findings = [
        Finding("problem", "drift", "a", "ack_wait: declared '30s', on the server '90s'", "x"),
        Finding("problem", "drift", "b", "ack_wait: declared '30s', on the server '60s'", "x"),
        Finding("problem", "drift", "c", "max_deliver: declared 4, on the server 2", "x"),
    ]

    assert grouped(findings) == findings


def test_one_cause_that_several_checks_ran_into_is_told_once() -> None:
    findings = [Finding("problem", name, "server", "no permission", "grant it") for name in ("clock", "queues")]

    assert grouped(findings) == [Finding("problem", "clock, queues", "server", "no permission", "grant it")]


@pytest.mark.parametrize(
    ("subject", "pattern", "things"),
    [
        ("$JS.API.STREAM.INFO.IMAGES", "$JS.API.STREAM.INFO.*", "streams"),
        ("$JS.hub.API.STREAM.MSG.GET.x", "$JS.hub.API.STREAM.MSG.GET.*", "streams"),
        ("$JS.API.CONSUMER.INFO.IMAGES.BW", "$JS.API.CONSUMER.INFO.>", "consumers"),
        ("$JS.API.CONSUMER.MSG.NEXT.IMAGES.BW", "$JS.API.CONSUMER.MSG.NEXT.>", "consumers"),
        ("$JS.API.DIRECT.GET.KV_b.$KV.b.probe", "$JS.API.DIRECT.GET.>", "streams"),
        ("$JS.ACK.IMAGES.BW.1.0.0.0.0", "$JS.ACK.>", "queues"),
        ("$KV.attempts.probe", "$KV.>", "queues"),
        ("ours.work.default.probe", "ours.work.>", "queues"),
    ],
)
def test_subjects_of_a_kind_have_one_pattern(subject: str, pattern: str, things: str) -> None:
    probed = Probe("operator", subject, allowed=False, error="denied")

    assert (probed.pattern, probed.things) == (pattern, things)
