"""What `bw_tasks` shows while something is slow, broken, missing or stopped."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.admin import Admin
from tests.support.bw import Program, Service, command_line, save_picture
from tests.support.images import make_images
from tests.support.terminal import run_in_terminal
from tests.support.waiting import eventually

#: Makes a name, below a folder, at which there can be no folder.
IMPOSSIBLE: dict[str, Callable[[Path], Path | str]] = {
    "below a file": lambda folder: save_picture(folder / "a.png") / "out",
    "in the kernel's folder": lambda _: "/proc",
    "below the kernel's folder": lambda _: "/proc/out",
    "below a device": lambda _: "/dev/null/out",
    "a loop of links": lambda folder: loop(folder / "loop") / "out",
    "too long": lambda folder: folder / ("a" * 300),
}


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.jpg"
    path.write_text("no image")
    return path


def demo(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "bw_tasks", "demo", *map(str, arguments)]


def lines_drawn(screen: str) -> list[str]:
    """The states of the progress bar on a screen, in their order."""
    return [line for line in re.split(r"[\r\n]+", screen) if line.startswith("Converting")]


class TestImpossiblePlaces:
    @pytest.mark.parametrize("name", IMPOSSIBLE)
    def test_demo_that_cannot_write_ends_with_a_sentence(self, tmp_path: Path, name: str) -> None:
        refused = command_line("demo", "--outdir", str(IMPOSSIBLE[name](tmp_path)))

        assert refused.returncode == 1
        assert re.fullmatch(r"Error: The output directory '.*'…? cannot be (made|written to): .+\n", refused.stderr)
        assert refused.stdout == ""

    @pytest.mark.parametrize("name", IMPOSSIBLE)
    def test_worker_that_cannot_write_refuses_to_start(self, nats_url: str, tmp_path: Path, name: str) -> None:
        with Service(nats_url, Path(IMPOSSIBLE[name](tmp_path)), tmp_path / "log", processes=1) as service:
            assert service.wait() != 0

        assert re.search(r"^The output directory '.*'…? cannot be (opened|written to): ", service.log, re.MULTILINE)
        assert "Traceback" not in service.log

    @pytest.mark.parametrize(
        ("variable", "value", "sentence"),
        [
            ("INDIR", __file__, "The input directory '.*' cannot be read: Not a directory"),
            ("INDIR", "/proc/nowhere", "The input directory '/proc/nowhere' cannot be read: No such file"),
            ("MAX_MEGAPIXELS", "many", "MAX_MEGAPIXELS is 'many'"),
        ],
        ids=["INDIR is a file", "INDIR is not there", "MAX_MEGAPIXELS is no number"],
    )
    def test_worker_with_a_useless_setting_refuses_to_start(
        self, nats_url: str, tmp_path: Path, variable: str, value: str, sentence: str
    ) -> None:
        service = Service(nats_url, tmp_path, tmp_path / "log", processes=1)
        service.variables[variable] = value
        with service:
            assert service.wait() != 0

        assert re.search(f"^{sentence}", service.log, re.MULTILINE)
        assert "Traceback" not in service.log


def test_worker_without_a_server_says_what_it_waits_for(tmp_path: Path) -> None:
    with Service("nats://me:s3cr/t@127.0.0.1:1", tmp_path, tmp_path / "log", processes=1) as service:
        [line] = eventually(lambda: service.lines("Waiting for"))

    said = (
        r"\[bw_tasks\] \[WARNING\] Waiting for a NATS server at nats://127\.0\.0\.1:1 until [\d:]{8}; then the worker"
    )
    assert re.search(said, line)
    assert "s3cr" not in service.log


class TestProgress:
    @pytest.mark.parametrize("columns", [20, 80, 160])
    def test_images_that_are_retried_are_counted_beside_the_bar(self, tmp_path: Path, bad: Path, columns: int) -> None:
        command = demo(save_picture(tmp_path / "good.png"), bad)

        status, screen = run_in_terminal(command, tmp_path, {"TERM": "xterm"}, columns=columns)

        assert status == 1, screen
        assert max(map(len, lines_drawn(screen))) < columns
        assert "No worker" not in screen
        if columns > 20:
            assert re.search(r"Converting  \[#+-+\]  1/2, retrying 1", screen)
            assert re.search(r"Converting  \[#+\]  2/2 *\r?\n", screen)

    def test_ctrl_c_says_what_was_done_and_what_is_left(self, tmp_path: Path, bad: Path) -> None:
        command = demo(save_picture(tmp_path / "good.png"), bad)

        status, screen = run_in_terminal(
            command, tmp_path, {"TERM": "xterm"}, interrupt_at=lambda screen: "1/2, retrying 1" in screen
        )

        assert status == 1
        assert re.search(r"^good\.png -> ", screen, re.MULTILINE)
        assert re.search(r"^1 of 2 images converted in .*, 1 left\r?$", screen, re.MULTILINE)
        assert f"{bad}: not converted" in screen
        assert "Aborted!" in screen

    def test_names_that_the_terminal_does_not_have_are_shown_escaped(self, tmp_path: Path) -> None:
        names = ["日本.png", "red\x1b[31m.png", os.fsdecode(b"raw\xff.png")]
        pictures = [save_picture(tmp_path / f"{number}.png") for number in range(len(names))]
        for picture, name in zip(pictures, names, strict=True):
            picture.rename(tmp_path / name)

        done = command_line("demo", *names, folder=tmp_path, PYTHONIOENCODING="ascii", NO_COLOR="1")

        assert "Traceback" not in done.stderr
        assert done.stdout.isascii()
        assert "\x1b" not in done.stdout + done.stderr
        assert r"\u65e5\u672c.png -> " in done.stdout


class TestNoWorker:
    def submit(self, url: str, folder: Path, *arguments: str) -> Program:
        command = [
            sys.executable,
            "-m",
            "bw_tasks",
            "submit",
            "--wait",
            *arguments,
            str(save_picture(folder / "a.png")),
        ]
        return Program(command, folder / "submit.log", {"NATS_URL": url})

    def test_submit_says_so_and_goes_on_when_there_is_one(self, admin: Admin, nats_url: str, tmp_path: Path) -> None:
        make_images(admin)
        outdir = tmp_path / "out"
        outdir.mkdir()

        with self.submit(nats_url, tmp_path) as submitting:
            eventually(lambda: submitting.lines("No worker takes messages of the queue 'blackandwhite'"))
            assert submitting.lines(f"NATS_URL={nats_url} OUTDIR=... dramatiq bw_tasks")
            with Service(nats_url, outdir, tmp_path / "service.log", processes=1):
                assert submitting.wait() == 0

        assert submitting.lines("1 of 1 images converted")

    def test_submit_ends_with_1_after_its_timeout(self, admin: Admin, nats_url: str, tmp_path: Path) -> None:
        make_images(admin)

        with self.submit(nats_url, tmp_path, "--timeout", "3") as submitting:
            assert submitting.wait() == 1

        assert submitting.lines("No worker takes messages")
        assert submitting.lines("0 of 1 images converted")
        assert submitting.lines("still queued as")
        assert submitting.lines("Error: After 3 s, not all images are done")

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
    def test_submit_that_is_stopped_says_what_stays_queued(
        self, admin: Admin, nats_url: str, tmp_path: Path, number: signal.Signals, status: int
    ) -> None:
        make_images(admin)

        with self.submit(nats_url, tmp_path) as submitting:
            eventually(lambda: submitting.lines("No worker takes messages"))
            submitting.process.send_signal(number)
            assert submitting.wait() == status

        assert submitting.lines("0 of 1 images converted")
        assert submitting.lines(f"{tmp_path / 'a.png'}: still queued as")
        assert "Traceback" not in submitting.log
        assert admin.count("IMAGES") == 1

    def test_submit_says_that_the_queue_is_paused(self, admin: Admin, nats_url: str, tmp_path: Path) -> None:
        make_images(admin)
        admin.api("CONSUMER.PAUSE.IMAGES.BW", {"pause_until": "2999-01-01T00:00:00Z"})

        with self.submit(nats_url, tmp_path) as submitting:
            eventually(lambda: submitting.lines("The queue 'blackandwhite' is paused"))

    def test_submit_ends_when_the_stream_is_deleted(self, admin: Admin, nats_url: str, tmp_path: Path) -> None:
        make_images(admin)

        with self.submit(nats_url, tmp_path) as submitting:
            eventually(lambda: submitting.lines("No worker takes messages"))
            admin.api("STREAM.DELETE.IMAGES")
            assert submitting.wait() == 1

        assert submitting.lines("Error: The stream of the queue 'blackandwhite' is gone from the server")
