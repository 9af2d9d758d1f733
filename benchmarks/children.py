"""Programs that run beside a measurement, and end with it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: Seconds that a process may take until it is gone.
STOP_TIMEOUT = 20


@contextmanager
def process(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None, *, apart: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends.

    Parameters:
      command(list[str]): The program and its arguments.
      log(Path): Takes its output.
      environment(Mapping[str, str]): Its environment, if not this process's.
      apart(bool): Whether a Ctrl-C in the terminal shall not reach it.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=apart
        )
    try:
        yield child
    finally:
        _end(child)


def last_words(log: Path) -> str:
    """The end of what a program has written."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
