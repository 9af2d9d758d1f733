"""A ``dramatiq bw_tasks`` of one's own, for the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from .errors import WorkersEnded

#: Seconds for workers to end when asked to, before they are killed.
STOP_TIMEOUT = 20


class Workers:
    """Real worker processes; a context manager.

    Parameters:
      url(str): The server to work for.
      outdir(str): Where to write pictures.
      log(Path): Where their output goes.
      processes(int): How many processes.
      threads(int): How many threads each.
    """

    def __init__(self, url: str, outdir: str, log: Path, *, processes: int, threads: int) -> None:
        self.log = log
        self._environment = {**os.environ, "NATS_URL": url, "OUTDIR": outdir}
        self._command = [
            *(sys.executable, "-m", "dramatiq", "bw_tasks"),
            *("--processes", str(processes), "--threads", str(threads)),
        ]

    def __enter__(self) -> Workers:
        with self.log.open("ab") as output:
            # In a session of their own, so that a Ctrl-C in the terminal leaves ending them to us.
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def check(self) -> None:
        """Raise WorkersEnded, with the end of their log, if they are gone."""
        code = self._process.poll()
        if code is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise WorkersEnded(f"The workers ended early, with status {code}. Their last words:\n{tail}")
