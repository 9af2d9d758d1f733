"""An application whose groups die at the worst moments: `dramatiq tests.support.apps.grouping`.

The environment says at which moment its process kills itself, once:
``counted``, when a member was counted, and its message is not acknowledged;
``clearing``, when the last member was counted, and the callback is not stored;
``cleared``, when the callback is stored, and the last member's message is not acknowledged.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq import Broker, Message, MessageProxy, Middleware
from dramatiq.middleware import GroupCallbacks, default_middleware

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.rate_limits import JetStreamBackend
from tests.support.apps.dying import die
from tests.support.faults import make_settings, write_note

FOLDER = Path(os.environ["FAULTS_FOLDER"])

MOMENT = os.environ.get("GROUPING_MOMENT")

#: The member whose process dies when it was counted.
VICTIM = "0"


def die_once(moment: str) -> None:
    """Die as by the kernel's hand, if this is the moment and nobody died of it yet."""
    died = FOLDER / "died"
    if moment == MOMENT and not died.exists():
        died.touch()
        die()


class Victim(Middleware):
    """Is told that an actor ran after all other middleware was."""

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        if message.args[0] == VICTIM:
            die_once("counted")


class DyingBroker(JetStreamBroker):
    """A broker whose process dies about the enqueueing of a callback."""

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        if message.actor_name != "complete":
            return super().enqueue(message, delay=delay)
        die_once("clearing")
        stored = super().enqueue(message, delay=delay)
        die_once("cleared")
        return stored


middleware: list[Middleware] = [kind() for kind in default_middleware if kind.__name__ != "Prometheus"]
broker = DyingBroker(
    os.environ["NATS_URL"],
    middleware=[Victim(), *middleware],
    **make_settings(json.loads(os.environ["FAULTS_SETTINGS"])),
)
broker.add_middleware(GroupCallbacks(JetStreamBackend(broker=broker)))
dramatiq.set_broker(broker)


@dramatiq.actor
def member(key: str) -> None:
    """One of a group."""
    write_note(FOLDER, "member", key)


@dramatiq.actor(queue_name="callbacks")
def complete(key: str) -> None:
    """What follows when all of a group are done."""
    write_note(FOLDER, "complete", key)
