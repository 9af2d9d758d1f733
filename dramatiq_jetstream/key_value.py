"""A KV bucket for values that expire: compare-and-set with a TTL in the same write, and waiting."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from nats.aio.msg import Msg

from .connection import Connection
from .errors import ApiError, CallTimeout
from .names import escape
from .session import Session
from .topology import HELPER_DEMANDS, bucket_config, ensure_stream
from .wire import MSG_ID, TTL, Publication

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
WRONG_LAST_SEQUENCE = 10071

#: The milliseconds before the first repetition of a write that lost a race, doubled each time up
#: to the second; a random part of it is waited, so that the losers do not meet again.
MIN_PAUSE = 1
MAX_PAUSE = 50

#: Seconds after which a waiter looks again, should it have missed the change while reconnecting.
LOOK_AGAIN = 2.0

#: Seconds that storing a value may take after the word of it.
STORING = 0.002


class Entry(NamedTuple):
    """A key's value.

    Parameters:
      value(bytes): The value.
      revision(int): The sequence of the write that set it.
    """

    value: bytes
    revision: int


class KeyValue:
    """A bucket.

    Parameters:
      connection(Connection): The way to the server.
      bucket(str): The bucket's name.
      replicas(int): How many servers of a cluster keep it.
      managed(bool): Whether it may be made.
    """

    def __init__(self, connection: Connection, bucket: str, *, replicas: int, managed: bool) -> None:
        self.bucket = bucket
        self._connection = connection
        self._replicas = replicas
        self._managed = managed
        self._ensured: Session | None = None

    def get(self, key: str) -> Entry | None:
        """The key's value, or None if it has none."""
        return self._connection.call(partial(self.read, key=key))

    def put(self, key: str, value: bytes, ttl: int) -> None:
        """Set a key for so many milliseconds.

        Raises:
          MessageTooLarge: If the server takes no value of that size.
        """
        self._connection.call(partial(self.write, key=key, value=value, ttl=ttl))

    def change(self, key: str, change: Callable[[bytes | None], bytes | None], ttl: int) -> bool:
        """Replace a key's value, atomically.

        Parameters:
          key(str): The key.
          change(Callable): Takes the value, or None, and returns the new one, or None to leave it.
            It is called again when somebody else was faster.
          ttl(int): For how many milliseconds the new value is kept.

        Raises:
          CallTimeout: If others were faster for as long as the connection's timeout.

        Returns:
          bool: Whether there is a new value.
        """
        return self._connection.call(partial(self.replace, key=key, change=change, ttl=ttl))

    def wait(self, key: str, timeout: int | None) -> bytes | None:
        """Wait until a key has a value.

        Parameters:
          key(str): The key.
          timeout(int): The milliseconds to wait at most; None for ever.

        Returns:
          bytes: The value, or None if there was none in time.
        """
        found = self.wait_any([key], timeout)
        return None if found is None else found[1]

    def wait_any(self, keys: Sequence[str], timeout: int | None) -> tuple[str, bytes] | None:
        """Wait until one of several keys has a value.

        Parameters:
          keys(Sequence[str]): The keys; at least one.
          timeout(int): The milliseconds to wait at most; None for ever.

        Returns:
          tuple: The key and its value, or None if there was none in time.
        """
        return self._connection.call(partial(self.await_any, keys=keys, timeout=timeout))

    async def read(self, session: Session, key: str) -> Entry | None:
        """Do what :meth:`get` does, on the loop."""
        await self._ensure(session)
        found = await session.request(f"{session.api}.DIRECT.GET.KV_{self.bucket}.{self._subject(key)}")
        headers = found.headers or {}
        if "Nats-Sequence" not in headers:
            return None
        return Entry(found.data, int(headers["Nats-Sequence"]))

    async def write(self, session: Session, key: str, value: bytes, ttl: int, revision: int | None = None) -> bool:
        """Set a key; with a revision, only if that is its last, and tell whether it was; on the loop."""
        await self._ensure(session)
        # A repeated write must not find its own first copy and take it for somebody else's.
        headers = {MSG_ID: secrets.token_hex(12), TTL: str(max(math.ceil(ttl / 1000), 1))}
        if revision is not None:
            headers[EXPECTED] = str(revision)
        publication = Publication(self._subject(key), value, headers)
        try:
            await session.store(publication)
        except ApiError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    async def replace(
        self, session: Session, key: str, change: Callable[[bytes | None], bytes | None], ttl: int
    ) -> bool:
        """Do what :meth:`change` does, on the loop."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + session.timeout, MIN_PAUSE
        while loop.time() < deadline:
            entry = await self.read(session, key)
            value = change(entry.value if entry else None)
            if value is None:
                return False
            if await self.write(session, key, value, ttl, revision=entry.revision if entry else 0):
                return True
            await asyncio.sleep(random.uniform(0, pause) / 1000)
            pause = min(pause * 2, MAX_PAUSE)
        raise CallTimeout(f"the key {key!r} of bucket {self.bucket!r} is so busy that it could not be changed in time")

    async def await_any(self, session: Session, keys: Sequence[str], timeout: int | None) -> tuple[str, bytes] | None:
        """Do what :meth:`wait_any` does, on the loop."""
        loop = asyncio.get_running_loop()
        deadline = math.inf if timeout is None else loop.time() + timeout / 1000
        changed, look_again = asyncio.Event(), LOOK_AGAIN
        subjects = {self._subject(key) for key in keys}

        async def on_change(message: Msg) -> None:
            if message.subject in subjects:
                changed.set()

        # One subscription for all: keys are single tokens.
        subject = self._subject(keys[0]) if len(keys) == 1 else f"$KV.{self.bucket}.*"
        subscription = await session.subscribe_to(subject, on_change)
        try:
            while True:
                found = await self._first(session, keys)
                left = deadline - loop.time()
                if found is not None or left <= 0:
                    return found
                try:
                    await asyncio.wait_for(changed.wait(), min(left, look_again))
                    # The word of a write travels beside the write itself, and may be ahead of it.
                    look_again = STORING
                    changed.clear()
                except asyncio.TimeoutError:
                    look_again = min(look_again * 2, LOOK_AGAIN)
        finally:
            await session.unsubscribe(subscription, drain=False)

    async def _first(self, session: Session, keys: Sequence[str]) -> tuple[str, bytes] | None:
        for key in keys:
            entry = await self.read(session, key)
            if entry is not None:
                return key, entry.value
        return None

    def _subject(self, key: str) -> str:
        return f"$KV.{self.bucket}.{escape(key)}"

    async def _ensure(self, session: Session) -> None:
        if self._managed and self._ensured is not session:
            config = bucket_config(self.bucket, self._replicas)
            await ensure_stream(session, config, HELPER_DEMANDS, f"the bucket {self.bucket!r}")
            self._ensured = session
