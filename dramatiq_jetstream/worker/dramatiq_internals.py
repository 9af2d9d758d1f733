"""The only module that uses parts of dramatiq which its documentation does not promise.

What is used, and why a public way does not do:

- ``dramatiq.worker.ConsumerThread`` (``_ConsumerThread`` in dramatiq 1), its ``consumer``, ``paused``, ``running``,
  ``work_queue`` and ``handle_message``: a plain message goes to the worker's threads without waking the consumer's
  thread first.
- the items of ``Worker.work_queue``: what was not started goes back when the worker shuts down, or is slow.
- ``MessageProxy._exception``: its dead letter contains why a message failed.
- the names of the loggers of ``dramatiq.worker``: their lines hold names, arguments and exceptions from outside.
- ``dramatiq.worker.QUEUE_PREFETCH``: whether a user chose the prefetch.

``tests/unit/test_private_parts.py`` asserts each name and signature.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq.worker
from dramatiq import Consumer, MessageProxy, Worker
from dramatiq.common import iter_queue

from ..logs import guard

try:
    from dramatiq.worker import ConsumerThread
except ImportError:
    # dramatiq 1
    from dramatiq.worker import _ConsumerThread as ConsumerThread

#: Seconds to wait for the lock of the worker's queue.
LOCK_TIMEOUT = 0.1


def guard_loggers(queue_name: str) -> None:
    """Have the lines of the worker's threads escaped."""
    for name in ("WorkerThread", f"ConsumerThread({queue_name})"):
        guard(logging.getLogger(f"{dramatiq.worker.__name__}.{name}"))


def current_consumer_thread() -> ConsumerThread | None:
    """The worker's thread that runs this, if one of its consumers' does."""
    current = threading.current_thread()
    return current if isinstance(current, ConsumerThread) else None


def takes(thread: ConsumerThread, consumer: Consumer) -> bool:
    """Whether a consumer's thread would hand a message to the worker's threads now."""
    if thread.consumer is not consumer or thread.paused or not thread.running:
        return False
    # An exception thrown into a worker's thread may leave the lock of its queue taken: the loop must not wait for it
    # for ever.  Other threads hold it for some microseconds.
    mutex = thread.work_queue.mutex
    if mutex.locked():
        if not mutex.acquire(timeout=LOCK_TIMEOUT):
            return False
        mutex.release()
    return True


def hand_over(thread: ConsumerThread, message: MessageProxy) -> None:
    """Put a message into the worker's queue."""
    thread.handle_message(message)


def take_waiting(worker: Worker) -> Iterator[MessageProxy]:
    """Take the messages that a worker has not started out of its queue."""
    for item in iter_queue(worker.work_queue):
        worker.work_queue.task_done()
        yield _message_of(item)


def take_last(thread: ConsumerThread, count: int, chosen: Callable[[MessageProxy], bool]) -> list[MessageProxy]:
    """Take messages that were not started out of the worker's queue, those first that would be started last.

    Parameters:
      thread(ConsumerThread): A consumer's thread of the worker.
      count(int): How many at most.
      chosen(Callable): Whether a message may be taken.
    """
    queue, taken = thread.work_queue, list[MessageProxy]()
    items = list(iter_queue(queue))
    for item in reversed(items):
        if len(taken) < count and chosen(_message_of(item)):
            taken.append(_message_of(item))
        else:
            queue.put(item)
    # What was put back counts twice until now.
    for _ in items:
        queue.task_done()
    return taken


def _message_of(item: Any) -> MessageProxy:
    # dramatiq 1 queues pairs of priority and message.
    message: MessageProxy = getattr(item, "message", None) or item[1]
    return message


def exception_of(message: MessageProxy) -> BaseException | None:
    """What a message failed with."""
    exception: BaseException | None = message._exception
    return exception


def has_chosen_prefetch() -> bool:
    """Whether the user chose how many messages to prefetch."""
    return bool(dramatiq.worker.QUEUE_PREFETCH)
