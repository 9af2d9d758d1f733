"""Forks after it has used its broker, as gunicorn does with --preload; both processes go on using it."""

from __future__ import annotations

import os
import sys
import threading

import dramatiq
from dramatiq import Worker

from dramatiq_jetstream import JetStreamBroker

broker = JetStreamBroker(os.environ["NATS_URL"], namespace=os.environ["FAULTS_NAMESPACE"])
received: list[str] = []
both = threading.Event()


@dramatiq.actor(broker=broker)
def receive(sender: str) -> None:
    received.append(sender)
    if len(received) == 3:
        both.set()


def child() -> None:
    receive.send("child")
    broker.close()
    os._exit(0)


def main() -> None:
    receive.send("parent before the fork")
    pid = os.fork()
    if pid == 0:
        child()
    _, status = os.waitpid(pid, 0)
    receive.send("parent after the fork")
    worker = Worker(broker, worker_timeout=50)
    worker.start()
    complete = both.wait(20)
    worker.stop()
    broker.close()
    print(sorted(received), status, flush=True)
    sys.exit(0 if complete and status == 0 else 1)


if __name__ == "__main__":
    main()
