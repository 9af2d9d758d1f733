"""Running a program in a pseudo-terminal, as a person at a keyboard does."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
from collections.abc import Callable
from pathlib import Path

from tests.support.bw import environment


def run_in_terminal(
    command: list[str],
    folder: Path,
    variables: dict[str, str],
    interrupt_at: Callable[[str], bool] = lambda screen: False,
    columns: int = 80,
) -> tuple[int, str]:
    """Run a command in a pseudo-terminal, type Ctrl-C there at some moment, and return its status and its screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.chdir(folder)
        # pytest sets it in the processes that it starts.
        os.environ.pop("COLUMNS", None)
        os.execve(command[0], command, environment(**variables))
    screen, typed = "", False
    try:
        while (printed := read_terminal(terminal)) is not None:
            screen += printed
            if not typed and interrupt_at(screen):
                typed = bool(os.write(terminal, b"\x03"))
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), screen


def read_terminal(terminal: int) -> str | None:
    """What was printed by now, if anything; None once the last process has left the terminal."""
    if not select.select([terminal], [], [], 0.05)[0]:
        return ""
    try:
        return os.read(terminal, 65536).decode(errors="replace") or None
    except OSError:  # How Linux tells that it is over.
        return None
