"""`python -m bw_tasks submit`: thousands of images at once, and a list of what has to be submitted again."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from bw_tasks.batch import AT_ONCE
from bw_tasks.paths import source_uri
from tests.support.admin import Admin
from tests.support.bw import Program, command_line
from tests.support.images import make_images
from tests.support.waiting import eventually

#: A name with which a request is longer than the stream takes, and how the error begins.
LONG = "x" * 250
TOO_LONG = "not submitted: "


@pytest.fixture
def images(admin: Admin) -> Admin:
    make_images(admin)
    return admin


def make_files(folder: Path, *names: str) -> list[Path]:
    """Files that need not be images: who submits does not look into them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def asked_for(images: Admin) -> list[str]:
    """The paths in the requests that the stream holds."""
    uris = [json.loads(stored.body)["image"] for stored in images.stored("IMAGES")]
    return [os.fsdecode(unquote_to_bytes(urlsplit(uri).path)) for uri in uris]


def test_images_beyond_one_batch_are_all_submitted_and_none_is_to_be_repeated(
    images: Admin, nats_url: str, tmp_path: Path
) -> None:
    paths = make_files(tmp_path, *(f"{number}.png" for number in range(2 * AT_ONCE + 7)))
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in paths))

    done = command_line("submit", "--from", "list", "--failed-to", "failed", folder=tmp_path, NATS_URL=nats_url)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(": submitted as ") == len(paths)
    assert sorted(asked_for(images)) == sorted(map(str, paths))
    assert (tmp_path / "failed").read_text() == ""


def test_images_that_cannot_be_submitted_are_listed_and_keep_no_other_back(
    images: Admin, nats_url: str, tmp_path: Path
) -> None:
    good, long, gone, last = make_files(tmp_path, "a.png", f"{LONG}/{LONG}.png", "gone.png", "z.png")
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in (good, long, gone, last)))
    gone.unlink()

    def submit(listed: str) -> tuple[int, str]:
        done = command_line("submit", "--from", listed, "--failed-to", "failed", folder=tmp_path, NATS_URL=nats_url)
        return done.returncode, done.stderr

    status, output = submit("list")

    assert status == 1
    assert f"{long}: {TOO_LONG}" in output
    assert f"{gone}: not submitted: there is no such file" in output
    assert sorted(asked_for(images)) == [str(good), str(last)]
    assert (tmp_path / "failed").read_text().splitlines() == [source_uri(long), source_uri(gone)]

    gone.touch()
    status, _ = submit("failed")

    assert status == 1
    assert sorted(asked_for(images)) == [str(good), str(gone), str(last)]
    assert (tmp_path / "failed").read_text().splitlines() == [source_uri(long)]


def test_all_are_to_be_repeated_when_nothing_takes_them(nats_url: str, admin: Admin, tmp_path: Path) -> None:
    [path] = make_files(tmp_path, "a.png")
    admin.api("STREAM.CREATE.IMAGES", {"name": "IMAGES", "subjects": ["elsewhere"]})

    done = command_line("submit", str(path), "--failed-to", "failed", folder=tmp_path, NATS_URL=nats_url)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "failed").read_text() == f"{source_uri(path)}\n"


def test_names_of_any_bytes_come_back_from_the_list(images: Admin, nats_url: str, tmp_path: Path) -> None:
    names = ["line\nfeed.png", os.fsdecode(b"\xff.png"), "a%20b #?.png", "é.png"]
    paths = make_files(tmp_path, *names)
    (tmp_path / "list").write_text("".join(f"{source_uri(path)}\n" for path in paths))

    done = command_line("submit", "--from", "list", folder=tmp_path, NATS_URL=nats_url)

    assert done.returncode == 0, done.stderr
    assert asked_for(images) == [os.path.abspath(path) for path in paths]


def test_what_stays_queued_when_a_wait_is_stopped_is_not_to_be_repeated(
    images: Admin, nats_url: str, tmp_path: Path
) -> None:
    paths = make_files(tmp_path, "a.png", f"{LONG}/{LONG}.png")
    command = ["-m", "bw_tasks", "submit", *map(str, paths), "--wait", "--failed-to", str(tmp_path / "failed")]
    with Program([sys.executable, *command], tmp_path / "log", {"NATS_URL": nats_url}) as program:
        eventually(lambda: images.count("IMAGES") == 1)
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == 128 + signal.SIGTERM

    assert "still queued as" in program.log
    assert (tmp_path / "failed").read_text() == f"{source_uri(paths[1])}\n"


def test_list_that_cannot_be_written_is_told_before_anything_is_submitted(
    images: Admin, nats_url: str, tmp_path: Path
) -> None:
    [path] = make_files(tmp_path, "a.png")

    done = command_line("submit", str(path), "--failed-to", "nowhere/failed", folder=tmp_path, NATS_URL=nats_url)

    assert done.returncode == 1
    assert "cannot be opened: No such file or directory" in done.stderr
    assert images.count("IMAGES") == 0


def test_list_is_never_put_in_a_devices_place(images: Admin, nats_url: str, tmp_path: Path) -> None:
    [path] = make_files(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe")

    done = command_line("submit", str(path), "--failed-to", "pipe", folder=tmp_path, NATS_URL=nats_url)

    assert done.returncode == 1
    assert "is no file but something else" in done.stderr
    assert (tmp_path / "pipe").is_fifo()
    assert images.count("IMAGES") == 0
