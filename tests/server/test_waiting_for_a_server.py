"""No server: what is waited for is said after a moment, and the error comes at the end; nothing secret is in either."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dramatiq_jetstream import JetStreamBroker, admin
from dramatiq_jetstream.cli import main
from tests.support.operated import APP

#: Nothing listens there.
NOWHERE = "nats://127.0.0.1:1"
SECRET = "a-secret-word"


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args, prog_name="dramatiq-jetstream")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it said soon what is waited for."""
    monkeypatch.setattr("dramatiq_jetstream.admin.waiting.PATIENCE", 0.05)


@pytest.mark.parametrize(
    "words",
    [
        ("queues",),
        ("peek", "--queue", "default"),
        ("show", "some-id"),
        ("dead", "list"),
        ("dead", "requeue", "--all", "--yes"),
        ("delayed", "list"),
        ("pause", "default"),
        ("events",),
        ("doctor",),
        ("queues", "--app", APP),
        ("setup", APP),
        ("enqueue", APP, "later"),
    ],
    ids=" ".join,
)
def test_every_command_says_what_it_waits_for_and_then_what_failed(words: tuple[str, ...]) -> None:
    url = NOWHERE.replace("nats://", f"nats://ann:{SECRET}@")

    result = run(*words, "--url", url, "--timeout", "1s")

    assert result.exit_code == 3
    assert re.match(rf"No answer from {NOWHERE} yet; waiting until \d\d:\d\d:\d\d\.\nError: ", result.stderr)
    assert result.stdout == ""
    assert SECRET not in result.output


def test_server_that_answers_is_not_waited_for(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_jetstream.admin.waiting.PATIENCE", 60.0)

    assert "waiting until" not in run("queues", "--url", nats_url).output


def test_commands_for_no_server_wait_for_none() -> None:
    assert "waiting until" not in run("setup", APP, "--print", "nats", "--url", NOWHERE).output


def test_watch_that_ends_says_nothing(nats_url: str) -> None:
    said: list[str] = []
    broker = JetStreamBroker(nats_url)
    with admin.announced(broker, said.append, patience=60):
        broker.connection.session()
    broker.close()

    assert said == []


CONTEXTS = {
    "a list": (b"[]", "it is no JSON object"),
    "not UTF-8": (b"\xff\xfe{}", "utf-8"),
    "not JSON": (b"{", "cannot be read"),
    "nested too deep": (b"[" * 200_000, "cannot be read"),
    "a URL that is a number": (b'{"url": 7}', "its field 'url' is no text"),
    "a URL that is a list": (b'{"url": ["nats://x"]}', "its field 'url' is no text"),
    "a password that is an object": (b'{"password": {"x": 1}}', "its field 'password' is no text"),
    "a URL that is none": (b'{"url": "http://127.0.0.1"}', "http"),
    "an authority that is missing": (b'{"ca": "/no/such/file"}', "names no file"),
    "an authority that is no path": (b'{"ca": "a\\u0000b"}', "names no file"),
    "credentials that are missing": (b'{"creds": "/no/such/file"}', "its field 'creds' names no file"),
    "a seed that is missing": (b'{"nkey": "/no/such/file"}', "its field 'nkey' names no file"),
}


@pytest.mark.parametrize("kind", CONTEXTS)
def test_context_that_makes_no_sense_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nats_url: str, kind: str
) -> None:
    content, said = CONTEXTS[kind]
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    (folder / "ours.json").write_bytes(content)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("NATS_URL", nats_url)

    result = run("queues", "--context", "ours")

    assert result.exit_code in (2, 3)
    assert isinstance(result.exception, SystemExit)
    assert said in result.output


@pytest.mark.parametrize("name", ["folder", "../outside", "none", "a\0b", "x" * 300])
def test_context_that_is_no_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "nats" / "context" / "folder.json").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    result = run("queues", "--context", name)

    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
