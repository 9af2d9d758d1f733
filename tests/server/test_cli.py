"""Every command, on a real server with real messages in every state, in a terminal and out of one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pexpect
import pytest

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.admin import pause, peek, purge, resume, view
from dramatiq_jetstream.client.publisher import Outcome, Receipt
from dramatiq_jetstream.dead_letters.letter import ATTEMPTS, FAILED, QUEUE, REASON, SEQUENCE, STREAM
from dramatiq_jetstream.wire import ACTOR, MSG_ID, Publication
from tests.support.admin import Admin
from tests.support.operated import APP, Shell, fill, imported
from tests.support.waiting import eventually
from tests.support.workers import run_worker

ROOT = Path(__file__).parents[2]
DOCUMENTATION = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
COMMAND = [sys.executable, "-m", "dramatiq_jetstream"]

#: How many dead letters there are when there are many.
MANY = 100_000

#: Runs a command, and says on stderr how many kilobytes it ever used.
MEASURED = """
import pathlib, re, resource, sys
from dramatiq_jetstream.cli import main
try:
    main(sys.argv[1:])
finally:
    status = pathlib.Path("/proc/self/status")
    used = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) if status.exists() else (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print("kilobytes", used, file=sys.stderr)
"""


@pytest.fixture
def broker(nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> Iterator[JetStreamBroker]:
    with imported(namespace, nats_url, monkeypatch) as broker:
        yield broker


@pytest.fixture
def shell(namespace: str, broker: JetStreamBroker) -> Shell:
    return Shell(namespace)


@pytest.fixture
def ids(broker: JetStreamBroker) -> dict[str, str]:
    """Messages in every state, by their states."""
    return fill(broker)


@pytest.fixture
def environment(nats_url: str, namespace: str) -> dict[str, str]:
    # What a shell says of its own terminal is not true of the tests'.
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return {**inherited, "NATS_URL": nats_url, "OPERATED_NAMESPACE": namespace, "TERM": "xterm-256color"}


def documented(command: str) -> set[str]:
    """The keys that docs/cli.md promises for a command."""
    headings = (heading for heading in DOCUMENTATION.split("\n## ") if f"`{command}`" in heading.splitlines()[0])
    promise = re.search(r"Keys with `--json`: (.*?)[.;]", next(headings), re.DOTALL)
    assert promise is not None
    return set(re.findall(r"`(\w+)`", promise[1]))


def terminal(environment: dict[str, str], *args: str) -> pexpect.spawn[str]:
    """A command in a real terminal."""
    command, *rest = [*COMMAND, *args]
    return pexpect.spawn(
        command, rest, env=environment, cwd=str(ROOT), dimensions=(40, 160), encoding="utf-8", timeout=20
    )


def screen(text: str | None) -> str:
    """What a terminal shows, without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text or "").replace("\r", "")


def test_setup_makes_what_is_missing_and_then_finds_nothing_to_do(shell: Shell, admin: Admin) -> None:
    before = admin.streams()

    shell.run("setup", APP, "--check", status=1)
    assert "missing" in shell.run("setup", APP, "--dry-run").output
    assert admin.streams() == before
    made = shell.records("setup", APP)
    fits = shell.records("setup", APP, "--check")

    assert {record["state"] for record in made} == {"made"}
    assert {record["state"] for record in fits} == {"fits"}
    assert all(record.keys() == documented("setup") for record in [*made, *fits])
    assert f"KV_{shell.namespace}-results" in admin.streams()


def test_drift_is_shown_and_changed_only_when_asked(shell: Shell, broker: JetStreamBroker, admin: Admin) -> None:
    broker.setup()
    list(shell.records("setup", APP))
    route = broker.queue("slow").route
    config = {**admin.consumer(route.stream, route.consumer)["config"], "ack_wait": 90_000_000_000}
    path = f"{route.stream}.{route.consumer}.{route.filter}"
    admin.api(f"CONSUMER.CREATE.{path}", {"stream_name": route.stream, "config": config, "action": "update"})

    checked = shell.run("setup", APP, "--check", status=1).output
    shell.run("setup", APP, status=1)
    [differing] = [record for record in shell.records("setup", APP, "--check", status=1) if record["differences"]]
    refused = shell.run("setup", APP, "--apply-updates", status=2).output
    changed = shell.run("setup", APP, "--apply-updates", "--yes").output

    assert "ack_wait: declared '30s', on the server '90s'" in checked
    assert differing["differences"] == [{"field": "ack_wait", "expected": "30s", "found": "90s"}]
    assert "add --yes" in refused
    assert "changed" in changed
    assert admin.consumer(route.stream, route.consumer)["config"]["ack_wait"] == 30_000_000_000


