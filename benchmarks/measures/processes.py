"""CPU-bound actors in real worker processes."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from ..bench import THREADS, Bench, Figures
from ..children import last_words, process
from ..filling import enqueue_all

#: Seconds without any report after which the workers are given up.
SILENCE = 60

#: The part of all runs after which the clock runs, and the part at which it stops: before, workers
#: start; afterwards some have nothing left to do.
BEGIN, END = 0.1, 0.85


def burn(bench: Bench) -> Figures:
    """Actor runs a second in so many worker `processes`, of `count`."""
    with bench.broker() as broker, tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        address, log = str(Path(folder, "reports")), Path(folder, "log")
        actor = bench.actor(broker, _elsewhere, actor_name="burn")
        enqueue_all(broker, [actor.message() for _ in range(bench.params["count"])])
        command = [sys.executable, "-m", "dramatiq", "benchmarks.burning", "--threads", str(THREADS)]
        command += ["--processes", str(bench.params["processes"])]
        environment = {
            **os.environ,
            "BENCHMARKS_BROKER": bench.name,
            "BENCHMARKS_URL": bench.url,
            "BENCHMARKS_TOKEN": bench.token,
            "BENCHMARKS_REPORTS": address,
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reports, process(command, log, environment):
            reports.bind(address)
            reports.settimeout(SILENCE)
            try:
                return {"runs": _rate(reports, bench.params["count"], bench.params["processes"])}
            except TimeoutError:
                raise RuntimeError(f"The workers do not report. Their last words:\n{last_words(log)}") from None


def _rate(reports: socket.socket, count: int, processes: int) -> float:
    """Reports a second, counted from when every process has begun to work."""
    seen: set[bytes] = set()
    received = 0
    while received < count * BEGIN or len(seen) < processes:
        seen.add(reports.recv(64))
        received += 1
    began, first = time.perf_counter(), received
    while received < count * END:
        reports.recv(64)
        received += 1
    seconds = time.perf_counter() - began
    for _ in range(count - received):
        # Unread, they would keep the workers from ending.
        reports.recv(64)
    return (received - first) / seconds


def _elsewhere() -> None:
    raise AssertionError("only the worker processes run this actor")
