"""An application whose messages say what shall happen to them: `dramatiq tests.support.apps.faulty`.

Each actor takes a key and steps, and notes in a file when it starts and ends.  A
note is one write to a file opened for appending, so it outlives the process however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq import Broker, Message, MessageProxy, Middleware
from dramatiq.middleware import CurrentMessage, default_middleware

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.client import supervision
from dramatiq_jetstream.client.connection import Connection
from dramatiq_jetstream.client.publisher import Receipt
from dramatiq_jetstream.client.session import Session
from dramatiq_jetstream.dead_letters import DeadLetterStore, Failure, exhausted
from dramatiq_jetstream.deliveries import Puller
from dramatiq_jetstream.streams import Route
from dramatiq_jetstream.wire import Publication
from tests.support.apps.dying import die
from tests.support.faults import make_settings, notes_of, write_note

FOLDER = Path(os.environ["FAULTS_FOLDER"])

#: How long a held actor waits at most, in seconds; its test has failed long before.
HOLD_LIMIT = 60

#: The address space, in bytes, beyond which an actor that eats memory is refused more.
MEMORY = 256 * 1024 * 1024


class Witness(Middleware):
    """Notes what dramatiq's signals tell, and leaves an option of its own in each failed message."""

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        if exception is not None:
            message.options["witness"] = f"attempt {message.options.get('retries', 0)}"

    def before_delay_message(self, broker: Broker, message: MessageProxy) -> None:
        write_note(FOLDER, "delayed", message.args[0] if message.args else "")


def make_broker() -> JetStreamBroker:
    middleware: list[Middleware] = [kind() for kind in default_middleware if kind.__name__ != "Prometheus"]
    settings = make_settings(json.loads(os.environ["FAULTS_SETTINGS"]))
    return JetStreamBroker(os.environ["NATS_URL"], middleware=[*middleware, CurrentMessage(), Witness()], **settings)


broker = make_broker()
dramatiq.set_broker(broker)


def hold(key: str, limit: str = str(HOLD_LIMIT)) -> None:
    """Wait, in steps that dramatiq can interrupt, until the test lets go."""
    deadline = time.monotonic() + float(limit)
    never = threading.Event()
    while time.monotonic() < deadline and not (FOLDER / "released").exists():
        never.wait(0.01)


def kill(key: str, times: str = "1000000") -> None:
    """Die as by the kernel's hand, in the first so many attempts."""
    if attempts(key) <= int(times):
        die()


def fail(key: str, times: str = "1000000") -> None:
    """Raise, in the first so many attempts."""
    if attempts(key) <= int(times):
        raise RuntimeError(f"{key} fails on purpose")


def retry(key: str, delay: str) -> None:
    """Ask for another attempt, once."""
    if attempts(key) <= 1:
        raise dramatiq.errors.Retry(delay=int(delay))


def block(key: str, milliseconds: str) -> None:
    """Spend time in C, where no exception reaches the thread."""
    ctypes.CDLL(None).usleep(int(milliseconds) * 1000)


def eat(key: str) -> None:
    """Take memory until there is none, in the first attempt, and die of it as by the kernel's hand."""
    if attempts(key) > 1:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    eaten = []
    try:
        while True:
            eaten.append(bytearray(1024 * 1024))
    except MemoryError:
        die()


def send(key: str, text: str) -> None:
    """Enqueue another message."""
    broker.enqueue(Message(queue_name="default", actor_name="run", args=(text,), kwargs={}, options={}))


def freeze(key: str) -> None:
    """Stop the own process, in the first attempt; only a signal from outside continues it."""
    if attempts(key) <= 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        # The kernel stops one thread after the other, and this one perhaps not first.
        threading.Event().wait(0.5)


STEPS: dict[str, Callable[..., None]] = {
    step.__name__: step for step in (hold, kill, fail, retry, block, eat, send, freeze)
}


def attempts(key: str) -> int:
    """How often a key was started, in any process."""
    return sum(note.what == "start" for note in notes_of(FOLDER, key))


def perform(key: str, *steps: str) -> None:
    message = CurrentMessage.get_current_message()
    write_note(FOLDER, "start", key, options=dict(message.options) if message else {})
    for step in steps:
        name, *arguments = step.split(":")
        STEPS[name](key, *arguments)
    write_note(FOLDER, "end", key)


def die_between(stored: str) -> None:
    """Have the process die once it has stored a copy, or a dead letter, and before it removes the original."""
    if stored == "copy":
        publish = Connection.publish

        def publish_and_die(self: Connection, publication: Publication, look: Any = None) -> Receipt:
            publish(self, publication, look)
            die()
            raise AssertionError("still alive")

        Connection.publish = publish_and_die  # type: ignore[method-assign]
    else:
        store = DeadLetterStore.store

        async def store_and_die(self: DeadLetterStore, session: Session, route: Route, failure: Failure) -> None:
            await store(self, session, route, failure)
            die()

        DeadLetterStore.store = store_and_die  # type: ignore[method-assign]


if "FAULTS_DIE_BETWEEN" in os.environ:
    die_between(os.environ["FAULTS_DIE_BETWEEN"])


def break_task(name: str) -> None:
    """Have a background task of the puller, or the sweep, fail whenever it runs."""

    async def fail(*_: Any) -> None:
        raise ValueError(f"{name} fails on purpose")

    owner = exhausted.ExhaustedMessages if name == "_sweep_for_ever" else Puller
    setattr(owner, name, fail)
    supervision.MIN_PAUSE, supervision.MAX_PAUSE = 10, 20


if "FAULTS_BREAK" in os.environ:
    break_task(os.environ["FAULTS_BREAK"])

exhausted.SWEEP_INTERVAL = float(os.environ.get("FAULTS_SWEEP", exhausted.SWEEP_INTERVAL))

QUICK: dict[str, Any] = {"min_backoff": 50, "max_backoff": 100}


def actor(name: str, **options: Any) -> dramatiq.Actor[..., None]:
    """Declare an actor that performs its steps."""
    declare: Any = dramatiq.actor
    declared: dramatiq.Actor[..., None] = declare(perform, actor_name=name, **options)
    return declared


run = actor("run", max_retries=3, **QUICK)
run_once = actor("run_once", queue_name="once", max_retries=0)
run_tight = actor("run_tight", queue_name="tight", max_retries=5, **QUICK)
run_endless = actor("run_endless", queue_name="endless", max_retries=None, **QUICK)
run_picky = actor("run_picky", queue_name="picky", retry_when=lambda retries, exception: retries < 24, **QUICK)

if os.environ.get("FAULTS_VERSION") == "new":
    run_new = actor("run_new", max_retries=3, **QUICK)

if "bound" in broker.settings.queues:

    @dramatiq.actor(queue_name="bound", max_retries=10, min_backoff=50, max_backoff=100)
    def run_bound(key: str, steps: list[str]) -> None:
        perform(key, *steps)
