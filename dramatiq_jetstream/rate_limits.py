"""dramatiq's rate limiters and barriers in a KV bucket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dramatiq.rate_limits import RateLimiterBackend, WindowRateLimiter

from .backends import Bucket, WindowCounts
from .broker import JetStreamBroker
from .deliveries import after_actor_hooks
from .errors import CallTimeout
from .hidden import Hidden, hidden_options
from .streams import Change

#: How many members of a group a barrier remembers in its own value; of the others there are keys.
RECENT_MEMBERS = 32

_EVENT = b"x"


class JetStreamBackend(RateLimiterBackend):
    """A rate limiter backend on NATS JetStream.

    Every change is one compare-and-set with its time to live; the changes of one process to one key are made
    together, in turn.  Waiting on a barrier does not poll.

    A group's callbacks are stored once, unless a worker dies after it stored them, before its last message
    is acknowledged, and that message is delivered again only after the ``duplicate_window`` of the
    callbacks' queue.

    Examples:

      >>> broker.add_middleware(GroupCallbacks(JetStreamBackend(broker=broker)))

    Parameters:
      url(str | Sequence[str]): The servers, as for the broker.  Not with a broker.
      bucket(str): The KV bucket; it is made when it is first needed.  Defaults to "dramatiq-rate-limits",
        or to the broker's namespace in place of "dramatiq".
      broker(JetStreamBroker): The broker whose connection and settings to share.  Without one the
        backend makes a connection of its own, when it is first used, in each process.
      **options: Further settings of a connection of its own: ``declare``, ``replicas``, ``domain``,
        ``timeout``, and whatever ``nats.connect`` takes.
    """

    def __init__(
        self,
        *,
        url: str | Sequence[str] | None = None,
        bucket: str | None = None,
        broker: JetStreamBroker | None = None,
        **options: Any,
    ) -> None:
        server, given = Hidden(url), hidden_options(options)
        del url, options
        self._bucket = Bucket("rate-limits", bucket, server, broker, given)
        self._values = self._bucket.values

    def add(self, key: str, value: int, ttl: int) -> bool:
        """Add a key to the backend iff it doesn't exist."""

        def added(found: bytes | None, _: Sequence[bytes | None]) -> bytes | None:
            return _write(value) if found is None else None

        return self._values.change(key, added, ttl, undo=_shifted(-value, _not_negative)) is not None

    def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
        """Atomically increment a key in the backend up to the given maximum."""
        change, undo = _shifted(amount, lambda value: value <= maximum), _shifted(-amount, _not_negative)
        return self._values.change(key, change, ttl, undo=undo) is not None

    def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
        """Atomically decrement a key in the backend up to the given minimum.

        A group's barrier counts each of the group's messages once, however often it is delivered.
        """
        member = _group_member(key)
        if member is None:
            change = _shifted(-amount, lambda value: value >= minimum)
            return self._values.change(key, change, ttl, is_undo=True) is not None
        return self._count_member(key, member, minimum, ttl)

    def incr_and_sum(self, key: str, keys: Callable[[], Sequence[str]], amount: int, maximum: int, ttl: int) -> bool:
        """Atomically increment a key unless the sum of keys is greater than the given maximum.

        The keys of a :class:`WindowRateLimiter` are kept in one value, so that its window may be long; a class of
        one's own, whose keys may mean something else, is asked for them.
        """
        limiter = getattr(keys, "__self__", None)
        if type(limiter) is WindowRateLimiter:
            return self._enter_window(limiter, key, amount, maximum, ttl)

        def others(_: bytes | None = None) -> Sequence[str]:
            return [other for other in keys() if other != key]

        def added(found: bytes | None, besides: Sequence[bytes | None]) -> bytes | None:
            value = _read(found).value + amount
            return _write(value) if value + _sum(besides) <= maximum else None

        undo = _shifted(-amount, _not_negative)
        value = self._values.change(key, added, ttl, others, undo=undo)
        if value is None:
            return False
        # Somebody may have incremented another of the keys meanwhile: then not both may have it.
        if _read(value).value + _sum(self._values.get_all(others())) > maximum:
            self._values.change(key, undo, ttl, is_undo=True)
            return False
        return True

    def wait(self, key: str, timeout: int | None) -> bool:
        """Wait until an event is published to the given key or the timeout, in milliseconds, expires."""
        try:
            return self._values.wait(key, timeout) == _EVENT
        except CallTimeout:
            return False

    def wait_notify(self, key: str, ttl: int) -> None:
        """Notify parties wait()ing on a key that an event has occurred."""
        self._values.put(key, _EVENT, ttl)

    def close(self) -> None:
        """Close the connection, if it is not the broker's."""
        self._bucket.close()

    def _enter_window(self, limiter: WindowRateLimiter, key: str, amount: int, maximum: int, ttl: int) -> bool:
        second = int(key.rpartition("@")[2])

        def entered(found: bytes | None, _: Sequence[bytes | None]) -> bytes | None:
            counts, now = WindowCounts.read(found), max(second, int(time.time()))
            if counts.total(now, limiter.window) + amount > maximum:
                return None
            return counts.added(second, amount, now, limiter.window).write()

        def left(found: bytes | None, _: Sequence[bytes | None]) -> bytes | None:
            return WindowCounts.read(found).added(second, -amount, second, limiter.window).write() if found else None

        def kept_for(value: bytes) -> float:
            # Another limiter with this key may have a longer window.
            return max(ttl, WindowCounts.read(value).kept * 1000)

        return self._values.change(f"{limiter.key}@window", entered, kept_for, undo=left) is not None

    def _count_member(self, key: str, member: str, minimum: int, ttl: int) -> bool:
        """Count a message of a group unless it was.

        Whoever was counted stands in the value itself until a key of its own says so, in whatever
        order crashes interrupt this.
        """
        known = False

        def moved(found: bytes | None) -> Sequence[str]:
            # After the value, so that nobody can move in between unseen.
            return [_member_key(key, member)] if _read(found).moved else ()

        def counted(found: bytes | None, own: Sequence[bytes | None]) -> bytes | None:
            nonlocal known
            count = _read(found)
            known = member in count.members or any(own)
            if known or count.value - 1 < minimum:
                return None
            return _write(count.value - 1, [*count.members, member], moved=count.moved)

        value = self._values.change(key, counted, ttl, moved)
        if value is not None:
            self._tidy(key, _read(value).members, ttl)
        return known or value is not None

    def _tidy(self, key: str, members: Sequence[str], ttl: int) -> None:
        """Move the members that a barrier's value remembers to keys of their own, when there are many."""
        if len(members) % RECENT_MEMBERS:
            return
        self._values.put_all([_member_key(key, member) for member in members], _EVENT, ttl)

        def tidied(found: bytes | None, _: Sequence[bytes | None]) -> bytes | None:
            count = _read(found)
            left = [member for member in count.members if member not in members]
            return _write(count.value, left, moved=True) if found else None

        self._values.change(key, tidied, ttl)


