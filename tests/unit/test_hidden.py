"""Hidden values, and texts out of which secrets are taken."""

from __future__ import annotations

import pytest

from dramatiq_jetstream.hidden import Hidden, redacted

SEED = "SUACS34K232OKPRDOMKC6QEWXWUDJTT6R6RZM2WPMURUS5Z3POU7BNIL4Y"
JWT = "eyJ0eXAiOiJKV1QifQ.eyJqdGkiOiJBIn0.c2lnbmF0dXJl-_"


def test_hidden_value_is_what_was_given_and_shows_nothing_of_it() -> None:
    hidden = Hidden({"password": "hunter2"}, "{…}")

    assert hidden.reveal() == {"password": "hunter2"}
    assert hidden == Hidden({"password": "hunter2"}) == {"password": "hunter2"}
    assert f"{hidden} {hidden!r} {[hidden]} {hash(hidden) == hash(Hidden(1, '{…}'))}" == "{…} {…} [{…}] True"
    assert (bool(hidden), bool(Hidden(""))) == (True, False)
    assert not hasattr(hidden, "__dict__")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the password hunter2 is wrong", "the password … is wrong"),
        ("at /a%2Fb%40c?x", "at /…?x"),
        ("at /a/b%40c?x", "at /…?x"),
        ("given: 'li\\nes'", "given: '…'"),
        (f"no such file: '{SEED}'", "no such file: '…'"),
        (f"'…\\n{SEED}\\n'", "'…\\n…\\n'"),
        (f"Bearer {JWT}, {JWT}", "Bearer …, …"),
        ("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nafter", "…\nafter"),
        ("-----BEGIN NATS USER JWT-----\ncut off", "…"),
        (
            "/etc/nats/app.creds: a, nats: 'Authorization Violation'",
            "/etc/nats/app.creds: a, nats: 'Authorization Violation'",
        ),
        (
            "KV_RESULTS_OF_SOMETHING_WITH_A_LONG_NAME_INDEED_IT_IS",
            "KV_RESULTS_OF_SOMETHING_WITH_A_LONG_NAME_INDEED_IT_IS",
        ),
    ],
)
def test_secrets_are_taken_out_of_a_text(text: str, expected: str) -> None:
    assert redacted(text, ["hunter2", "a/b@c", "li\nes", "a", ""]) == expected
