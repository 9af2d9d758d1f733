"""Forks while it consumes, or while its server is away: `python -m tests.support.apps.forked closing|away`."""

from __future__ import annotations

import os
import sys
import time

import dramatiq
from dramatiq import Worker

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.errors import BrokerConnectionError

#: Seconds after which a child that still runs is taken for stuck.
LIMIT = 20


def make_broker(url: str, received: list[str]) -> JetStreamBroker:
    broker = JetStreamBroker(url, namespace=os.environ["FAULTS_NAMESPACE"], timeout=2_000)

    def receive(sender: str) -> None:
        received.append(sender)

    dramatiq.actor(actor_name="receive", broker=broker)(receive)
    return broker


def send(broker: JetStreamBroker, sender: str) -> None:
    broker.enqueue(broker.get_actor("receive").message(sender))


def status_of(pid: int) -> int:
    """The exit status of a child; one that is stuck is killed."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


def drain(broker: JetStreamBroker, received: list[str], count: int) -> None:
    deadline = time.monotonic() + LIMIT
    while len(received) < count and time.monotonic() < deadline:
        time.sleep(0.05)


def closing() -> tuple[list[str], int]:
    """The child of a process that consumes closes the broker, as an exit handler does, and uses it again."""
    received: list[str] = []
    broker = make_broker(os.environ["NATS_URL"], received)
    send(broker, "parent")
    worker = Worker(broker, worker_timeout=50)
    worker.start()
    drain(broker, received, 1)
    pid = os.fork()
    if pid == 0:
        broker.close()
        send(broker, "child")
        broker.close()
        os._exit(0)
    status = status_of(pid)
    send(broker, "parent again")
    drain(broker, received, 3)
    worker.stop()
    broker.close()
    return received, status


def send_once_up(broker: JetStreamBroker, sender: str) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            send(broker, sender)
        except BrokerConnectionError:
            if time.monotonic() > deadline:
                raise
        else:
            return


def away() -> tuple[list[str], int]:
    """The child of a process whose server is away uses the broker once the server is back."""
    received: list[str] = []
    with NatsServer() as server:
        broker = make_broker(server.url, received)
        send(broker, "parent")
        session = broker.connection.session()
        server.kill()
        while session.client.is_connected:
            time.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            send_once_up(broker, "child")
            broker.close()
            os._exit(0)
        server.start()
        status = status_of(pid)
        send_once_up(broker, "parent again")
        worker = Worker(broker, worker_timeout=50)
        worker.start()
        drain(broker, received, 3)
        worker.stop()
        broker.close()
    return received, status


if __name__ == "__main__":
    outcome, child_status = {"closing": closing, "away": away}[sys.argv[1]]()
    print(sorted(outcome), child_status, flush=True)
