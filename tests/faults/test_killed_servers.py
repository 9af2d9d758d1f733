"""Servers that are killed, restarted and frozen: confirmed sends survive, delivery resumes."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.errors import BrokerConnectionError
from tests.faults.test_kill_loop import SEED, check
from tests.support.chaos import Chaos
from tests.support.faults import ACK_WAIT, SOON, Application
from tests.support.waiting import eventually
from tests.support.workers import in_background


def test_empty_queue_is_refilled_after_the_server_was_killed(
    own_server: NatsServer, own_application: Application
) -> None:
    with own_application.workers() as workers:
        own_application.send("before")
        own_application.await_notes("end", "before")
        own_application.await_empty()
        own_server.kill()
        own_server.start()

        own_application.send("after")
        own_application.await_notes("end", "after")
        own_application.await_empty()
        assert workers.is_running


def test_pulling_resumes_after_a_restart_of_the_server(own_server: NatsServer, own_application: Application) -> None:
    with own_application.workers() as workers:
        for number in range(3):
            own_server.restart()
            own_application.send(f"message {number}")
            own_application.await_notes("end", f"message {number}")
        own_application.await_empty()
        assert workers.is_running


@pytest.mark.faults
def test_restart_of_the_server_under_load_runs_nothing_twice(
    own_server: NatsServer, own_application: Application
) -> None:
    own_application.redeclare("default", ack_wait=4 * ACK_WAIT)
    over = threading.Event()
    taken: list[str] = []

    def send_on() -> None:
        for number in itertools.count():
            if over.is_set():
                break
            with suppress(BrokerConnectionError):
                own_application.send(f"message {number}")
                taken.append(f"message {number}")

    def have_run(count: int) -> bool:
        return len(own_application.notes("end")) > count

    with own_application.workers(threads=4), own_application.workers(threads=4):
        sending = in_background(send_on)
        for number in range(1, 6):
            eventually(partial(have_run, 300 * number), SOON, message="work")
            own_server.restart()
        over.set()
        sending.result(SOON / 1000)
        own_application.await_notes("end", *taken)
        own_application.await_empty()

    twice = {
        key: count for key, count in Counter(note.key for note in own_application.notes("end")).items() if count > 1
    }
    assert twice == {}


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["kill_server", "restart_server", "freeze_server"])
def test_confirmed_sends_survive_under_load(own_server: NatsServer, own_application: Application, kind: str) -> None:
    with Chaos(own_server, own_application, SEED) as chaos:
        chaos.round(faults=3, kinds=[kind])
        chaos.drain()
        check(chaos.account())


def freeze(server: NatsServer) -> None:
    """Stop a server, and wait until each of its threads stands still: a running one goes on for a moment."""
    os.kill(server.pid, signal.SIGSTOP)
    threads = Path(f"/proc/{server.pid}/task")
    eventually(
        lambda: all("State:\tT" in (thread / "status").read_text() for thread in threads.iterdir()),
        message="the server's standstill",
    )


@pytest.mark.faults
def test_frozen_server_makes_sending_fail_in_time_and_work_again(
    own_server: NatsServer, own_application: Application
) -> None:
    own_application.configure(timeout=1_000)
    own_application.send("before")
    with own_application.workers() as workers:
        own_application.await_notes("end", "before")
        freeze(own_server)
        try:
            with pytest.raises(BrokerConnectionError, match="within 1000 ms"):
                own_application.send("meanwhile")
            # Long enough for both clients to notice that nothing answers.
            workers.await_line("Lost the connection")
        finally:
            os.kill(own_server.pid, signal.SIGCONT)

        own_application.send_until_stored("after")
        own_application.await_notes("end", "after")
        assert workers.is_running
