"""The long run's producer: one process that sends whatever there is, and writes down what came of it.

It reads commands from standard input: `go ROUND SEED` begins, `stop` ends sending and answers with a line.  What it
sent stands in `sent.log`, one JSON list a line: what came of it ("confirmed", "unconfirmed", "refused"), the kind, the
key, and the message's id if it has one.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
from dramatiq import Message

from dramatiq_jetstream.errors import BrokerConnectionError, EnqueueRejected
from dramatiq_jetstream.wire import Publication, new_id
from tests.support.apps.faulty import FOLDER, broker
from tests.support.apps.soaking import complete, exclude, member, pace, stage, swell
from tests.support.chaos import KINDS

#: Senders at once.
THREADS = 3

#: Seconds from one message to the next of a sender, on average.
PAUSE = 0.06

#: The key and the id of a message that was sent; the id of None is that of raw messages.
Sent = tuple[str, str | None]


def send_one(key: str, choice: random.Random) -> list[Sent]:
    """Send a message of a kind that :mod:`tests.support.chaos` knows, or one of the few besides."""
    kind = key.split()[0]
    actor, steps = {**BESIDES, **{name: (actor, steps) for name, (actor, steps, _) in KINDS.items()}}[kind]
    queue = {"new": "default"}.get(actor.partition("_")[2], actor.partition("_")[2] or "default")
    args = (key, *(step.replace("KEY", key) for step in steps))
    message: Message[Any] = Message(queue_name=queue, actor_name=actor, args=args, kwargs={}, options={})
    sent = broker.enqueue(message, delay=choice.randrange(50, 5000) if kind == "delayed" else None)
    return [(key, sent.message_id)]


def send_pipeline(key: str, choice: random.Random) -> list[Sent]:
    steps = [stage.message(f"{key}/{number}") for number in range(3)]
    dramatiq.pipeline(steps, broker=broker).run()
    # The pipeline's steps are copies that say where to go on, with the same ids.
    return [(step.args[0], step.message_id) for step in steps]


def send_group(key: str, choice: random.Random) -> list[Sent]:
    members = [member.message(f"{key}/{number}") for number in range(choice.choice([1, 3, 8]))]
    last = complete.message(f"{key}/complete")
    group = dramatiq.group(members, broker=broker)
    group.add_completion_callback(last)
    group.run()
    return [(message.args[0], message.message_id) for message in [*members, last]]


def send_batch(key: str, choice: random.Random) -> list[Sent]:
    messages = [member.message(f"{key}/{number}") for number in range(choice.randrange(1, 30))]
    broker.enqueue_many(messages)
    return [(message.args[0], message.message_id) for message in messages]


def send_swollen(key: str, choice: random.Random) -> list[Sent]:
    """A pipeline whose first result does not fit into its second message."""
    first, second = swell.message(f"{key}/0"), stage.message(f"{key}/1")
    dramatiq.pipeline([first, second], broker=broker).run()
    return [(first.args[0], first.message_id), (second.args[0], second.message_id)]


def send_garbage(key: str, choice: random.Random) -> list[Sent]:
    """A message that is none, stored under an id, so that a repeated publish is one."""
    subject = broker.names.work_subject("default", choice.choice(["run", "run_once", "nobody"]))
    headers = {"Nats-Msg-Id": new_id(), **choice.choice([{}, {"Dramatiq-Foo": "bar"}])}
    body = choice.choice(["%s", '{"queue_name": "%s"', '["%s"]']) % key
    broker.queue("default").store(Publication(subject, body.encode(), headers))
    return [(key, None)]


def send_actor(actor: dramatiq.Actor[Any, Any]) -> Callable[[str, random.Random], list[Sent]]:
    def send(key: str, choice: random.Random) -> list[Sent]:
        return [(key, actor.send(key).message_id)]

    return send


#: Kinds besides those of :mod:`tests.support.chaos`: the actor and its steps.
BESIDES: dict[str, tuple[str, tuple[str, ...]]] = {
    "again": ("run", ("retry:300",)),
    "hungry": ("run", ("eat",)),
    "parent": ("run", ("send:child of KEY",)),
    "stray": ("nobody", ()),
    "renewed": ("run_new", ()),
    "purged": ("run_purged", ("fail",)),
    "bounded": ("run_bounded", ("block:5",)),
}

SENDERS: dict[str, tuple[Callable[[str, random.Random], list[Sent]], float]] = {
    **{kind: (send_one, share) for kind, (_, _, share) in KINDS.items()},
    **dict.fromkeys(BESIDES, (send_one, 3)),
    "hungry": (send_one, 0.1),
    "deadly": (send_one, 0.3),
    "bounded": (send_one, 20),
    "pipeline": (send_pipeline, 5),
    "group": (send_group, 4),
    "batch": (send_batch, 2),
    "oversized": (send_actor(swell), 1),
    "swollen": (send_swollen, 0.5),
    "garbage": (send_garbage, 3),
    "mutex": (send_actor(exclude), 3),
    "window": (send_actor(pace), 5),
}


class Producer:
    """Sends on threads of its own until it is told to stop."""

    def __init__(self) -> None:
        self._sending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("confirmed", "unconfirmed", "refused"), 0)
        self._log = (FOLDER / "sent.log").open("a", buffering=1)

    def go(self, number: str, seed: str) -> None:
        self._sending.set()
        self._threads = [
            threading.Thread(target=self._send_on, args=(f"{number}.{index}", f"{seed}.{index}"), daemon=True)
            for index in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> str:
        """End sending, and say how many messages there were so far."""
        self._sending.clear()
        for thread in self._threads:
            thread.join()
        return json.dumps(self._counts)

    def _send_on(self, name: str, seed: str) -> None:
        choice = random.Random(seed)
        kinds, weights = list(SENDERS), [share for _, share in SENDERS.values()]
        number = 0
        while self._sending.is_set():
            kind = choice.choices(kinds, weights)[0]
            number += 1
            self._send(f"{kind} {name} {number}", choice)
            threading.Event().wait(choice.expovariate(1 / PAUSE))

    def _send(self, key: str, choice: random.Random) -> None:
        send, _ = SENDERS[key.split()[0]]
        try:
            for sent, message_id in send(key, choice):
                self._note("confirmed", sent, message_id)
        except BrokerConnectionError:
            self._note("unconfirmed", key, None)
        except EnqueueRejected:
            self._note("refused", key, None)

    def _note(self, what: str, key: str, message_id: str | None) -> None:
        with self._lock:
            self._counts[what] += 1
            self._log.write(json.dumps([what, key, message_id]) + "\n")


def commands() -> Iterator[list[str]]:
    for line in sys.stdin:
        yield line.split()


def main() -> None:
    producer = Producer()
    for command, *arguments in commands():
        if command == "go":
            producer.go(*arguments)
        else:
            print(producer.stop(), flush=True)
    broker.close()


if __name__ == "__main__":
    main()
