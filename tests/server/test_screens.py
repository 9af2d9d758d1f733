"""Every screen in terminals of all widths and encodings, over messages with odd content in every field."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pexpect
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.cli import main
from dramatiq_jetstream.cli.queues import HEADERS as QUEUES
from dramatiq_jetstream.client import Connection
from tests.support.admin import Admin
from tests.support.apps.names import HOSTILE_NAME, LONG_QUEUE
from tests.support.operated import imported
from tests.support.screens import APP, Populated, populate

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "dramatiq_jetstream"]

#: The arguments of each screen; ``{dead}`` and the like are ids.
SCREENS: dict[str, tuple[str, ...]] = {
    "queues": ("queues", "--interval", "0s", "--app", APP),
    "queues of a server": ("queues", "--interval", "0s"),
    "queues with rates": ("queues", "--interval", "1ms"),
    "peek": ("peek", LONG_QUEUE, "--limit", "1000"),
    "peek at an odd name": ("peek", HOSTILE_NAME, "--limit", "1000"),
    "peek into a bound stream": ("peek", "photos", "--app", APP),
    "dead list": ("dead", "list"),
    "dead requeue": ("dead", "requeue", "999"),
    "delayed list": ("delayed", "list", "--limit", "0"),
    "doctor": ("doctor", "--app", APP),
    "setup": ("setup", APP, "--check"),
    "show by an id": ("show", "odd"),
    "show what retries": ("show", "{retrying}"),
    "show what a bound stream retries": ("show", "{bound}", "--app", APP),
    "show an odd record": ("show", "photos", "2", "--app", APP),
    "show a copy": ("show", "copied"),
    "show a dead letter": ("show", "{dead}"),
    "show what is not there": ("show", "no\x1b[31m\u202e語"),
    **{f"dead show {number}": ("dead", "show", str(number)) for number in (3, 5, 7)},
}

#: One screen of each command, for the tests that start the program.
STARTED = (
    *("queues", "peek at an odd name", "dead list", "dead requeue", "delayed list", "doctor", "setup"),
    *("show what retries", "show what is not there", "dead show 7"),
)

#: The headers of the screens that are tables with a line for each row.
HEADERS: dict[str, set[str]] = {
    "queues": set(QUEUES),
    "peek": {"seq", "state", "age", "message", "call"},
    "dead list": {"number", "age", "queue", "actor", "tries", "reason", "exception"},
    "delayed list": {"seq", "due", "in", "queue", "message", "call"},
    "setup": {"state", "kind", "name", "for"},
}

#: The headers that no terminal of 80 columns lacks.
KEPT: dict[str, set[str]] = {
    "queues": {"queue", "ready", "running", "retrying", "overdue", "dead"},
    "peek": {"seq", "state", "call"},
    "dead list": {"number", "queue", "reason", "exception"},
    "delayed list": {"seq", "queue", "call"},
    "setup": {"state", "kind", "name", "for"},
}

TERMINALS = [(encoding, width) for encoding in ("utf-8", "latin-1", "ascii") for width in (80, 120, 160)]


class Place(NamedTuple):
    """A namespace that holds odd content, and how to look at it."""

    namespace: str
    url: str
    ids: Populated
    broker: JetStreamBroker

    def arguments(self, name: str) -> list[str]:
        """The arguments of a screen."""
        args = [arg.format(**self.ids._asdict()) if arg.startswith("{") else arg for arg in SCREENS[name]]
        return args if APP in args else [*args, "--namespace", self.namespace]

    def run(self, name: str, *more: str, encoding: str = "utf-8", width: int = 80) -> Result:
        """Show a screen in this process, as in a terminal of a width and an encoding."""
        args = [*self.arguments(name), *more]
        environment = {"COLUMNS": str(width), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
        result = CliRunner(charset=encoding).invoke(main, args, env=environment, prog_name="dramatiq-jetstream")
        assert result.exception is None or isinstance(result.exception, SystemExit), (args, result.exc_info)
        assert result.exit_code in (0, 1), (args, result.output)
        return result


@pytest.fixture(scope="module")
def place(nats_url: str) -> Iterator[Place]:
    namespace = f"screens-{secrets.token_hex(4)}"
    with (
        pytest.MonkeyPatch.context() as patch,
        imported(namespace, nats_url, patch, APP) as broker,
        Admin(nats_url) as client,
    ):
        yield Place(namespace, nats_url, populate(broker, client, nats_url), broker)
        for stream in client.streams():
            if namespace in stream:
                client.ask(f"STREAM.DELETE.{stream}")


@pytest.fixture
def environment(place: Place) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    known = {"NATS_URL": place.url, "OPERATED_NAMESPACE": place.namespace, "TERM": "xterm-256color"}
    return {**inherited, **known, "PYTHONIOENCODING": "utf-8"}


def plain(text: str) -> str:
    """What a terminal shows, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def lines_of(result: Result, encoding: str, width: int) -> list[str]:
    """The lines of a screen, which must fit, and hold nothing that a terminal would obey."""
    text = plain(result.stdout_bytes.decode(encoding))
    lines = text.split("\n")
    assert [line for line in lines if cell_len(line) > width] == []
    assert {char for char in text if not char.isprintable() and char != "\n"} == set()
    told = plain(result.stderr_bytes.decode(encoding))
    assert {char for char in told if not char.isprintable() and char != "\n"} == set()
    return lines


