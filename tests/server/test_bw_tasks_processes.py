"""The processes of a `dramatiq bw_tasks`, and that the tests leave none of them behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from dramatiq_jetstream import NatsServer
from tests.support.admin import Admin
from tests.support.bw import Program, Service
from tests.support.images import make_images
from tests.support.processes import MARKER, is_alive, kill, marked
from tests.support.waiting import eventually

#: A program that starts another, in a session of its own, and ends.
LEAVING = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', WAITING], start_new_session=True)"
WAITING = "import time; time.sleep(600)"


def test_program_that_lost_its_first_process_is_ended_with_its_children(
    admin: Admin, nats_url: str, tmp_path: Path
) -> None:
    make_images(admin)
    with Service(nats_url, tmp_path, tmp_path / "log") as service:
        workers = service.worker_pids
        os.kill(service.process.pid, signal.SIGKILL)
        service.wait()
        # dramatiq's worker processes do not notice that their first process is gone.
        assert all(map(is_alive, workers))

    assert not any(map(is_alive, workers))


def test_process_that_left_its_parent_is_still_known_by_its_mark(tmp_path: Path) -> None:
    source = LEAVING.replace("WAITING", repr(WAITING))
    with Program([sys.executable, "-c", source], tmp_path / "log", {MARKER: "a test"}) as program:
        assert program.wait() == 0

    [left] = marked("a test")
    kill(left)
    eventually(lambda: not marked("a test"))


def test_processes_of_this_run_are_marked(nats_server: NatsServer) -> None:
    assert nats_server.pid in marked(os.environ[MARKER])
