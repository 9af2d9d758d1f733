"""Advisories: on the subjects that the operator allows, and on no others."""

from __future__ import annotations

import pytest

from bw_tasks.advisories import allowed_subjects, check_advisory
from bw_tasks.errors import AdvisoryRefused, BadAdvisory, InvalidAdvisories


@pytest.mark.parametrize(
    ("allowed", "subjects"),
    [
        ("", ["advisory.a", "advisory.a.b", "advisory.5e91425fc89dac47f6d2e95d4cf6b74a"]),
        ("done.*", ["done.a"]),
        ("done.*, advisory.>", ["done.a", "advisory.a.b"]),
        ("advisory.> _INBOX.>", ["_INBOX.abc.1"]),
        ("done.*.pictures", ["done.a.pictures"]),
        ("*", ["anything"]),
        (">", ["orders.delete"]),
    ],
)
def test_subjects_that_are_allowed_are_taken(
    monkeypatch: pytest.MonkeyPatch, allowed: str, subjects: list[str]
) -> None:
    monkeypatch.setenv("ADVISORIES", allowed)

    for subject in [*subjects, "", None]:
        check_advisory(subject)


@pytest.mark.parametrize(
    ("allowed", "subject"),
    [
        ("", "orders.delete"),
        ("", "_INBOX.abc"),
        ("", "advisory"),
        ("", "advisoryx.a"),
        ("", "Advisory.a"),
        ("", "IMAGES.blackandwhite"),
        (">", "IMAGES.blackandwhite"),
        (">", "IMAGES.sepia.a"),
        ("done.*", "done.a.b"),
        ("done.*", "advisory.a"),
    ],
)
def test_other_subjects_are_refused_with_those_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: str, subject: str
) -> None:
    monkeypatch.setenv("ADVISORIES", allowed)

    with pytest.raises(AdvisoryRefused, match=r"not among the subjects that are allowed: .*ADVISORIES"):
        check_advisory(subject)


@pytest.mark.parametrize(
    "subject", ["$JS.API.STREAM.DELETE.IMAGES", "$SYS.a", ">", "a.*", "a..b", ".a", "a.", "a b", "a\r\nb", 5, ["a"]]
)
def test_what_is_no_subject_to_publish_to_is_refused_whatever_is_allowed(
    monkeypatch: pytest.MonkeyPatch, subject: object
) -> None:
    monkeypatch.setenv("ADVISORIES", "> $JS.>")

    with pytest.raises(BadAdvisory, match="is not a subject to publish to"):
        check_advisory(subject)


@pytest.mark.parametrize("allowed", ["a..b", ".", "advisory.>.a", "adv*", "a.>x", "advisory.> .a"])
def test_setting_that_holds_no_subjects_is_named(monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setenv("ADVISORIES", allowed)

    with pytest.raises(InvalidAdvisories, match=r"ADVISORIES has .* which is not a subject"):
        allowed_subjects()
