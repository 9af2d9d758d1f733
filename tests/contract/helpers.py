"""What the contract's tests share; where the brokers rightly differ, these functions hide it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import dramatiq
from dramatiq import Message, MessageProxy, Middleware, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name

from dramatiq_jetstream import JetStreamBroker

with warnings.catch_warnings():
    # dramatiq 1 warns of each backend whose driver is not installed.
    warnings.simplefilter("ignore", ImportWarning)
    from dramatiq.rate_limits.backends import StubBackend as RateLimiterBackend
    from dramatiq.results.backends import StubBackend as ResultBackend

__all__ = [
    "DRAMATIQ_2",
    "AnyBroker",
    "RateLimiterBackend",
    "Recorder",
    "ResultBackend",
    "Signal",
    "StartWorker",
    "dead_letter_count",
    "failing",
    "finish",
    "join",
    "run_until_interrupted",
    "wait_for",
]

AnyBroker = StubBroker | JetStreamBroker

DRAMATIQ_2 = int(dramatiq.__version__.split(".")[0]) >= 2

#: Milliseconds after which a queue that should be empty is taken for stuck.
JOIN_TIMEOUT = 90_000

#: Seconds after which an event that should have come is taken for lost.
EVENT_TIMEOUT = 60


class StartWorker(Protocol):
    def __call__(self, threads: int = 4, prefetch: int | None = None) -> Worker: ...


def join(broker: AnyBroker, queue_name: str = "default", timeout: int = JOIN_TIMEOUT) -> None:
    """Wait until a queue is empty; dead letters, over which dramatiq 2's StubBroker raises, do not matter."""
    if isinstance(broker, StubBroker):
        broker.join(queue_name, timeout=timeout, fail_fast=False)
    else:
        broker.join(queue_name, interval=10, timeout=timeout)


def finish(broker: AnyBroker, worker: Worker, *queue_names: str) -> None:
    """Wait until queues, one after the other, are empty and the worker has done all that follows."""
    for queue_name in queue_names or ("default",):
        join(broker, queue_name)
        worker.join()


def dead_letter_count(broker: AnyBroker, queue_name: str = "default") -> int:
    """How many dead letters a queue has."""
    if isinstance(broker, StubBroker):
        return len(broker.dead_letters_by_queue[queue_name])
    return broker.get_queue_message_counts(queue_name)[2]


def wait_for(event: threading.Event) -> None:
    """Wait for an event that a correct broker brings about."""
    assert event.wait(EVENT_TIMEOUT), "the event did not come"


def run_until_interrupted() -> None:
    """Do nothing, in steps that dramatiq can interrupt."""
    never = threading.Event()
    for _ in range(EVENT_TIMEOUT * 100):
        never.wait(0.01)
    raise AssertionError("nothing interrupted this")


class Signal(NamedTuple):
    """One call of a middleware's hook.

    Parameters:
      name(str): The hook.
      subject(str): The message, actor or queue it was about.
      delay(int): Of an enqueue, the delay.
      retries(int): Of a message, the retries it had by then.
    """

    name: str
    subject: str
    delay: int | None = None
    retries: int = 0


class Recorder(Middleware):
    """Notes the signals in their order.

    The StubBroker passes a delayed message through a queue of its own, with signals of its own,
    which another broker need not have; acknowledgements there are left out.
    """

    def __init__(self) -> None:
        self.signals: list[Signal] = []

    def of(self, subject: str) -> list[str]:
        """The hooks that were called about a message, an actor or a queue."""
        return [signal.name for signal in self.signals if signal.subject == subject]

    def retries(self, name: str) -> list[Signal]:
        """The calls of an enqueue hook for messages that are to be retried."""
        return [signal for signal in self.signals if signal.name == name and signal.delay is not None]

    def before_declare_actor(self, broker: Any, actor: Any) -> None:
        self.signals.append(Signal("before_declare_actor", actor.actor_name))

    def after_declare_actor(self, broker: Any, actor: Any) -> None:
        # To middleware that comes late, dramatiq 1 tells the actor's name only.
        self.signals.append(Signal("after_declare_actor", getattr(actor, "actor_name", actor)))

    def before_declare_queue(self, broker: Any, queue_name: str) -> None:
        self.signals.append(Signal("before_declare_queue", queue_name))

    def after_declare_queue(self, broker: Any, queue_name: str) -> None:
        self.signals.append(Signal("after_declare_queue", queue_name))

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self._note_enqueue("before_enqueue", message, delay)

    def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self._note_enqueue("after_enqueue", message, delay)

    def before_process_message(self, broker: Any, message: MessageProxy) -> None:
        self._note("before_process_message", message)

    def after_process_message(self, broker: Any, message: MessageProxy, **outcome: Any) -> None:
        self._note("after_process_message", message)

    def after_skip_message(self, broker: Any, message: MessageProxy) -> None:
        self._note("after_skip_message", message)

    def before_ack(self, broker: Any, message: MessageProxy) -> None:
        self._note("before_ack", message)

    def after_ack(self, broker: Any, message: MessageProxy) -> None:
        self._note("after_ack", message)

    def before_nack(self, broker: Any, message: MessageProxy) -> None:
        self._note("before_nack", message)

    def after_nack(self, broker: Any, message: MessageProxy) -> None:
        self._note("after_nack", message)

    def _note(self, name: str, message: MessageProxy) -> None:
        if message.queue_name == q_name(message.queue_name):
            self.signals.append(Signal(name, message.message_id, retries=message.options.get("retries", 0)))

    def _note_enqueue(self, name: str, message: Message[Any], delay: int | None) -> None:
        self.signals.append(Signal(name, message.message_id, delay, message.options.get("retries", 0)))


def failing(times: int, error: Callable[[], BaseException] = lambda: RuntimeError("not yet")) -> Callable[[], int]:
    """Make a function that raises so many times, and from then on returns how often it was called."""
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error()
        return calls

    return call
