"""The command line without a server: what it understands, what it says, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dramatiq_jetstream.admin import DeadFilter, read_event
from dramatiq_jetstream.cli import main
from dramatiq_jetstream.cli.output import age, arguments, body_fields, cut
from dramatiq_jetstream.cli.terminal import printable
from dramatiq_jetstream.cli.values import ASSIGNMENT, DURATION, JSON
from dramatiq_jetstream.dead_letters import DeadLetter
from dramatiq_jetstream.names import Names

NOWHERE = "nats://127.0.0.1:1"


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args, prog_name="dramatiq-jetstream")


def commands(group: click.Group = main, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from commands(found, (*above, name))
        else:
            yield (*above, name)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_of_every_command_has_examples(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")

    assert result.exit_code == 0
    assert f"dramatiq-jetstream {' '.join(command)}" in result.output.partition("Examples:")[2]


def test_version_is_the_packages() -> None:
    assert run("--version").output.startswith("dramatiq-jetstream, version ")


@pytest.mark.parametrize(
    "args",
    [
        ("queues", "--nothing"),
        ("queues", "--interval", "soon"),
        ("pause", "default", "--for", "10"),
        ("pause", "default", "--for", "9" * 400 + "d"),
        ("queues", "--interval", "99999999d"),
        ("enqueue", "app", "actor", "[" * 100_000),
        ("enqueue", "app", "actor", "[" + "1" * 5_000 + "]"),
        ("enqueue", "app", "actor", "{"),
        ("enqueue", "app", "actor", "7"),
        ("enqueue", "app", "actor", "[]", "--option", "nameless"),
        ("enqueue", "no_such_module", "actor"),
        ("enqueue", "json:nothing", "actor"),
        ("enqueue", "json", "actor"),
        ("queues", "--app", "json", "--namespace", "x"),
        ("dead", "requeue"),
        ("dead", "requeue", "1", "--all"),
        ("dead", "show", "first"),
        ("setup", "json", "--check", "--dry-run"),
        ("queues", "--context", "no-such-context"),
        ("queues", "--timeout", "0s", "--namespace", ""),
        ("queues", "--url", ","),
        ("completion", "cmd"),
    ],
    ids=" ".join,
)
def test_what_is_not_understood_ends_with_2_and_a_sentence(args: tuple[str, ...]) -> None:
    result = run(*args)

    assert result.exit_code == 2
    assert "Error: " in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "args", [("queues",), ("dead", "list"), ("show", "some-id"), ("doctor",), ("events", "--for", "1s")], ids=" ".join
)
def test_server_that_does_not_answer_ends_with_3_and_says_what_to_do(args: tuple[str, ...]) -> None:
    result = run(*args, "--url", NOWHERE, "--timeout", "500ms")

    assert result.exit_code == 3
    assert f"no NATS server answers at {NOWHERE}" in result.output
    assert "is it running" in result.output


def test_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", NOWHERE)

    assert NOWHERE in run("queues", "--timeout", "500ms").output


def test_context_of_the_nats_tool_says_where_to_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    (folder / "ours.json").write_text(json.dumps({"url": NOWHERE, "user": "ann", "password": "secret", "ca": ""}))

    result = run("queues", "--context", "ours", "--timeout", "500ms")
    missing = run("queues", "--context", "theirs")

    assert result.exit_code == 3
    assert NOWHERE in result.output
    assert missing.exit_code == 2
    assert "there is no NATS context 'theirs'" in missing.output
    assert missing.output.rstrip().endswith("there is: ours")


def test_broken_tls_files_are_a_matter_of_usage(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("nothing")

    result = run("queues", "--url", NOWHERE, "--tls-ca", str(authority))

    assert result.exit_code == 2
    assert "the TLS files do not work" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str) -> None:
    result = run("completion", shell)

    assert result.exit_code == 0
    assert "_DRAMATIQ_JETSTREAM_COMPLETE" in result.output


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "_DRAMATIQ_JETSTREAM_COMPLETE": "bash_complete",
        "COMP_WORDS": "dramatiq-jetstream dead r",
        "COMP_CWORD": "2",
    }

    result = CliRunner().invoke(main, [], prog_name="dramatiq-jetstream", env=environment)

    assert result.output.strip() == "plain,requeue"


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("10m", 600_000), ("250ms", 250), ("1h30m", 5_400_000), ("0.5s", 500), ("2d", 172_800_000), ("1w", 604_800_000)],
)
def test_durations_are_milliseconds(text: str, milliseconds: int) -> None:
    assert DURATION.convert(text, None, None) == milliseconds


@pytest.mark.parametrize("text", ["", "10", "m", "10 minutes", "-1s", "1h-2m"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration"):
        DURATION.convert(text, None, None)


def test_option_values_are_json_or_text() -> None:
    assert ASSIGNMENT.convert("max_retries=3", None, None) == ("max_retries", 3)
    assert ASSIGNMENT.convert("note=a=b", None, None) == ("note", "a=b")
    assert JSON.convert('{"a": [1]}', None, None) == {"a": [1]}


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(None, "-"), (0, "0ms"), (999, "999ms"), (61_000, "1m 1s"), (3_600_000, "1h"), (90_000_000, "1d 1h")],
)
def test_ages_have_two_units_at_most(milliseconds: int | None, text: str) -> None:
    assert age(milliseconds) == text


def test_messages_cannot_command_the_terminal() -> None:
    assert printable("\x1b[31mred\x1b[0m\r\x07") == "\\x1b[31mred\\x1b[0m\\r\\x07"
    assert printable("[bold]ü\n") == "[bold]ü\n"
    assert cut("a\nb  c", 4) == "a b…"


def test_arguments_read_as_a_call() -> None:
    assert arguments(("a", 1, None), {"b": [1.5, {"c": True}]}) == '"a", 1, null, b=[1.5, {"c": true}]'


def test_body_that_is_no_text_is_shown_in_base64() -> None:
    assert body_fields(b"\xff\x00") == {"body": None, "body_base64": "/wA="}
    assert body_fields(b"{}") == {"body": "{}", "body_base64": None}


@pytest.mark.parametrize("name", ["default", "a.b c", "ü=_", "KV", "x" * 90])
def test_queue_is_known_by_its_stream(name: str) -> None:
    names = Names("some_app")

    assert names.queue_name(names.stream(name)) == name


@pytest.mark.parametrize(
    "stream",
    ["dramatiq-dead-letters", "KV_dramatiq-attempts", "other_default", "dramatiq_", "dramatiq_=FF", "dramatiq_=E8=AA"],
)
def test_other_streams_are_no_queues(stream: str) -> None:
    assert Names().queue_name(stream) is None


def test_name_that_was_cut_is_not_guessed() -> None:
    assert Names().queue_name(Names().stream("x" * 300)) is None


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (DeadFilter(), True),
        (DeadFilter(queue="default", actor="greet", reason="EXHAUSTED"), True),
        (DeadFilter(queue="other"), False),
        (DeadFilter(actor="other"), False),
        (DeadFilter(reason="undecodable"), False),
        (DeadFilter(older_than=500), True),
        (DeadFilter(older_than=5_000), False),
        (DeadFilter(younger_than=5_000), True),
        (DeadFilter(younger_than=500), False),
        (DeadFilter(text="NO ROUTE"), True),
        (DeadFilter(text='"hello"'), True),
        (DeadFilter(text="goodbye"), False),
    ],
)
def test_filters_choose_dead_letters(chosen: DeadFilter, expected: bool) -> None:
    letter = DeadLetter(
        number=1,
        queue_name="default",
        actor_name="greet",
        message_id="1",
        reason="retries exhausted",
        exception="builtins.OSError",
        exception_text="no route",
        traceback=None,
        attempts=3,
        enqueued_at=0,
        failed_at=9_000,
        worker="host 1",
        stream="dramatiq_default",
        sequence=1,
        kept=False,
        body=b'["hello"]',
        headers={},
    )

    assert chosen.matches(letter, 10_000) is expected


def test_advisory_is_read_as_an_event() -> None:
    body = {
        "type": "io.nats.jetstream.advisory.v1.max_deliver",
        "timestamp": "2020-07-22T13:21:08.5Z",
        "stream": "IMAGES",
        "consumer": "BW",
        "stream_seq": 121,
        "deliveries": 5,
    }
    subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.IMAGES.BW"

    event = read_event(subject, json.dumps(body).encode(), {"IMAGES": "blackandwhite"})

    assert event is not None
    assert (event.kind, event.queue, event.sequence) == ("delivery attempts exceeded", "blackandwhite", 121)
    assert event.at == 1_595_424_068_500
    for strange in (b"", b"[]", b"{}", b'{"stream": "x", "timestamp": 7}'):
        assert read_event(subject, strange, {}) is None
    assert read_event("$JS.EVENT.ADVISORY.API", b"{}", {}) is None