@pytest.mark.parametrize("name", SCREENS)
def test_screen_fits_every_terminal_and_commands_none(place: Place, name: str) -> None:
    for encoding, width in [*TERMINALS, ("utf-8", 40), ("ascii", 40), ("utf-8", 20), ("ascii", 20)]:
        lines_of(place.run(name, encoding=encoding, width=width), encoding, width)


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_whole_and_each_row_takes_one_line(place: Place, name: str) -> None:
    rows = {}
    for encoding, width in TERMINALS:
        header, *rest = lines_of(place.run(name, encoding=encoding, width=width), encoding, width)
        assert KEPT[name] <= set(header.split()) <= HEADERS[name]
        rows[encoding, width] = len(rest)

    assert len(set(rows.values())) == 1


@pytest.mark.parametrize("width", [80, 120, 160])
def test_doctor_names_everything_in_words_that_are_not_broken(place: Place, width: int) -> None:
    lines = lines_of(place.run("doctor", width=width), "utf-8", width)

    assert set(lines[0].split()) <= {"level", "check", "on", "found"}
    advised = [line for line in lines[lines.index("What to do:") + 1 :] if line]
    assert {line.index(line.strip()) for line in advised} <= {2, 4}
    assert {"permissions", "answers,", LONG_QUEUE} <= set(" ".join(lines).replace(":", " ").split())


@pytest.mark.parametrize("name", [name for name in SCREENS if name not in ("dead requeue", "show what is not there")])
def test_json_is_what_every_parser_reads(place: Place, name: str) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    lines = place.run(name, "--json", encoding="ascii").stdout.splitlines()

    assert lines
    for line in lines:
        assert isinstance(json.loads(line, parse_constant=refuse), dict)


def test_odd_numbers_in_arguments_and_timestamps_are_shown(place: Place) -> None:
    peeked = plain(place.run("peek at an odd name", width=160).stdout)
    records = [json.loads(line) for line in place.run("peek at an odd name", "--json").stdout.splitlines()]

    assert "fail(NaN, Infinity, -Infinity)" in peeked
    assert ["NaN", "Infinity", "-Infinity"] in [record["args"] for record in records]
    assert {10**30, -1, -(10**30), 0} <= {record["enqueued_at"] for record in records}
    assert re.search(rf"sent +{10**30} ms since 1970", plain(place.run("show by an id").stdout))


def test_show_tells_attempt_exception_and_next_try_of_what_retries(place: Place) -> None:
    shown = plain(place.run("show what a bound stream retries").stdout)
    [record] = [
        json.loads(line) for line in place.run("show what a bound stream retries", "--json").stdout.splitlines()
    ]

    moment = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.search(rf"^attempt +failed, attempt 1 of 3; next try {moment}, in \d+m( \d+s)?$", shown, re.MULTILINE)
    assert re.search(r"^error +LookupError: there is no film$", shown, re.MULTILINE)
    assert (record["attempts"], record["max_attempts"]) == (1, 3)
    assert record["exception"] == "LookupError: there is no film"
    assert record["next_try"] > record["stored_at"] + 60_000


def test_show_without_the_application_gives_the_limit_of_the_queue(place: Place) -> None:
    shown = plain(place.run("show what retries", width=120).stdout)

    assert "failed, attempt 1 of 4 (the queue's limit)" in shown
    assert "error    ConnectionError: a\\x1b[31m" in shown
    assert "next try" in shown


def test_show_tells_attempt_and_exception_of_a_copy(place: Place) -> None:
    shown = plain(place.run("show a copy").stdout)

    assert "attempt  failed, attempt 2 of 5" in shown
    assert "error    OSError: no paper" in shown


def test_record_that_cannot_be_read_hides_nothing_else(place: Place) -> None:
    shown = plain(place.run("show an odd record").stdout)

    assert "call     develop(number=1)" in shown
    assert "attempt" not in shown


