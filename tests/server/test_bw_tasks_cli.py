"""`python -m bw_tasks`: what it prints, how it exits, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from bw_tasks.cli import main
from dramatiq_jetstream import NatsServer
from tests.support.admin import Admin
from tests.support.ahead import begun_ahead
from tests.support.bw import (
    Program,
    Service,
    command_line,
    is_black_and_white,
    ready_workers,
    save_picture,
)
from tests.support.images import CONSUMER, STREAM, make_images
from tests.support.processes import descendants, is_alive
from tests.support.terminal import run_in_terminal
from tests.support.waiting import eventually

Completed = subprocess.CompletedProcess[str]

#: A port on which nothing listens: only a system service could.  The password holds what a careless parser ends at.
SECRET = "s3cr/t@"
NO_SERVER = f"nats://me:{SECRET}@127.0.0.1:1"


@pytest.fixture(scope="module", autouse=True)
def refusals() -> Iterator[list[Future[Completed]]]:
    """Commands that find no server; started ahead of the other tests, because each waits ten seconds for one."""
    commands = [["setup"], ["submit", __file__], ["submit", "--wait", __file__]]
    with ThreadPoolExecutor(len(commands)) as threads:
        yield [threads.submit(command_line, *command, NATS_URL=NO_SERVER) for command in commands]


class TestHelp:
    @pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
    def test_it_names_every_command_and_shows_examples(self, arguments: list[str]) -> None:
        shown = CliRunner().invoke(main, arguments, prog_name="python -m bw_tasks").output

        for text in ("Usage: python -m bw_tasks", "demo", "setup", "submit", "Examples:", "dramatiq bw_tasks"):
            assert text in shown

    @pytest.mark.parametrize(
        ("command", "texts"),
        [
            ("demo", ["IMAGES", "--outdir", "bw_output", "--processes", "--threads"]),
            ("submit", ["IMAGES", "--wait", "--url", "NATS_URL", "nats://127.0.0.1:4222"]),
            ("setup", ["--url", "NATS_URL", "nats://127.0.0.1:4222"]),
        ],
    )
    def test_every_command_explains_its_options(self, command: str, texts: list[str]) -> None:
        result = CliRunner().invoke(main, [command, "--help"])

        assert result.exit_code == 0
        assert [text for text in texts if text not in result.output] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["dmeo"], "No such command 'dmeo'"),
        (["submit"], "Missing argument 'IMAGES...'"),
        (["submit", "nowhere.jpg"], "File 'nowhere.jpg' does not exist"),
        (["submit", "."], "File '.' is a directory"),
        (["demo", "nowhere.jpg"], "File 'nowhere.jpg' does not exist"),
        (["demo", "--outdir", __file__], "is a file"),
        (["demo", "--processes", "0"], "0 is not in the range x>=1"),
        (["demo", "--threads", "many"], "'many' is not a valid integer"),
        (["setup", "--uri", "x"], "No such option"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 2
    assert text in result.output


class Demo:
    """Runs the demo in a folder of its own, where it can leave nothing unseen.

    Parameters:
      folder(Path): Where its output, its temporary files and its log go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.seen: set[int] = set()

    def start(self, *arguments: str) -> Program:
        """Start it without waiting for its end."""
        command = [sys.executable, "-m", "bw_tasks", "demo", *arguments]
        return Program(command, self.folder / "log", {"TMPDIR": str(self.temporary)}, self.folder)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run it to its end, and return its status and what it printed."""
        with self.start(*arguments) as program:
            eventually(lambda: not self.watch(program), 60_000, message="the demo's end")
        return program.wait(), program.log

    def watch(self, program: Program) -> bool:
        """Note its processes, and tell whether it still runs."""
        self.seen |= descendants(program.process.pid)
        return program.is_running

    def wait_for_workers(self, program: Program, processes: int = 2) -> list[int]:
        """Wait until the worker processes are ready, and return them."""
        ready = eventually(lambda: len(found := self.workers()) == processes and found, message="the workers' start")
        self.watch(program)
        return ready or []

    def workers(self) -> list[int]:
        """The worker processes that are ready."""
        logs = self.temporary.glob("bw_tasks-*/workers.log")
        return [pid for log in logs for pid in ready_workers(log.read_text())]

    def check_nothing_is_left(self) -> None:
        assert self.seen
        eventually(lambda: not any(map(is_alive, self.seen)), message="the end of everything it started")
        assert os.listdir(self.temporary) == []


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path)


def save_no_picture(path: Path) -> Path:
    """Save a file that only looks like an image; five tries keep the demo busy for some seconds."""
    path.write_text("no image")
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return save_no_picture(tmp_path / "bad.jpg")


EndedDemo = tuple[Demo, int, str]


@pytest.fixture(scope="module", autouse=True)
def ending(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[EndedDemo]]:
    """The demo with a good file and a bad one, which takes its time."""
    demo = Demo(tmp_path_factory.mktemp("demo"))
    good, bad = save_picture(demo.folder / "good.png"), save_no_picture(demo.folder / "bad.jpg")
    with begun_ahead(request, "ended", lambda: (demo, *demo.run(str(good), str(bad)))) as ending:
        yield ending


@pytest.fixture
def ended(ending: Future[EndedDemo]) -> EndedDemo:
    return ending.result()


def outputs(printed: str) -> list[Path]:
    """The files that the demo says it wrote."""
    return [Path(found) for found in re.findall(r" -> (.+)$", printed, re.MULTILINE)]


class TestDemo:
    def test_without_images_it_converts_a_sample(self, demo: Demo) -> None:
        status, printed = demo.run()

        assert status == 0, printed
        assert re.search(r"^nats-server at nats://127\.0\.0\.1:\d+, 2 worker processes", printed)
        assert re.search(r"^12 of 12 images converted in \d+\.\d s \(\d+\.\d a second\)$", printed, re.MULTILINE)
        assert sorted(outputs(printed)) == sorted((demo.folder / "bw_output").iterdir())
        demo.check_nothing_is_left()

    def test_it_converts_the_images_it_is_given(self, demo: Demo) -> None:
        names = ["one.png", "two words.png", "drei=3%.png", "日本.png"]
        for name in names:
            save_picture(demo.folder / name)

        status, printed = demo.run(*names, "--outdir", "grey/deep", "--processes", "1")

        assert status == 0, printed
        assert "4 of 4 images converted" in printed
        assert sorted(re.findall(r"^(.+) -> ", printed, re.MULTILINE)) == sorted(names)
        assert all(is_black_and_white(path) for path in outputs(printed))
        assert {path.parent for path in outputs(printed)} == {demo.folder / "grey" / "deep"}
        demo.check_nothing_is_left()

    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
    )
    def test_interrupted_it_stops_everything_it_started(
        self, demo: Demo, bad: Path, number: signal.Signals, status: int
    ) -> None:
        with demo.start(str(bad)) as program:
            demo.wait_for_workers(program)
            os.killpg(program.process.pid, number)

            assert program.wait() == status

        assert "Traceback" not in program.log
        demo.check_nothing_is_left()

    def test_interrupted_while_it_starts_it_stops_what_it_started(self, demo: Demo, bad: Path) -> None:
        with demo.start(str(bad)) as program:
            eventually(lambda: demo.watch(program) and demo.seen, message="the server's start")
            os.killpg(program.process.pid, signal.SIGINT)

            assert program.wait() == 1

        assert "Traceback" not in program.log
        demo.check_nothing_is_left()

    def test_workers_that_die_end_it_with_their_last_words(self, demo: Demo, bad: Path) -> None:
        with demo.start(str(bad), "--processes", "1") as program:
            [worker] = demo.wait_for_workers(program, 1)
            os.kill(worker, signal.SIGKILL)

            assert program.wait() == 1

        assert "Error: The workers ended early, with status" in program.log
        assert "ready for action" in program.log
        assert "Traceback" not in program.log
        demo.check_nothing_is_left()

    def test_progress_bar_moves_in_a_terminal(self, demo: Demo) -> None:
        for number in range(3):
            save_picture(demo.folder / f"{number}.png")
        command = [sys.executable, "-m", "bw_tasks", "demo", *(f"{number}.png" for number in range(3))]

        status, screen = run_in_terminal(command, demo.folder, {"TMPDIR": str(demo.temporary), "TERM": "xterm"})

        assert status == 0, screen
        assert re.search(r"Converting +\[-+\] +0/3", screen)
        assert re.search(r"Converting +\[#+\] +3/3", screen)
        assert os.listdir(demo.temporary) == []

    def test_ctrl_c_typed_in_a_terminal_stops_it(self, demo: Demo, bad: Path) -> None:
        command = [sys.executable, "-m", "bw_tasks", "demo", str(bad)]

        status, screen = run_in_terminal(
            command,
            demo.folder,
            {"TMPDIR": str(demo.temporary), "TERM": "xterm"},
            interrupt_at=lambda screen: "0/1" in screen and bool(demo.workers()),
        )

        assert status == 1
        assert "Aborted!" in screen
        assert os.listdir(demo.temporary) == []

    def test_one_bad_file_is_named_with_its_reason_and_fails_the_demo(self, ended: EndedDemo) -> None:
        demo, status, printed = ended

        assert status == 1
        assert re.search(r"^bad\.jpg failed: .* not in a format that is taken.* \(5 attempts\)$", printed, re.MULTILINE)
        assert re.search(r"^1 of 2 images converted in .*, 1 failed$", printed, re.MULTILINE)
        assert len(outputs(printed)) == 1
        assert "Traceback" not in printed
        demo.check_nothing_is_left()


def submit_a_bad_file(folder: Path) -> Completed:
    """Submit a good file and a bad one to a service of their own, and wait."""
    good, bad = save_picture(folder / "good.png"), save_no_picture(folder / "bad.jpg")
    outdir = folder / "output"
    outdir.mkdir()
    with NatsServer() as server, Admin(server.url) as admin:
        make_images(admin)
        with Service(server.url, outdir, folder / "service.log", processes=1):
            return command_line("submit", "--wait", "--url", server.url, str(good), str(bad))


@pytest.fixture(scope="module", autouse=True)
def submitting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Completed]]:
    folder = tmp_path_factory.mktemp("submitted")
    with begun_ahead(request, "submitted", lambda: submit_a_bad_file(folder)) as submitting:
        yield submitting


@pytest.fixture
def submitted(submitting: Future[Completed]) -> Completed:
    return submitting.result()


class TestSubmit:
    @pytest.fixture
    def service(self, admin: Admin, nats_url: str, tmp_path: Path) -> Iterator[Service]:
        make_images(admin)
        outdir = tmp_path / "output"
        outdir.mkdir()
        with Service(nats_url, outdir, tmp_path / "service.log", processes=1) as service:
            yield service

    def test_it_says_what_became_of_the_images_and_goes(self, admin: Admin, nats_url: str, tmp_path: Path) -> None:
        make_images(admin)
        names = ["one.png", "two words.png"]
        for name in names:
            save_picture(tmp_path / name)

        done = command_line("submit", *names, folder=tmp_path, NATS_URL=nats_url)

        assert done.returncode == 0, done.stderr
        submitted = re.findall(r"^(.+): submitted as (\w+), to be written to OUTDIR/(.+)$", done.stdout, re.MULTILINE)
        assert [path for path, _, _ in submitted] == [str(tmp_path / name) for name in names]
        assert [output for _, _, output in submitted] == [f"{image_id}.png" for _, image_id, _ in submitted]
        assert admin.count("IMAGES") == 2

    def test_it_makes_the_stream_if_need_be(self, admin: Admin, nats_url: str, tmp_path: Path) -> None:
        done = command_line("submit", str(save_picture(tmp_path / "a.png")), "--url", nats_url)

        assert done.returncode == 0, done.stderr
        assert admin.count("IMAGES") == 1

    def test_with_wait_it_follows_them_to_the_end(self, service: Service, nats_url: str, tmp_path: Path) -> None:
        pictures = [str(save_picture(tmp_path / f"{number}.png")) for number in range(3)]

        done = command_line("submit", "--wait", "--url", nats_url, *pictures)

        assert done.returncode == 0, done.stderr
        assert "3 of 3 images converted" in done.stdout
        written = {Path(path).name for path in outputs(done.stdout)}
        assert written == set(os.listdir(tmp_path / "output"))

    def test_with_wait_it_tells_failures_and_exits_with_1(self, submitted: Completed) -> None:
        assert submitted.returncode == 1
        assert "1 of 2 images converted" in submitted.stdout
        assert re.search(r"^bad\.jpg failed: .* not in a format that is taken", submitted.stderr, re.MULTILINE)

    def test_path_too_long_for_a_request_is_refused_with_the_sizes(
        self, admin: Admin, nats_url: str, tmp_path: Path
    ) -> None:
        folder = tmp_path / ("a" * 200) / ("b" * 200)
        folder.mkdir(parents=True)

        refused = command_line("submit", str(save_picture(folder / "c.png")), "--url", nats_url)

        assert refused.returncode == 1
        assert re.search(r": not submitted: .*takes \d+ bytes .* at most 512", refused.stderr, re.MULTILINE)
        assert "Traceback" not in refused.stderr


class TestSetup:
    def test_it_makes_the_walkthroughs_stream_and_consumer(self, admin: Admin, nats_url: str) -> None:
        done = command_line("setup", "--url", nats_url)

        assert done.returncode == 0, done.stderr
        assert done.stdout == "The stream IMAGES and its consumer BW are ready.\n"
        made = admin.stream("IMAGES")["config"], admin.consumer("IMAGES", "BW")["config"]
        assert {name: made[0].get(name) for name in STREAM} == STREAM
        assert {name: made[1].get(name) for name in CONSUMER} == CONSUMER

    def test_it_can_be_repeated(self, admin: Admin, nats_url: str) -> None:
        make_images(admin)

        for _ in range(2):
            done = command_line("setup", NATS_URL=nats_url)
            assert done.returncode == 0, done.stderr

    def test_settings_that_do_not_fit_are_listed_field_by_field(self, admin: Admin, nats_url: str) -> None:
        make_images(admin, stream={"max_msg_size": 100}, consumer={"max_deliver": 2})

        refused = command_line("setup", "--url", nats_url)

        assert refused.returncode == 1
        assert "IMAGES" in refused.stderr
        assert re.search(r"^  max_msg_size: expected 512, found 100$", refused.stderr, re.MULTILINE)
        assert "Traceback" not in refused.stderr


def test_without_a_server_every_command_says_so_and_exits_with_1(refusals: list[Future[Completed]]) -> None:
    for refusal in refusals:
        refused = refusal.result()
        assert refused.returncode == 1
        assert "Error: no NATS server answers at nats://127.0.0.1:1" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_without_a_server_every_command_says_what_it_waits_for(
    refusals: list[Future[Completed]],
) -> None:
    for refusal in refusals:
        first, _ = refusal.result().stderr.splitlines()
        assert re.fullmatch(r"Waiting for a NATS server at nats://127\.0\.0\.1:1 until \d\d:\d\d:\d\d\.", first)


def test_password_of_the_address_is_in_no_output(refusals: list[Future[Completed]]) -> None:
    assert all(SECRET not in refusal.result().stderr + refusal.result().stdout for refusal in refusals)
