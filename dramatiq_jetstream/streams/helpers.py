"""The streams beside the queues: dead letters and buckets."""

from __future__ import annotations

from ..names import Names
from .route import NANOSECONDS, Config

#: For how long the dead-letter stream remembers message ids: a move that a crash interrupted is
#: repeated within this time and still yields one entry.
DEAD_LETTER_WINDOW = 86_400_000

#: For how long a bucket remembers message ids: longer than a write is repeated, and short, because
#: rate limiters write often.
BUCKET_WINDOW = 30_000


def dead_letter_config(names: Names, replicas: int) -> Config:
    """The stream that keeps dead letters: each expires by itself, none is dropped to make room."""
    return {
        "name": names.dead_letters,
        "subjects": [names.dead_subject()],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "old",
        "duplicate_window": DEAD_LETTER_WINDOW * NANOSECONDS,
        "allow_msg_ttl": True,
        "allow_direct": True,
    }


def bucket_config(bucket: str, replicas: int) -> Config:
    """A KV bucket whose keys may expire one by one."""
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
        "max_msgs_per_subject": 1,
        "duplicate_window": BUCKET_WINDOW * NANOSECONDS,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_msg_ttl": True,
        "allow_direct": True,
    }


#: What our own helper streams must have to do their work.
HELPER_DEMANDS = frozenset({"subjects", "retention", "allow_msg_ttl", "allow_direct"})

#: What a bucket must have besides: nothing but a key's own time to live may end it, and no older value may follow.
BUCKET_DEMANDS = HELPER_DEMANDS | {"max_age", "max_msgs_per_subject"}
