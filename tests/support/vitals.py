"""What a process holds, as the kernel of Linux tells it from outside."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Vitals(NamedTuple):
    """What a process holds.

    Parameters:
      memory(int): Resident memory, in bytes.
      threads(int): How many threads.
      sockets(int): How many sockets.
    """

    memory: int
    threads: int
    sockets: int

    def __str__(self) -> str:
        return f"{self.memory / 2**20:.0f} MiB, {self.threads} threads, {self.sockets} sockets"


def vitals(pid: int) -> Vitals:
    """Look at a process of this user."""
    folder = Path(f"/proc/{pid}")
    lines = (folder / "status").read_text().splitlines()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    links = [_target(path) for path in (folder / "fd").iterdir()]
    sockets = sum(link.startswith("socket:") for link in links)
    return Vitals(int(fields["VmRSS"][0]) * 1024, int(fields["Threads"][0]), sockets)


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:  # Closed meanwhile.
        return ""