@pytest.mark.parametrize("name", STARTED)
def test_real_program_fits_a_real_terminal_of_80_columns(place: Place, environment: dict[str, str], name: str) -> None:
    command, *args = [*COMMAND, *place.arguments(name)]
    live = pexpect.spawn(
        command, args, env=environment, cwd=str(ROOT), dimensions=(50, 80), encoding="utf-8", timeout=30
    )
    live.expect(pexpect.EOF)
    live.close()

    shown = plain(live.before or "").replace("\r\n", "\n")
    assert live.exitstatus in (0, 1), shown
    assert "Traceback (most recent call last):\n  File" not in shown
    assert [line for line in shown.split("\n") if cell_len(line) > 80] == []
    assert {char for char in shown if not char.isprintable() and char != "\n"} == set()


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii:strict"}, {"PYTHONIOENCODING": "latin-1"}, {}])
@pytest.mark.parametrize("name", ["peek at an odd name", "show what retries"])
def test_real_program_speaks_the_terminals_encoding(
    place: Place, environment: dict[str, str], name: str, variables: dict[str, str]
) -> None:
    del environment["PYTHONIOENCODING"]
    environment |= {"LC_ALL": "C", **variables}

    done = subprocess.run(
        [*COMMAND, *place.arguments(name)], env=environment, cwd=ROOT, capture_output=True, timeout=60
    )

    assert done.returncode == 0
    assert done.stderr == b""
    done.stdout.decode(variables.get("PYTHONIOENCODING", "utf-8").split(":")[0])


@pytest.mark.parametrize("name", STARTED)
def test_reader_that_goes_away_ends_the_command_without_a_trace(
    place: Place, environment: dict[str, str], name: str
) -> None:
    with subprocess.Popen(
        [*COMMAND, *place.arguments(name)], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()

    assert "Traceback" not in told
    assert "Exception" not in told


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_reader_that_goes_away_ends_the_live_view(
    place: Place, environment: dict[str, str], more: tuple[str, ...]
) -> None:
    command = [*COMMAND, "queues", "--watch", "--interval", "10ms", "--namespace", place.namespace, *more]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def interrupt(*_: object, **__: object) -> None:
    """What Ctrl-C does wherever the program is."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", SCREENS)
def test_ctrl_c_ends_every_screen_without_a_trace(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "call", interrupt)
    result = place.run(name)

    assert result.exit_code == 1
    assert "Aborted!" in result.output


@pytest.mark.parametrize("args", [("events",), ("queues", "--watch"), ("queues", "--watch", "--json")])
def test_ctrl_c_ends_a_screen_that_waits(place: Place, environment: dict[str, str], args: tuple[str, ...]) -> None:
    command = [*COMMAND, *args, "--namespace", place.namespace]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stderr if args[0] == "events" else process.stdout).readline()
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=30)

    assert process.returncode == 0
    assert "Traceback" not in out + told


def test_ctrl_c_while_rates_are_measured_ends_without_a_trace(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_jetstream.admin.queues.time.sleep", interrupt)

    assert "Aborted!" in place.run("queues with rates").output


@pytest.mark.parametrize(("encoding", "width"), [*TERMINALS, ("utf-8", 40), ("utf-8", 20)])
def test_live_view_fits_and_ends_with_ctrl_c(
    place: Place, monkeypatch: pytest.MonkeyPatch, encoding: str, width: int
) -> None:
    left = iter(range(2))

    def sleep(_: float) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("dramatiq_jetstream.cli.queues.time.sleep", sleep)
    result = place.run("queues", "--watch", encoding=encoding, width=width)

    # It moves up to write over its lines.
    text = re.sub(r"\x1b\[\d*A", "\n", result.stdout_bytes.decode(encoding))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
    assert result.exit_code == 0
    assert [line for line in text.split("\n") if cell_len(line) > width] == []
    assert "ready" in text


def test_live_view_fits_a_real_terminal_of_80_columns(place: Place, environment: dict[str, str]) -> None:
    args = [*COMMAND[1:], "queues", "--watch", "--interval", "10ms", "--namespace", place.namespace]
    live = pexpect.spawn(
        COMMAND[0], args, env=environment, cwd=str(ROOT), dimensions=(50, 80), encoding="utf-8", timeout=30
    )
    live.expect("Ctrl-C ends this")
    first = live.before or ""
    live.sendintr()
    live.expect(pexpect.EOF)
    live.close()

    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", first).replace("\r", "")
    assert live.exitstatus == 0
    assert [line for line in shown.split("\n") if cell_len(line) > 80] == []
    assert HEADERS["queues"] >= set(shown.split("\n")[0].split()) >= KEPT["queues"]
