"""The walkthrough's stream and consumer, as its own commands make them."""

from __future__ import annotations

from typing import Any

from dramatiq_jetstream import WorkQueue
from tests.support.admin import Admin

#: The binding of a queue to them.
BLACK_AND_WHITE = WorkQueue(
    stream="IMAGES",
    subject="IMAGES.blackandwhite",
    consumer="BW",
    stream_subjects=["IMAGES.>"],
    max_deliver=5,
    ack_wait=30_000,
    max_msg_size=512,
    duplicate_window=3_600_000,
    discard="old",
)

#: What `nats stream add IMAGES` with the walkthrough's options asks of the server.
STREAM = {
    "name": "IMAGES",
    "subjects": ["IMAGES.>"],
    "retention": "workqueue",
    "max_consumers": -1,
    "max_msgs_per_subject": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msg_size": 512,
    "storage": "file",
    "discard": "old",
    "num_replicas": 1,
    "duplicate_window": 3_600_000_000_000,
}

#: What `nats consumer add IMAGES BW` with the walkthrough's options asks of the server.
CONSUMER = {
    "durable_name": "BW",
    "deliver_policy": "all",
    "ack_policy": "explicit",
    "ack_wait": 30_000_000_000,
    "max_deliver": 5,
    "filter_subject": "IMAGES.blackandwhite",
    "replay_policy": "instant",
}


def make_images(admin: Admin, *, stream: dict[str, Any] | None = None, consumer: dict[str, Any] | None = None) -> None:
    """Make the stream IMAGES and its consumer BW.

    Parameters:
      admin(Admin): The client to make them with.
      stream(dict): What the stream shall have otherwise.
      consumer(dict): What the consumer shall have otherwise.
    """
    made = admin.api("STREAM.CREATE.IMAGES", STREAM | (stream or {}))
    assert made["state"]["last_seq"] == 0, f"the stream IMAGES has a past: {made['state']}"
    admin.api("CONSUMER.DURABLE.CREATE.IMAGES.BW", {"stream_name": "IMAGES", "config": CONSUMER | (consumer or {})})
