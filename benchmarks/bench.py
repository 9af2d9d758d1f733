"""What every measure works with: one contender, its server, and workers in this process or a child of it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dramatiq import Actor, Broker, Worker, actor

from .brokers import Contender

#: The folder that `python -m benchmarks` is run from.
ROOT = Path(__file__).resolve().parent.parent

THREADS = 8

#: Seconds until a measurement that makes no progress is given up.
TIMEOUT = 300

Figures = dict[str, float]


class NotMeasured(Exception):
    """A contender cannot do what is measured; the text says why."""


@dataclass(frozen=True)
class Bench:
    """One measurement's place.

    Parameters:
      name(str): The contender's name.
      contender(Contender): What is measured.
      url(str): Where its server is.
      token(str): What keeps it apart on that server; also the name of its queue.
      params(Mapping[str, int]): How much of everything.
    """

    name: str
    contender: Contender
    url: str
    token: str
    params: Mapping[str, int]

    def make_broker(self) -> Broker:
        """A broker that leaves on the server whatever it makes there."""
        if self.contender.make is None:
            raise NotMeasured("it is no dramatiq broker")
        return self.contender.make(self.url, self.token)

    @contextmanager
    def broker(self) -> Iterator[Broker]:
        """A broker of which nothing is left afterwards."""
        broker = self.make_broker()
        try:
            yield broker
        finally:
            self.contender.clean(broker)

    def actor(self, broker: Broker, function: Callable[..., object], **options: Any) -> Actor[..., Any]:
        """The function as an actor in this measurement's queue."""
        options.setdefault("queue_name", self.token)
        return actor(broker=broker, **options)(function)

    def child(self, measure: str, **params: int) -> subprocess.Popen[bytes]:
        """Start another part of this measurement in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.probe", measure, self.name, "--url", self.url]
        command += ["--token", self.token]
        command += [part for name, value in params.items() for part in ("--param", f"{name}={value}")]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    def run_child(self, measure: str, **params: int) -> Figures:
        """Run another part of this measurement in a process of its own, to its end."""
        return finish(self.child(measure, **params))


def finish(child: subprocess.Popen[bytes]) -> Figures:
    """Wait for a part of a measurement; its figures.

    Raises:
      NotMeasured: If it was not possible.
      RuntimeError: If it failed.
    """
    output, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"{child.args!r} ended with status {child.returncode}")
    answer = json.loads(output)
    if "reason" in answer:
        raise NotMeasured(answer["reason"])
    figures: Figures = answer["figures"]
    return figures


@contextmanager
def working(broker: Broker) -> Iterator[Worker]:
    """Run a worker in this process."""
    worker = Worker(broker, worker_threads=THREADS)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


class Calls:
    """Counts an actor's calls, and notes the clocks after the first twentieth of them and after the last.

    What comes before is start-up: connections, threads, the first pull.

    Parameters:
      total(int): How many calls to wait for.
    """

    def __init__(self, total: int) -> None:
        self.first, self.total = max(total // 20, 1), total
        self._numbers = itertools.count(1)
        self._marks: dict[int, tuple[float, float]] = {}
        self._done = threading.Event()

    def add(self) -> None:
        """Count a call, from any thread."""
        number = next(self._numbers)
        if number == self.first or number == self.total:
            self._marks[number] = (time.perf_counter(), time.process_time())
            if number == self.total:
                self._done.set()

    def wait(self) -> None:
        """Wait for the last call."""
        if not self._done.wait(TIMEOUT):
            raise RuntimeError(f"{next(self._numbers) - 1} of {self.total} messages were handled in {TIMEOUT} s")

    def figures(self) -> Figures:
        """Wait for the last call; the messages a second and the CPU of this process for each."""
        self.wait()
        (began, began_cpu), (ended, ended_cpu) = self._marks[self.first], self._marks[self.total]
        count = self.total - self.first
        return {"rate": count / (ended - began), "cpu_us": (ended_cpu - began_cpu) / count * 1e6}
