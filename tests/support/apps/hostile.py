"""An application whose names are long, or try to command the terminal: `dramatiq tests.support.apps.hostile`.

Its namespace comes from the environment, and importing it connects to nothing.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.results import Results

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.results import JetStreamBackend
from tests.support.apps.names import HOSTILE, HOSTILE_NAME, LONG_ACTOR, LONG_QUEUE

NAMESPACE = os.environ.get("OPERATED_NAMESPACE", "hostile")

FOREIGN = WorkQueue(
    stream=f"PHOTOS-{NAMESPACE}",
    stream_subjects=(f"PHOTOS-{NAMESPACE}.>",),
    subject=f"PHOTOS-{NAMESPACE}.in",
    consumer="PHOTOS",
    max_deliver=3,
    ack_wait=2_000,
)

broker = JetStreamBroker(namespace=NAMESPACE, queues={"photos": FOREIGN, LONG_QUEUE: WorkQueue(ack_wait=2_000)})
broker.add_middleware(Results(backend=JetStreamBackend(broker=broker)))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=LONG_QUEUE, actor_name=LONG_ACTOR, max_retries=3, min_backoff=600_000, max_backoff=900_000)
def fail_later(*args: Any, **kwargs: Any) -> None:
    """Fail, to be tried again in ten minutes or so."""
    raise ConnectionError(HOSTILE)


@dramatiq.actor(queue_name="photos", max_retries=2, min_backoff=600_000, max_backoff=900_000)
def develop(**kwargs: Any) -> None:
    """Fail, to be tried again in ten minutes or so."""
    raise LookupError("there is no film")


@dramatiq.actor(queue_name=LONG_QUEUE, max_retries=0)
def fail(*args: Any, **kwargs: Any) -> None:
    """Fail for good."""
    raise ValueError(HOSTILE * 100)


broker.declare_queue(HOSTILE_NAME)