def test_commands_of_the_nats_tool_are_printed_without_a_server(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")

    printed = shell.run("setup", APP, "--print", "nats").output

    assert f"nats stream add {shell.namespace}_default" in printed
    assert f"nats consumer add IMAGES-{shell.namespace} BW" in printed
    assert "--max-deliver=2" in printed
    assert "--wait=30s" in printed
    assert "--allow-schedules" in printed


def test_enqueued_message_arrives_with_its_arguments_and_options(shell: Shell, broker: JetStreamBroker) -> None:
    [record] = shell.records("enqueue", APP, "greet", '{"name": "ann"}', "--option", "max_retries=0", "--delay", "1h")
    shell.run("enqueue", APP, "greet", '["bob", "?"]')
    unknown = shell.run("enqueue", APP, "nobody", status=2).output

    now, later = peek(broker, "default")
    assert record.keys() == documented("enqueue")
    assert (now.args, now.kwargs) == (("bob", "?"), {})
    assert (later.kwargs, later.options["max_retries"], later.message_id) == ({"name": "ann"}, 0, record["message_id"])
    assert "there is: greet, later, to_blackandwhite" in unknown


def test_queues_have_a_row_each_and_a_sum(shell: Shell, ids: dict[str, str]) -> None:
    rows = {line.split()[0]: line.split() for line in shell.app("queues").splitlines()}
    server_only = shell.text("queues", "--interval", "0s")

    assert rows["default"][1:8] == ["1", "0", "0", "0", "0", "1", "0"]
    assert rows["slow"][1:7] == ["0", "0", "1", "1", "0", "0"]
    assert rows["images"][5:7] == ["1", "1"]
    assert rows["all"][1:7] == ["1", "0", "1", "1", "1", "2"]
    assert not re.search("^images", server_only, re.MULTILINE)
    assert "Not shown: 1 dead letter of queue 'images', in no stream of ours: use --app." in server_only
    records = shell.records("queues", "--app", APP)
    assert all(record.keys() == documented("queues") for record in records)
    assert all(record["rate_in"] is not None for record in records)


def test_namespace_without_queues_says_so(shell: Shell) -> None:
    assert "There are no queues in the namespace" in shell.text("queues")


def test_unknown_queue_is_told_with_those_there_are(shell: Shell, ids: dict[str, str]) -> None:
    assert "there is: default, slow" in shell.text("peek", "another", status=2)
    assert "there is: default, images, slow" in shell.app("peek", "another", status=2)


def test_peek_shows_calls_and_states(shell: Shell, ids: dict[str, str]) -> None:
    assert 'greet("world", punctuation="?")' in shell.text("peek", "default")
    slow = shell.text("peek", "slow")
    assert re.search(r"held .* later\(\"now\"\)", slow)
    assert re.search(r"delayed .* later\(1, \{\"x\": \[1, 2\]\}\)", slow)
    assert re.search(r"exhausted .* to_blackandwhite\(id=\"broken\"", shell.app("peek", "images"))
    assert all(record.keys() == documented("peek") for record in shell.records("peek", "images", "--app", APP))


def test_show_finds_a_message_wherever_it_is(shell: Shell, ids: dict[str, str]) -> None:
    assert "state    ready" in shell.text("show", ids["ready"])
    assert "state    delayed" in shell.text("show", ids["delayed"])
    assert "reason       retries exhausted" in shell.text("show", ids["dead"])
    assert "state    held" in shell.text("show", ids["retrying"])
    assert "(where it still is)" in shell.app("show", ids["kept"])
    assert "call     later" in shell.text("show", "slow", "1")
    assert "there is no message" in shell.text("show", "no-such-id", status=1)
    [record] = shell.records("show", ids["dead"], "--namespace", shell.namespace)
    assert record.keys() == documented("dead list")
    [record] = shell.records("show", ids["retrying"], "--namespace", shell.namespace)
    assert record.keys() == documented("peek") | {"attempts", "max_attempts", "exception", "next_try"}


def test_dead_letters_are_listed_by_filters(shell: Shell, ids: dict[str, str]) -> None:
    listed = shell.text("dead", "list")
    assert "there is nobody to greet!" in listed
    assert "retries exhausted (kept)" in listed
    assert "not an image" not in shell.text("dead", "list", "--queue", "default")
    assert "There are more than these 1" in shell.text("dead", "list", "--limit", "1")
    for chosen in (("--actor", "greet"), ("--text", "NOBODY"), ("--reason", "exhausted"), ("--younger-than", "1h")):
        assert "greet" in shell.text("dead", "list", *chosen)
    assert "There are no such dead letters." in shell.text("dead", "list", "--older-than", "1h")
    records = shell.records("dead", "list", "--namespace", shell.namespace)
    assert all(record.keys() == documented("dead list") for record in records)


def test_dead_letter_is_shown_with_its_traceback(shell: Shell, ids: dict[str, str]) -> None:
    [record] = shell.records("dead", "list", "--actor", "greet", "--namespace", shell.namespace)

    shown = shell.text("dead", "show", str(record["number"]))

    assert "Traceback (most recent call last)" in shown
    assert "ValueError: there is nobody to greet!" in shown
    assert "there is no dead letter 999" in shell.text("dead", "show", "999", status=1)


def test_dead_letters_are_requeued_those_of_others_with_the_application(shell: Shell, ids: dict[str, str]) -> None:
    partly = shell.text("dead", "requeue", "--all", "--yes", status=1)
    fully = shell.records("dead", "requeue", "--all", "--yes", "--app", APP)

    assert "Requeued 1 of 2." in partly
    assert "name the application" in partly
    assert fully == [{"requeued": 1, "failed": 0, "errors": []}]
    assert fully[0].keys() == documented("dead requeue")
    assert "There are no such dead letters." in shell.text("dead", "requeue", "--all", "--yes")
    rows = {line.split()[0]: line.split() for line in shell.app("queues", "--interval", "0s").splitlines()}
    assert (rows["default"][1], rows["images"][1]) == ("2", "1")


def test_nothing_is_dropped_without_a_yes(shell: Shell, ids: dict[str, str]) -> None:
    for command in (("dead", "requeue", "--all"), ("dead", "purge", "--all"), ("purge", "default")):
        assert "add --yes if that is meant" in shell.text(*command, status=2)
    assert shell.records("dead", "purge", "--all", "--yes", "--namespace", shell.namespace) == [{"purged": 2}]
    [record] = shell.records("purge", "slow", "--yes", "--namespace", shell.namespace)
    assert record == {"queue": "slow", "purged": 2}
    assert record.keys() == documented("purge")
    assert "Queue 'slow' is empty." in shell.text("peek", "slow")


def test_delayed_messages_are_listed_cancelled_and_run(
    shell: Shell, ids: dict[str, str], broker: JetStreamBroker
) -> None:
    other = broker.actors["greet"].send_with_options(args=("soon",), delay=600_000)
    listed = shell.text("delayed", "list")
    records = shell.records("delayed", "list", "slow", "--namespace", shell.namespace)
    done = shell.records("delayed", "run-now", other.message_id, "--namespace", shell.namespace)

    assert ids["delayed"] in listed
    assert other.message_id in listed
    assert [record["message_id"] for record in records] == [ids["delayed"]]
    assert all(record.keys() == documented("delayed list") for record in records)
    assert all(record.keys() == documented("delayed run-now") for record in done)
    eventually(lambda: view(broker, "default").ready == 2)
    assert "is cancelled" in shell.text("delayed", "cancel", ids["delayed"])
    assert "is not held back" in shell.text("delayed", "cancel", ids["delayed"], status=1)
    assert "Nothing is delayed." in shell.text("delayed", "list")


def test_queue_is_paused_and_resumed(shell: Shell, ids: dict[str, str]) -> None:
    assert "is paused, 9m 59s left" in shell.text("pause", "default", "--for", "10m")
    assert "is paused." in shell.text("pause", "default")
    assert "paused" in shell.text("queues", "--interval", "0s")
    [record] = shell.records("resume", "default", "--namespace", shell.namespace)
    assert record == {"queue": "default", "paused": False, "paused_for": None}
    assert record.keys() == documented("pause")


def test_events_are_readable_lines(
    environment: dict[str, str], ids: dict[str, str], broker: JetStreamBroker, namespace: str
) -> None:
    live = terminal(environment, "events", "--namespace", namespace)
    live.expect("Listening for advisories")
    pause(broker, "default", 60_000)
    live.expect(rf"Consumer paused: {namespace}_default > {namespace}, until ")
    resume(broker, "default")
    live.expect("Consumer resumed")
    live.sendintr()
    live.expect(pexpect.EOF)
    live.close()

    assert live.exitstatus == 0


def test_event_tells_of_exceeded_attempts(environment: dict[str, str], broker: JetStreamBroker, namespace: str) -> None:
    broker.setup()
    live = terminal(environment, "events", "--app", APP)
    live.expect("Listening for advisories")

    broker.actors["to_blackandwhite"].send(id="broken", image="x")
    with run_worker(broker):
        live.expect(rf"Delivery attempts exceeded: IMAGES-{namespace} > BW, message 1, 2 deliveries")
    live.close()


def test_events_end_after_a_count_or_a_time(shell: Shell, environment: dict[str, str], broker: JetStreamBroker) -> None:
    broker.setup()
    command = [*COMMAND, "events", "--namespace", shell.namespace, "--count", "2", "--json"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        pause(broker, "default", 60_000)
        resume(broker, "default")
        records = [json.loads(line) for line in process.communicate(timeout=20)[0].splitlines()]

    assert [record["kind"] for record in records] == ["consumer paused", "consumer resumed"]
    assert all(record.keys() == documented("events") for record in records)
    assert shell.records("events", "--namespace", shell.namespace, "--for", "10ms") == []


def test_doctor_ends_with_1_if_something_is_wrong(shell: Shell, ids: dict[str, str], broker: JetStreamBroker) -> None:
    shell.run("setup", APP)
    worried = shell.app("doctor", status=1)
    records = shell.records("doctor", "--namespace", shell.namespace, "--role", "worker", "--role", "producer")

    assert "out of attempts" in worried
    assert "What to do:" in worried
    assert "fit what is declared" in worried
    assert all(record.keys() == documented("doctor") for record in records)
    assert not [record for record in records if record["level"] in ("warning", "problem")]


def test_server_runs_until_it_is_interrupted(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [*COMMAND, "server", "--port", "0", "--store", str(tmp_path / "data"), "--log", str(tmp_path / "log")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = re.findall(r"nats://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        listed = subprocess.run([*COMMAND, "queues", "--url", url], env=environment, capture_output=True, text=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert listed.returncode == 0
    assert "There are no queues" in listed.stdout
    assert (tmp_path / "data").is_dir()
    assert (tmp_path / "log").read_text()


def test_server_on_a_busy_port_says_so(shell: Shell, nats_url: str) -> None:
    port = nats_url.rpartition(":")[2]

    output = shell.run("server", "--port", port, status=1).output

    assert "address already in use" in output
    assert output.startswith(f"Error: port {port} of 127.0.0.1 is taken")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("option", ["--store", "--log"])
def test_server_in_an_impossible_place_is_a_sentence(shell: Shell, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "deeper")

    output = shell.run("server", "--port", "0", option, place, status=1).output
    empty = shell.run("server", "--port", "0", option, "", status=2).output

    assert "cannot be used: it is not a folder" in output
    assert len(output.splitlines()) == 1
    assert f"{option} is empty" in empty


def test_server_that_is_too_old_or_missing_is_a_sentence(shell: Shell, tmp_path: Path) -> None:
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho 'nats-server: v2.10.29'\n")
    old.chmod(0o755)

    refused = shell.run("server", "--port", "0", "--binary", str(old), status=1).output
    missing = shell.run("server", "--port", "0", "--binary", str(tmp_path / "none"), status=1).output

    assert "is nats-server 2.10.29, but 2.12 or newer is needed" in refused
    assert "none is not an executable file" in missing


def test_no_colour_goes_into_a_pipe(ids: dict[str, str], environment: dict[str, str], namespace: str) -> None:
    command = [*COMMAND, "dead", "list", "--namespace", namespace]

    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert "\x1b" not in result.stdout
    assert "retries exhausted" in result.stdout


def test_live_view_refreshes_in_place_and_ends_with_ctrl_c(
    environment: dict[str, str], ids: dict[str, str], broker: JetStreamBroker, namespace: str
) -> None:
    live = terminal(environment, "queues", "--watch", "--interval", "100ms", "--namespace", namespace)
    live.expect("default +.*1")
    broker.actors["greet"].send("another")
    live.expect(r"default +(\x1b\[[0-9;]*m)*2")
    live.sendintr()
    live.expect(pexpect.EOF)
    live.close()

    assert live.exitstatus == 0


def test_live_view_moves_back_up_instead_of_scrolling(
    environment: dict[str, str], ids: dict[str, str], namespace: str
) -> None:
    live = terminal(environment, "queues", "--watch", "--interval", "100ms", "--namespace", namespace)
    live.expect(r"\x1b\[1A")
    live.sendintr()
    live.expect(pexpect.EOF)
    live.close()


@pytest.mark.parametrize(("answer", "status", "left"), [("n", 1, 1), ("y", 0, 0)])
def test_confirmation_is_asked_on_a_terminal(
    environment: dict[str, str],
    ids: dict[str, str],
    broker: JetStreamBroker,
    namespace: str,
    answer: str,
    status: int,
    left: int,
) -> None:
    asked = terminal(environment, "dead", "requeue", "--queue", "default", "--namespace", namespace)
    asked.expect(r"Requeue 1 dead letters\? \[y/N\]: ")
    assert "there is nobody to greet" in screen(asked.before)
    asked.sendline(answer)
    asked.expect(pexpect.EOF)
    asked.close()

    assert asked.exitstatus == status
    assert view(broker, "default").dead == left


#: How many messages are on their way to the server at once.
AT_ONCE = 5_000


def bury_many(broker: JetStreamBroker, numbers: range) -> None:
    """Store dead letters of the queue default, many at a time."""
    broker.setup()
    session, names = broker.connection.session(), broker.names
    message = broker.actors["greet"].message("world")
    answers: SimpleQueue[Outcome] = SimpleQueue()
    for number in numbers:
        headers = {
            MSG_ID: str(number),
            QUEUE: "default",
            ACTOR: "greet",
            REASON: "retries exhausted",
            ATTEMPTS: "2",
            FAILED: "1700000000000",
            STREAM: names.stream("default"),
            SEQUENCE: str(number),
        }
        session.submit(
            Publication(names.dead_subject("default", "greet"), message.encode(), headers),
            answers.put,
            session.publisher.new_token(),
        )
        if number >= numbers.start + AT_ONCE:
            assert isinstance(answers.get(timeout=60), Receipt)
    for _ in range(min(len(numbers), AT_ONCE)):
        assert isinstance(answers.get(timeout=60), Receipt)


def measure(environment: dict[str, str], *args: str) -> tuple[str, int]:
    """Run a command; return its last line, and the most memory it used, in kilobytes."""
    command = [sys.executable, "-c", MEASURED, *args]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        count, last = 0, ""
        for line in process.stdout:
            count, last = count + 1, line
        error = process.stderr.read()
    assert process.returncode == 0, error
    return f"{count}: {last}", int(error.split()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_dead_letters_are_listed_and_requeued_in_bounded_memory(
    broker: JetStreamBroker, environment: dict[str, str], namespace: str
) -> None:
    common = ("--json", "--namespace", namespace)
    bury_many(broker, range(MANY, MANY + 600))
    _, few_listed = measure(environment, "dead", "list", *common)
    _, few_requeued = measure(environment, "dead", "requeue", "--all", "--yes", *common)
    purge(broker, "default")
    bury_many(broker, range(MANY))

    listed, many_listed = measure(environment, "dead", "list", *common)
    requeued, many_requeued = measure(environment, "dead", "requeue", "--all", "--yes", *common)

    after = view(broker, "default")
    assert listed.startswith(f"{MANY}: ")
    assert f'"requeued": {MANY}, "failed": 0' in requeued
    assert (after.ready, after.dead) == (MANY, 0)
    assert many_listed < few_listed + 20_000
    assert many_requeued < few_requeued + 20_000
