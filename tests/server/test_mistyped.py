"""What is mistyped does not pass for an empty answer: it is refused, with what there is instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.admin import view
from tests.support.admin import Admin
from tests.support.operated import Shell, fill, imported

#: Every command that takes a queue, without the queue: with what precedes and what follows it.
TAKING_A_QUEUE = {
    "peek": (("peek",), ()),
    "show": (("show",), ("1",)),
    "pause": (("pause",), ()),
    "resume": (("resume",), ()),
    "purge": (("purge",), ("--yes",)),
    "delayed list": (("delayed", "list"), ()),
    "delayed cancel": (("delayed", "cancel"), ("1",)),
    "delayed run-now": (("delayed", "run-now"), ("none",)),
    "dead list": (("dead", "list"), ()),
    "dead requeue": (("dead", "requeue"), ("--yes",)),
    "dead purge": (("dead", "purge"), ("--yes",)),
}


@pytest.fixture
def broker(nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> Iterator[JetStreamBroker]:
    with imported(namespace, nats_url, monkeypatch) as broker:
        yield broker


@pytest.fixture
def shell(namespace: str, broker: JetStreamBroker) -> Shell:
    fill(broker)
    return Shell(namespace)


@pytest.mark.parametrize("command", TAKING_A_QUEUE)
def test_queue_is_named_by_the_option_or_by_a_word(shell: Shell, command: str) -> None:
    before, after = TAKING_A_QUEUE[command]
    # No such message is there; the queue is.
    status = 1 if command in ("show", "delayed cancel", "delayed run-now") else 0

    by_option = shell.text(*before, "--queue", "default", *after, status=status)
    by_word = shell.text(*before, "default", *after, status=status)

    assert "there is no queue" not in by_option + by_word


@pytest.mark.parametrize("application", [False, True], ids=["the server", "the application"])
@pytest.mark.parametrize("command", TAKING_A_QUEUE)
def test_queue_that_does_not_exist_is_refused_with_those_there_are(
    shell: Shell, command: str, application: bool
) -> None:
    before, after = TAKING_A_QUEUE[command]
    run = shell.app if application else shell.text

    refused = run(*before, "--queue", "defualt", *after, status=2)

    assert "there is no queue 'defualt'; there is: default, " in refused
    assert "(did you mean 'default'?)" in refused


@pytest.mark.parametrize("command", ["peek", "pause", "resume", "purge"])
def test_command_on_one_queue_says_which_there_are_if_none_is_named(shell: Shell, command: str) -> None:
    assert "no queue is named: name one with --queue; there is: default, slow" in shell.text(command, status=2)
    assert "several queues are named" in shell.text(command, "default", "--queue", "slow", status=2)


def test_queue_of_dead_letters_is_known_without_the_application(shell: Shell) -> None:
    assert "not an image" in shell.text("dead", "list", "--queue", "images")
    assert "not an image" in shell.text("dead", "list", "images")


def test_actor_that_does_not_exist_is_refused(shell: Shell) -> None:
    declared = shell.app("dead", "list", "--actor", "great", status=2)
    dead = shell.text("dead", "list", "--actor", "great", status=1)

    assert "there is no actor 'great'; there is: greet, later, to_blackandwhite (did you mean 'greet'?)" in declared
    assert "there is: greet, to_blackandwhite (did you mean 'greet'?), of those that have dead letters" in dead
    assert "There are no such dead letters." in shell.app("dead", "list", "--actor", "later")


@pytest.mark.parametrize("command", ["list", "requeue", "purge"])
@pytest.mark.parametrize("numbers", [("999",), ("1", "999"), ("0",), ("9" * 30,)], ids=" ".join)
def test_dead_letter_that_does_not_exist_is_named_and_nothing_is_done(
    shell: Shell, broker: JetStreamBroker, command: str, numbers: tuple[str, ...]
) -> None:
    more = () if command == "list" else ("--yes",)

    refused = shell.text("dead", command, *numbers, *more, status=1)

    assert f"there is no dead letter {numbers[-1][:21]}" in refused
    assert view(broker, "default").dead == 1


@pytest.mark.parametrize(
    "words",
    [
        ("dead", "list"),
        ("dead", "requeue", "--all", "--yes"),
        ("dead", "purge", "1", "--yes"),
        ("delayed", "list"),
        ("delayed", "cancel", "some-id"),
        ("delayed", "run-now", "some-id"),
        ("peek", "--queue", "default"),
        ("show", "some-id"),
    ],
    ids=" ".join,
)
def test_namespace_with_nothing_in_it_is_told_with_those_there_are(
    shell: Shell, namespace: str, words: tuple[str, ...]
) -> None:
    mistyped = f"{namespace}x"

    refused = shell.run(*words, "--namespace", mistyped, status=1).output

    assert f"the server has nothing of the namespace '{mistyped}'; there is: " in refused
    assert f"(did you mean '{namespace}'?)" in refused


def test_overviews_of_a_mistyped_namespace_name_those_there_are(shell: Shell, namespace: str) -> None:
    mistyped = f"{namespace}x"

    assert f"(did you mean '{namespace}'?)" in shell.run("queues", "--namespace", mistyped).output
    assert "the server has nothing of the namespace" in shell.run("doctor", "--namespace", mistyped, status=1).output


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def broken(:", "SyntaxError"),
        ("raise ValueError('no setting')", "ValueError: no setting"),
        ("import sys\nsys.exit('usage: app')", "SystemExit: usage: app"),
        ("import no_such_module_here", "No module named 'no_such_module_here'"),
        ("1 / 0", "line 1"),
    ],
)
def test_application_that_cannot_be_imported_is_a_sentence(
    tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    name = f"broken_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NATS_URL", nats_url)

    output = Shell("none").run("queues", "--app", name, status=2).output

    assert f"'{name}' cannot be imported: " in output
    assert said in output
    assert "Traceback" not in output


@pytest.mark.parametrize("app", ["./app.py", "folder/app", "no_such_app", "json:nothing", ":broker", "..app"])
def test_application_that_does_not_exist_is_refused(app: str) -> None:
    output = Shell("none").run("queues", "--app", app, status=2).output

    assert repr(app.partition(":")[0])[1:-1] in output
    assert "Traceback" not in output


def test_what_the_server_alone_cannot_tell_is_said(shell: Shell) -> None:
    told = "1 dead letter of queue 'images', in no stream of ours"

    assert f"Not shown: {told}: use --app." in shell.text("queues", "--interval", "0s")
    assert f"Not shown: {told}: use --app." in shell.text("show", "no-such-id", status=1)
    assert told in shell.text("doctor")
    assert told not in shell.app("queues", "--interval", "0s")


def test_bound_queue_without_dead_letters_is_said_to_be_missing(shell: Shell) -> None:
    shell.app("dead", "purge", "--all", "--yes")

    assert "Not shown: queue 'images' is in a stream of somebody else: use --app." in shell.text("queues")


def test_remarks_are_not_among_the_records(shell: Shell, namespace: str) -> None:
    records = shell.records("queues", "--interval", "0s", "--namespace", namespace)

    assert [record["queue"] for record in records] == ["default", "slow"]