class _Count(NamedTuple):
    """A key's value.

    Parameters:
      value(int): The number.
      members(Sequence[str]): Messages of a group that were counted.
      moved(bool): Whether others that were have keys of their own.
    """

    value: int
    members: Sequence[str] = ()
    moved: bool = False


def _shifted(amount: int, allowed: Callable[[int], bool]) -> Change:
    """A change by so much, to a number that is allowed."""

    def shifted(found: bytes | None, _: Sequence[bytes | None]) -> bytes | None:
        value = _read(found).value + amount
        return _write(value) if allowed(value) else None

    return shifted


def _not_negative(value: int) -> bool:
    return value >= 0


def _group_member(key: str) -> str | None:
    """The message that is being counted at a group's barrier on this thread, if one is."""
    message = after_actor_hooks.message
    if message is None or message.options.get("group_completion_uuid") != key:
        return None
    return message.identity


def _member_key(key: str, member: str) -> str:
    return f"{key}@member:{member}"


def _sum(values: Sequence[bytes | None]) -> int:
    return sum(_read(value).value for value in values)


def _read(value: bytes | None) -> _Count:
    content = json.loads(value) if value else 0
    return _Count(content) if isinstance(content, int) else _Count(**content)


def _write(value: int, members: Sequence[str] = (), *, moved: bool = False) -> bytes:
    content = _Count(value, members, moved)._asdict() if members or moved else value
    return json.dumps(content).encode()
