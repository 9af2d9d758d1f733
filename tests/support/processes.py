"""The processes of this machine: which of them tests started, and whether they still run."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: In the environment of each process that the tests of one pytest process start.
MARKER = "DRAMATIQ_JETSTREAM_TESTS"

#: What Python keeps running beside a program for its own purposes.
_PYTHONS_OWN = ("resource_tracker", "forkserver")


class Process(NamedTuple):
    """A running process."""

    pid: int
    state: str
    parent: int
    group: int


def mark() -> str:
    """Mark the processes that this one starts from now on, and return the mark.

    It is a new one in each process: tests that run in a test must not take its processes for their own.
    """
    os.environ[MARKER] = f"{os.getpid()}-{secrets.token_hex(4)}"
    return os.environ[MARKER]


def marked(value: str) -> dict[int, str]:
    """The command lines of the running processes with a mark, by process id; none where there is no /proc.

    They are found wherever they went: in sessions of their own, and after their parents died.
    """
    mark = f"{MARKER}={value}".encode()
    found = {process.pid for process in running() if process.pid != os.getpid()}
    commands = {pid: _command(pid) for pid in found if mark in _read(pid, "environ").split(b"\0")}
    return {pid: command for pid, command in commands.items() if command and not _is_pythons_own(command)}


def kill(pid: int) -> None:
    """Kill a process; whether it had ended already does not matter."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def kill_group(group: int) -> bool:
    """Kill the processes of a group, whether its leader has ended or not, and return whether none is left."""
    if in_group(group):
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    return not in_group(group)


def in_group(group: int) -> set[int]:
    """The running processes of a group."""
    return {process.pid for process in running() if process.group == group}


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits for its parent to notice its end does not."""
    return any(process.pid == pid for process in running())


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    parents = {process.pid: process.parent for process in running()}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def running() -> list[Process]:
    """The processes that have not ended."""
    if Path("/proc/self/stat").exists():
        rows = [_stat(path) for path in Path("/proc").glob("[0-9]*/stat")]
    else:
        command = ["ps", "-A", "-o", "pid=,state=,ppid=,pgid="]
        listed = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
    found = [Process(int(row[0]), row[1], int(row[2]), int(row[3])) for row in rows if row]
    return [process for process in found if not process.state.startswith(("Z", "X"))]


def _stat(path: Path) -> list[str]:
    try:
        before, _, after = path.read_text(errors="replace").rpartition(")")
    except (FileNotFoundError, ProcessLookupError):  # It has just ended.
        return []
    return [before.split()[0], *after.split()[:3]]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # It has just ended, or is another user's.
        return b""


def _command(pid: int) -> str:
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _is_pythons_own(command: str) -> bool:
    return any(name in command for name in _PYTHONS_OWN)
