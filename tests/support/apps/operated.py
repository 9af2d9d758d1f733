"""An application for the command line to look after: `dramatiq tests.support.apps.operated`.

Its namespace comes from the environment, and importing it connects to nothing.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.results import Results

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.results import JetStreamBackend

NAMESPACE = os.environ.get("OPERATED_NAMESPACE", "operated")

#: A stream of somebody else, bound as the walkthrough's is.
FOREIGN = WorkQueue(
    stream=f"IMAGES-{NAMESPACE}",
    stream_subjects=(f"IMAGES-{NAMESPACE}.>",),
    subject=f"IMAGES-{NAMESPACE}.blackandwhite",
    consumer="BW",
    max_deliver=2,
    ack_wait=30_000,
)

broker = JetStreamBroker(namespace=NAMESPACE, queues={"images": FOREIGN})
broker.add_middleware(Results(backend=JetStreamBackend(broker=broker)))
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=1, min_backoff=50, max_backoff=100)
def greet(name: str, punctuation: str = "!") -> None:
    """Fail for a name that nobody can have."""
    if name == "nobody":
        raise ValueError(f"there is nobody to greet{punctuation}")


@dramatiq.actor(queue_name="slow", max_retries=3, min_backoff=60_000)
def later(*args: Any) -> None:
    """Fail, to be tried again in a minute or so."""
    raise ConnectionError("the printer is on fire")


@dramatiq.actor(queue_name="images", max_retries=1, min_backoff=50, max_backoff=100)
def to_blackandwhite(id: str, image: str) -> None:
    """Do nothing to an image."""
    if id == "broken":
        raise ValueError("not an image")
