"""A KV bucket for values that expire: compare-and-set with a TTL in the same write, and waiting."""

from __future__ import annotations

import asyncio
import base64
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..client import MESSAGE_NOT_FOUND, WRONG_LAST_SEQUENCE, Connection, Session
from ..errors import ApiError, CallTimeout, StreamNotFound
from ..names import escape
from ..wire import EXPECTED_SUBJECT_SEQUENCE, MSG_ID, TTL, Publication, new_id
from .helpers import bucket_config
from .required import Ensured, helper_requirement

T = TypeVar("T")


#: The milliseconds before the first repetition of a write that lost a race, doubled each time up
#: to the second; a random part of it is waited, so that the losers do not meet again.
MIN_PAUSE = 1
MAX_PAUSE = 50

#: Seconds after which a waiter looks again, should it have missed the change while reconnecting.
LOOK_AGAIN = 2.0

#: Seconds that storing a value may take after the word of it.
STORING = 0.002


class Entry(NamedTuple):
    """What a key holds.

    Parameters:
      value(bytes): The value; None if it has none.
      revision(int): The sequence of the last write; 0 if there is none.
    """

    value: bytes | None = None
    revision: int = 0

    @classmethod
    def of(cls, body: bytes, revision: int) -> Entry:
        """Read a stored message; an empty one marks a key that was deleted."""
        return cls(body or None, revision)


#: Gives the keys to look at besides, for the value of the key that is to be changed.
Besides = Callable[[bytes | None], Sequence[str]]

#: Takes a key's value and those of the keys besides, and returns the new one, or None to leave it.
Change = Callable[[bytes | None, Sequence[bytes | None]], bytes | None]


