"""Rate limiters and barriers that several processes share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import pytest
from dramatiq.rate_limits import Barrier

from dramatiq_jetstream.rate_limits import JetStreamBackend
from tests.support.admin import Admin

TTL = 60_000

PROCESSES = 8


@pytest.fixture
def bucket(namespace: str, admin: Admin) -> str:
    return f"{namespace}-limits"


@pytest.fixture
def backend(nats_url: str, bucket: str) -> Any:
    backend = JetStreamBackend(url=nats_url, bucket=bucket)
    yield backend
    backend.close()


def contend(url: str, bucket: str, action: str, times: int = 1, processes: int = PROCESSES) -> list[Any]:
    """Have so many processes do something at once, and return what came of it."""
    command = [sys.executable, "-m", "tests.support.contender", action, bucket, str(times)]
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    env={**os.environ, "NATS_URL": url},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(processes)
        ]
        return let_go(started)


def let_go(started: list[subprocess.Popen[str]]) -> list[Any]:
    """Wait until processes are ready, let them begin, and return what they print."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outcomes = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert [process.returncode for process in started] == [0] * len(started)
    return outcomes


def test_no_increment_of_any_process_is_lost(nats_url: str, bucket: str, backend: JetStreamBackend) -> None:
    outcomes = contend(nats_url, bucket, "increment", 25)

    assert outcomes == [[True] * 25] * PROCESSES
    assert not backend.incr("counter", 1, PROCESSES * 25, TTL)
    assert backend.incr("counter", 1, PROCESSES * 25 + 1, TTL)


def test_limit_holds_across_processes_and_none_of_them_starves(
    nats_url: str, bucket: str, backend: JetStreamBackend
) -> None:
    outcomes = contend(nats_url, bucket, "enter", 10)

    # Each process ends only when it was let in ten times; the clock is the same in all of them.
    stays = [stay for outcome in outcomes for stay in outcome]
    assert len(stays) == PROCESSES * 10
    assert max(sum(entered <= moment <= left for entered, left in stays) for moment, _ in stays) <= 2
    assert backend.incr("limiter", 2, 2, TTL)


def test_barrier_lets_processes_wait_for_each_other(nats_url: str, bucket: str, backend: JetStreamBackend) -> None:
    Barrier(backend, "barrier").create(parties=4)

    assert contend(nats_url, bucket, "meet", processes=4) == [True] * 4


def test_last_process_at_a_barrier_clears_it(nats_url: str, bucket: str, backend: JetStreamBackend) -> None:
    Barrier(backend, "barrier").create(parties=4)

    assert sorted(contend(nats_url, bucket, "meet_without_waiting", processes=4)) == [False, False, False, True]
