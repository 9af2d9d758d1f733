"""The image service as its users run it: real processes, and requests that anyone can write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.support.processes import descendants, kill, kill_group
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]

SUBJECT = "IMAGES.blackandwhite"

#: What would change what the service does, were it set where the tests run.
_SERVICE_VARIABLES = ("NATS_URL", "OUTDIR", "INDIR", "MAX_MEGAPIXELS", "MAX_MEGABYTES", "STORAGE_TIMEOUT", "AWS_")

#: dramatiq 1 serves metrics on a fixed port, and keeps them in a fixed folder, unless it is told otherwise.
#: Tests that run side by side each have a folder, for a starting dramatiq empties it.
_QUIET_METRICS = {
    "dramatiq_prom_port": "0",
    "dramatiq_prom_db": os.path.join(
        tempfile.gettempdir(), f"dramatiq-prometheus-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    ),
}

#: Seconds after which a process that should have ended is killed, and its test fails.
STOP_TIMEOUT = 60


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what others set for the service, and with these variables."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _SERVICE_VARIABLES and not name.startswith("AWS_")
    }
    return inherited | _QUIET_METRICS | variables


def ready_workers(log: str) -> list[int]:
    """The worker processes that are ready, as the log of a `dramatiq` names them."""
    return [int(pid) for pid in re.findall(r"\[PID (\d+)\].*\.WorkerProcess\(\d+\)\].*is ready for action", log)]


def request_body(image_id: str, image: Path | str, advisory: str | None = None) -> bytes:
    """A request as the walkthrough's `echo '{…}' | nats req` sends it, spaces and line break included."""
    uri = image.as_uri() if isinstance(image, Path) else image
    fields = {"id": image_id, "image": uri} | ({"advisory": advisory} if advisory else {})
    return json.dumps(fields).encode() + b"\n"


def save_picture(path: Path) -> Path:
    """Save a small colour picture in the format of the path's extension."""
    from PIL import Image

    red, green = Image.radial_gradient("L"), Image.linear_gradient("L")
    Image.merge("RGB", (red, green, green.rotate(90))).save(path)
    return path


def is_black_and_white(path: Path) -> bool:
    """Whether a picture that was saved without loss has no other colours."""
    from PIL import Image

    with Image.open(path) as picture:
        return {grey for grey, count in enumerate(picture.convert("L").histogram()) if count} == {0, 255}


class Program:
    """A process in a session of its own, its output in a file; a context manager that leaves nothing running.

    Parameters:
      command(list[str]): What to run.
      log(Path): Where its output goes.
      variables(Mapping): Environment variables besides the inherited ones.
      folder(Path): Where to run it.
    """

    def __init__(
        self, command: list[str], log: Path, variables: Mapping[str, str] | None = None, folder: Path = ROOT
    ) -> None:
        self.command = command
        self.path = log
        self.variables = dict(variables or {})
        self.folder = folder

    def __enter__(self) -> Program:
        with self.path.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                env=environment(**self.variables),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_at_once()

    def stop_at_once(self) -> None:
        """Kill whatever of it still runs, also what its first process has left behind."""
        for pid in descendants(self.process.pid):
            kill(pid)
        # Its session began with a group of the same number, which no other process gets while one of it is left.
        group = self.process.pid
        eventually(lambda: kill_group(group), message="the end of its processes")
        self.process.wait(STOP_TIMEOUT)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.path.read_text(errors="replace")

    def lines(self, text: str) -> list[str]:
        """The printed lines that have a text in them."""
        return [line for line in self.log.splitlines() if text in line]

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for its end, so many seconds at most, and return its status."""
        return self.process.wait(timeout)

    def stop(self) -> int:
        """Ask it to end, as an init system does, and return its status."""
        self.process.terminate()
        return self.wait()


class Service(Program):
    """A real `dramatiq bw_tasks`.

    Parameters:
      url(str): The server.
      outdir(Path): Where to write, or None to leave OUTDIR out.
      log(Path): Where its output goes.
      processes(int): How many worker processes.
      threads(int): How many threads each.
      **variables: More environment variables.
    """

    def __init__(
        self, url: str, outdir: Path | None, log: Path, *, processes: int = 2, threads: int = 2, **variables: str
    ) -> None:
        options = ["--processes", str(processes), "--threads", str(threads)]
        super().__init__(
            [sys.executable, "-m", "dramatiq", "bw_tasks", *options],
            log,
            {"NATS_URL": url, **({"OUTDIR": str(outdir)} if outdir else {}), **variables},
        )
        self.processes = processes

    def __enter__(self) -> Service:
        super().__enter__()
        try:
            eventually(lambda: self.is_ready or not self.is_running, message="its workers' start")
        except BaseException:
            self.stop_at_once()
            raise
        return self

    @property
    def is_ready(self) -> bool:
        """Whether each of its worker processes is."""
        return len(self.worker_pids) == self.processes

    @property
    def worker_pids(self) -> list[int]:
        return ready_workers(self.log)


def foreign_worker(url: str, outdir: Path, log: Path) -> Program:
    """A worker that is a port of the walkthrough's Ruby one."""
    command = [sys.executable, "-m", "tests.support.foreign_worker"]
    return Program(command, log, {"NATS_URL": url, "OUTDIR": str(outdir)})


def command_line(*arguments: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bw_tasks` to its end."""
    command = [sys.executable, "-m", "bw_tasks", *arguments]
    return subprocess.run(
        command, env=environment(**variables), cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
