"""Acknowledgements that wait for the server's word, and a server that crashes before it gives it."""

from __future__ import annotations

import signal

import pytest

from dramatiq_jetstream import NatsServer
from tests.support.faults import SOON, Application
from tests.support.waiting import eventually

#: How often the server is killed, each time in the middle of so many messages.
KILLS = 2
BURST = 250


@pytest.mark.faults
def test_confirmed_acknowledgements_survive_crashes_of_the_server(
    own_server: NatsServer, own_application: Application
) -> None:
    own_application.configure(timeout=2_000)
    own_application.redeclare("default", confirm_acks=True)
    keys = [f"message {number}" for number in range(KILLS * BURST)]
    with own_application.workers(threads=4) as workers:
        for kill in range(KILLS):
            for key in keys[kill * BURST : (kill + 1) * BURST]:
                own_application.send_until_stored(key)
            goal = kill * BURST + BURST // 4
            eventually(lambda goal=goal: len(own_application.notes("end")) >= goal, SOON)  # type: ignore[misc]
            own_server.kill()
            own_server.start()

        own_application.await_notes("end", *keys, timeout=60_000)
        own_application.send_until_stored("afterwards")
        own_application.await_notes("end", "afterwards")
        own_application.await_empty(timeout=60_000)
        workers.signal(signal.SIGTERM)
        assert workers.wait() == 0, workers.log


@pytest.mark.faults
def test_acknowledgement_that_nobody_answers_is_given_up_after_one_timeout(
    own_server: NatsServer, own_application: Application
) -> None:
    own_application.configure(timeout=1_000)
    own_application.redeclare("default", confirm_acks=True)
    stream = own_application.broker.names.stream("default")
    with own_application.workers(threads=1) as workers:
        own_application.send("held", "hold")
        own_application.await_notes("start", "held")
        # Its consumer is gone with all that it knew of the message.
        own_application.admin.api(f"CONSUMER.DELETE.{stream}.{own_application.broker.names.consumer}")
        own_application.release()

        workers.await_line("is not confirmed; it is sent again without waiting")
        own_application.send("next")
        own_application.await_notes("end", "next")
        workers.signal(signal.SIGTERM)
        assert workers.wait() == 0, workers.log
