"""A server for each framework, and its commands as processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dramatiq_jetstream import NatsServer
from tests.support.bw import Program
from tests.support.ports import free_ports
from tests.support.waiting import eventually

#: Milliseconds for whatever a process does at some time.
SOON = 30_000

#: Options of dramatiq for the smallest worker.
ONE_WORKER = ("--processes", "1", "--threads", "1")

Start = Callable[..., Program]


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """A server of the module's own, for applications with default names."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def start(server: NatsServer, tmp_path: Path) -> Iterator[Start]:
    """Starts commands of the virtual environment that the tests run in; they end with the test."""
    with ExitStack() as stack:

        def start(command: str, *arguments: str, **variables: str) -> Program:
            path = Path(sys.executable).with_name(command)
            folder = tmp_path / f"{command}-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            # dramatiq 1 has Prometheus among its middleware, with a port of its own for each.
            metrics = {
                "dramatiq_prom_db": str(folder),
                "dramatiq_prom_host": "127.0.0.1",
                "dramatiq_prom_port": str(free_ports(1)[0]),
            }
            environment = {"NATS_URL": server.url, **metrics, **variables}
            program = Program([str(path), *arguments], folder / "log", environment)
            return stack.enter_context(program)

        yield start


def await_line(program: Program, text: str) -> None:
    """Wait until a process has printed something."""
    eventually(lambda: program.lines(text) or not program.is_running, SOON, message=f"the line {text!r}")
    assert program.lines(text), program.log
