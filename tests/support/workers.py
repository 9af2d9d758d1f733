"""Running dramatiq's worker in a test, and calls on threads of their own."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from dramatiq import Broker, Worker

T = TypeVar("T")


@contextmanager
def run_worker(broker: Broker, *, threads: int = 4, timeout: int = 100, **options: Any) -> Iterator[Worker]:
    """A worker that runs for the length of a with block.

    Parameters:
      broker(Broker): The broker to consume from.
      threads(int): How many messages may run at once.
      timeout(int): How long, in milliseconds, its threads wait before they look whether to stop.
      **options: Passed to dramatiq's Worker.
    """
    # dramatiq 1 has it among its defaults; it works in dramatiq's own processes only, and says so for each message.
    broker.middleware = [each for each in broker.middleware if type(each).__name__ != "Prometheus"]
    worker = Worker(broker, worker_threads=threads, worker_timeout=timeout, **options)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def threads_alive(worker: Worker) -> bool:
    """Whether each of a worker's threads still runs."""
    return all(thread.is_alive() for thread in [*worker.workers, *worker.consumers.values()])


def in_background(function: Callable[..., T], *args: Any) -> Future[T]:
    """Call a function on a thread of its own; the future holds its outcome."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def open_sockets() -> set[int]:
    """The descriptors of this process that are sockets."""
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.add(int(name))
        except OSError:  # The descriptor of the listing itself.
            continue
    return found


def open_connections() -> set[int]:
    """The descriptors of this process that are sockets of the network, and not pipes by another name."""
    found = set()
    for descriptor in open_sockets():
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            if duplicate.family in (socket.AF_INET, socket.AF_INET6):
                found.add(descriptor)
    return found