def nothing_besides(_: bytes | None) -> Sequence[str]:
    return ()


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
        requirement = helper_requirement(bucket_config(bucket, replicas), f"the bucket {bucket!r}")
        self._ensured = Ensured(requirement, managed=managed)

    def get(self, key: str) -> bytes | None:
        """The key's value, or None if it has none."""
        return self._connection.call(partial(self.read, key=key)).value

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The values of several keys, as they stand after all writes that have returned."""
        return self._connection.call(partial(self.read_all, keys=keys))

    def put(self, key: str, value: bytes, ttl: int) -> None:
        """Set a key for so many milliseconds.

        Raises:
          MessageTooLarge: If the server takes no value of that size.
        """
        self._connection.call(partial(self.write, key=key, value=value, ttl=ttl))

    def put_all(self, keys: Sequence[str], value: bytes, ttl: int) -> None:
        """Set several keys to one value for so many milliseconds."""
        self._connection.call(partial(self.write_all, keys=keys, value=value, ttl=ttl))

    def change(self, key: str, change: Change, ttl: int, besides: Besides = nothing_besides) -> bytes | None:
        """Replace a key's value, atomically.

        Parameters:
          key(str): The key.
          change(Callable): Computes the new value.  It is called again when somebody else was faster.
          ttl(int): For how many milliseconds the new value is kept.
          besides(Callable): Names further keys, which are read after the key itself.

        Raises:
          CallTimeout: If others were faster for as long as the connection's timeout.

        Returns:
          bytes: The new value, or None if it was left.
        """
        return self._connection.call(partial(self.replace, key=key, change=change, ttl=ttl, besides=besides))

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

    async def read(self, session: Session, key: str) -> Entry:
        """What a key holds, from whichever server is near; it may be a moment old; on the loop."""
        await self._ensured.ensure(session)
        found = await session.request(f"{session.api}.DIRECT.GET.KV_{self.bucket}.{self._subject(key)}")
        headers = found.headers or {}
        return Entry.of(found.data, int(headers["Nats-Sequence"])) if "Nats-Sequence" in headers else Entry()

    async def read_last(self, session: Session, key: str) -> Entry:
        """What a key holds after all writes that have returned, from the bucket's leader; on the loop."""
        try:
            answer = await self._call(session, f"STREAM.MSG.GET.KV_{self.bucket}", {"last_by_subj": self._subject(key)})
        except ApiError as error:
            if error.err_code != MESSAGE_NOT_FOUND:
                raise
            return Entry()
        return Entry.of(base64.b64decode(answer["message"].get("data", "")), answer["message"]["seq"])

    async def read_all(self, session: Session, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Do what :meth:`get_all` does, on the loop."""
        return [entry.value for entry in await asyncio.gather(*(self.read_last(session, key) for key in keys))]

    async def write(self, session: Session, key: str, value: bytes, ttl: int, revision: int | None = None) -> bool:
        """Set a key; with a revision, only if that is its last, and tell whether it was; on the loop."""
        headers = {MSG_ID: new_id(), TTL: str(max(math.ceil(ttl / 1000), 1))}
        if revision is not None:
            headers[EXPECTED_SUBJECT_SEQUENCE] = str(revision)
        publication = self._publication(session, key, value, headers)
        try:
            await self._with_bucket(session, lambda: session.store(publication))
        except ApiError as error:
            if error.err_code not in WRONG_LAST_SEQUENCE:
                raise
            return error.repeated and await self._was_stored(session, headers[MSG_ID])
        return True

    async def _was_stored(self, session: Session, message_id: str) -> bool:
        """Whether a write whose answer got lost was stored, whoever wrote its key since.

        A server looks at a key's revision before it looks at message ids, so a repeated write fails on
        its own first copy.  A write to another key with the same id tells: it is a duplicate if the
        first was stored.  (A condition that never holds, on the stream's last message id, would do
        without that key, but a replicated stream stops for good when one fails.)
        """
        question = f"@stored:{message_id}"
        publication = self._publication(session, question, b"?", {MSG_ID: message_id, TTL: "60"})
        receipt = await self._with_bucket(session, lambda: session.store(publication))
        # It may be a duplicate of itself.
        return receipt.duplicate and (await self.read_last(session, question)).value is None

    def _publication(self, session: Session, key: str, value: bytes, headers: dict[str, str]) -> Publication:
        subject = self._subject(key)
        # The subjects of buckets in another domain are reached through its API.
        return Publication(f"{session.api}.{subject}" if session.settings.domain else subject, value, headers)

    async def write_all(self, session: Session, keys: Sequence[str], value: bytes, ttl: int) -> None:
        """Do what :meth:`put_all` does, on the loop."""
        await asyncio.gather(*(self.write(session, key, value, ttl) for key in keys))

    async def replace(
        self, session: Session, key: str, change: Change, ttl: int, besides: Besides = nothing_besides
    ) -> bytes | None:
        """Do what :meth:`change` does, on the loop."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + session.timeout, MIN_PAUSE
        while True:
            entry = await self.read_last(session, key)
            value = change(entry.value, await self.read_all(session, besides(entry.value)))
            if value is None or await self.write(session, key, value, ttl, revision=entry.revision):
                return value
            if loop.time() >= deadline:
                raise CallTimeout(
                    f"the key {key!r} of bucket {self.bucket!r} is so busy that it could not be changed within "
                    f"{session.settings.timeout} ms: let fewer processes contend for it"
                )
            await asyncio.sleep(random.uniform(0, pause) / 1000)
            pause = min(pause * 2, MAX_PAUSE)

    async def await_any(self, session: Session, keys: Sequence[str], timeout: int | None) -> tuple[str, bytes] | None:
        """Do what :meth:`wait_any` does, on the loop."""
        loop = asyncio.get_running_loop()
        deadline = math.inf if timeout is None else loop.time() + timeout / 1000
        changed, look_again = asyncio.Event(), LOOK_AGAIN
        subjects = {self._subject(key) for key in keys}

        def on_change(subject: str, _: bytes) -> None:
            if subject in subjects:
                changed.set()

        # One subscription for all: keys are single tokens.
        subject = self._subject(keys[0]) if len(keys) == 1 else f"$KV.{self.bucket}.*"
        subscription = await session.hear(subject, on_change)
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
            value = (await self.read(session, key)).value
            if value is not None:
                return key, value
        return None

    def _subject(self, key: str) -> str:
        return f"$KV.{self.bucket}.{escape(key)}"

    async def _call(self, session: Session, operation: str, body: object) -> dict[str, Any]:
        return await self._with_bucket(session, lambda: session.call_api(operation, body))

    async def _with_bucket(self, session: Session, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step, for which the bucket is made if it is missing, or waited for if it has no leader."""

        async def attempt() -> T:
            await self._ensured.ensure(session)
            return await step()

        try:
            return await session.persist(attempt, self._missed)
        except StreamNotFound as error:
            if self._ensured.managed:
                raise
            raise StreamNotFound(
                f"the bucket {self.bucket!r} does not exist, and declare='never' forbids to make it: let a process "
                "with declare='auto' use it once"
            ) from error

    def _missed(self, error: StreamNotFound) -> None:
        self._ensured.forget()
        # Where JetStream itself says that there is no such stream, waiting is no use.
        if not self._ensured.managed and error.confirmed:
            raise error
