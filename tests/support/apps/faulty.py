"""An application whose messages say what shall happen to them: `dramatiq tests.support.apps.faulty`.

Each actor takes a key and steps, and notes in a file of its process when it starts and ends.  A
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
        os.kill(os.getpid(), signal.SIGKILL)


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
        os.kill(os.getpid(), signal.SIGKILL)


def send(key: str, text: str) -> None:
    """Enqueue another message."""
    broker.enqueue(Message(queue_name="default", actor_name="run", args=(text,), kwargs={}, options={}))


def freeze(key: str) -> None:
    """Stop the own process, in the first attempt; only a signal from outside continues it."""
    if attempts(key) <= 1:
        os.kill(os.getpid(), signal.SIGSTOP)


STEPS: dict[str, Callable[..., None]] = {
    step.__name__: step for step in (hold, kill, fail, retry, block, eat, send, freeze)
}


def attempts(key: str) -> int:
    """How often a key was started, in any process."""
    return sum(note.what == "start" for note in notes_of(FOLDER, key))


def perform(key: str, *steps: str) -> str:
    message = CurrentMessage.get_current_message()
    write_note(FOLDER, "start", key, options=dict(message.options) if message else {})
    for step in steps:
        name, *arguments = step.split(":")
        STEPS[name](key, *arguments)
    write_note(FOLDER, "end", key)
    return key


QUICK: dict[str, Any] = {"min_backoff": 50, "max_backoff": 100}

run = dramatiq.actor(perform, actor_name="run", max_retries=3, **QUICK)
run_once = dramatiq.actor(perform, actor_name="run_once", queue_name="once", max_retries=0)
run_tight = dramatiq.actor(perform, actor_name="run_tight", queue_name="tight", max_retries=5, **QUICK)
run_endless = dramatiq.actor(perform, actor_name="run_endless", queue_name="endless", max_retries=None, **QUICK)
run_picky = dramatiq.actor(
    perform, actor_name="run_picky", queue_name="picky", retry_when=lambda retries, exception: retries < 24, **QUICK
)

if os.environ.get("FAULTS_VERSION") == "new":
    run_new = dramatiq.actor(perform, actor_name="run_new", max_retries=3, **QUICK)

if "bound" in broker.settings.queues:
    run_bound = dramatiq.actor(perform, actor_name="run_bound", queue_name="bound", max_retries=10, **QUICK)
