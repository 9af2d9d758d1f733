"""dramatiq's rate limiters and barriers in a KV bucket."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from dramatiq.rate_limits import RateLimiterBackend

from .backend import Bucket
from .broker import JetStreamBroker
from .finishing import finishing

#: How many members of a group a barrier remembers in its own value; of the others there are keys.
RECENT_MEMBERS = 32

_EVENT = b"x"


class JetStreamBackend(RateLimiterBackend):
    """A rate limiter backend on NATS JetStream.

    Every change is one compare-and-set with its time to live.  Waiting on a barrier does not poll.

    Examples:

      >>> broker.add_middleware(GroupCallbacks(JetStreamBackend(broker=broker)))

    Parameters:
      url(str | Sequence[str]): The servers, as for the broker.  Not with a broker.
      bucket(str): The KV bucket; it is made when it is first needed.  Defaults to
        "dramatiq-rate-limits".
      broker(JetStreamBroker): The broker whose connection and settings to share.  Without one the
        backend makes a connection of its own, when it is first used, in each process.
      **options: Further settings of a connection of its own: ``declare``, ``replicas``, ``domain``,
        ``timeout``, and whatever ``nats.connect`` takes.
    """

    def __init__(
        self,
        *,
        url: str | Sequence[str] | None = None,
        bucket: str = "dramatiq-rate-limits",
        broker: JetStreamBroker | None = None,
        **options: Any,
    ) -> None:
        self._bucket = Bucket(bucket, url, broker, options)
        self._values = self._bucket.values

    def add(self, key: str, value: int, ttl: int) -> bool:
        """Add a key to the backend iff it doesn't exist."""
        return self._values.change(key, lambda found: _write(value) if found is None else None, ttl)

    def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
        """Atomically increment a key in the backend up to the given maximum."""
        return self._shift(key, amount, lambda value: value <= maximum, ttl)

    def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
        """Atomically decrement a key in the backend up to the given minimum.

        A group's barrier counts each of the group's messages once, however often it is delivered.
        """
        member = _group_member(key)
        if member is None:
            return self._shift(key, -amount, lambda value: value >= minimum, ttl)
        return self._count_member(key, member, minimum, ttl)

    def incr_and_sum(self, key: str, keys: Callable[[], Sequence[str]], amount: int, maximum: int, ttl: int) -> bool:
        """Atomically increment a key unless the sum of keys is greater than the given maximum."""
        if self._sum(keys()) + amount > maximum or not self.incr(key, amount, maximum, ttl):
            return False
        # Somebody may have incremented another of the keys meanwhile: then neither has it.
        if self._sum(keys()) > maximum:
            self.decr(key, amount, 0, ttl)
            return False
        return True

    def wait(self, key: str, timeout: int | None) -> bool:
        """Wait until an event is published to the given key or the timeout, in milliseconds, expires."""
        return self._values.wait(key, timeout) == _EVENT

    def wait_notify(self, key: str, ttl: int) -> None:
        """Notify parties wait()ing on a key that an event has occurred."""
        self._values.put(key, _EVENT, ttl)

    def close(self) -> None:
        """Close the connection, if it is not the broker's."""
        self._bucket.close()

    def _shift(self, key: str, amount: int, allowed: Callable[[int], bool], ttl: int) -> bool:
        def shifted(found: bytes | None) -> bytes | None:
            value = _read(found)[0] + amount
            return _write(value) if allowed(value) else None

        return self._values.change(key, shifted, ttl)

    def _sum(self, keys: Sequence[str]) -> int:
        return sum(_read(entry.value)[0] for entry in map(self._values.get, keys) if entry)

    def _count_member(self, key: str, member: str, minimum: int, ttl: int) -> bool:
        """Count a message of a group unless it was.

        Whoever was counted stands in the value itself until a key of its own says so, in whatever
        order crashes interrupt this.
        """
        if self._values.get(_member_key(key, member)) is not None:
            return True

        def counted(found: bytes | None) -> bytes | None:
            value, recent = _read(found)
            if member in recent or value - 1 < minimum:
                return None
            return _write(value - 1, [*recent, member])

        if self._values.change(key, counted, ttl):
            self._tidy(key, ttl)
            return True
        entry = self._values.get(key)
        return entry is not None and member in _read(entry.value)[1]

    def _tidy(self, key: str, ttl: int) -> None:
        """Move the members that a barrier's value remembers to keys of their own."""
        entry = self._values.get(key)
        recent = _read(entry.value)[1] if entry else []
        if len(recent) < RECENT_MEMBERS:
            return
        for member in recent:
            self._values.put(_member_key(key, member), _EVENT, ttl)

        def tidied(found: bytes | None) -> bytes | None:
            value, members = _read(found)
            return _write(value, [member for member in members if member not in recent]) if found else None

        self._values.change(key, tidied, ttl)


def _group_member(key: str) -> str | None:
    """The message that is being counted at a group's barrier on this thread, if one is."""
    message = finishing.message
    if message is None or message.options.get("group_completion_uuid") != key:
        return None
    return message.message_id


def _member_key(key: str, member: str) -> str:
    return f"{key}@member:{member}"


def _read(value: bytes | None) -> tuple[int, list[str]]:
    content = json.loads(value) if value else 0
    return (content, []) if isinstance(content, int) else (content["value"], content["members"])


def _write(value: int, members: Sequence[str] = ()) -> bytes:
    return json.dumps({"value": value, "members": members} if members else value).encode()
