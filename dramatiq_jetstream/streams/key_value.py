"""A KV bucket for values that expire: compare-and-set with a TTL in the same write, and waiting."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ..client import MESSAGE_NOT_FOUND, MESSAGE_TOO_LARGE, WRONG_LAST_SEQUENCE, Connection, Receipt, Session
from ..errors import ApiError, CallTimeout, EnqueueRejected, MessageTooLarge, ServerUnreachable
from ..names import escape
from ..wire import EXPECTED_SUBJECT_SEQUENCE, MSG_ID, TTL, Publication, new_id, ttl_value
from .bucket_access import BRIEFEST, BucketAccess, Deadline, Entry
from .changes import Besides, Change, Changes, TimeToLive, Waiting, nothing_besides
from .words import LOOK_AGAIN, STAND_IN, Words

T = TypeVar("T")

#: How many keys are read at a time.
PAGE = 128

#: How many times as long as others a change waits that takes another back.
UNDO_PATIENCE = 3

#: For how many milliseconds a stand-in is offered to a bucket that is full, and the seconds between two attempts.
OFFER_FOR = 60_000
OFFER_PAUSE = 1.0

#: How many stand-ins are offered at once.
MAX_OFFERS = 1_000


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
        self._access = BucketAccess(bucket, replicas, managed=managed)
        self._changes = Changes(self)
        self._offers: set[str] = set()
        #: The bucket's stream as it must exist.
        self.requirement = self._access.requirement

    def get(self, key: str, timeout: int | None = None) -> bytes | None:
        """The key's value, or None if it has none.

        Parameters:
          key(str): The key.
          timeout(int): The milliseconds to wait for an answer.  Defaults to the connection's timeout.
        """
        deadline = self._deadline(timeout)
        opened = None if timeout is None else deadline
        return self._call(lambda session: self.read(session, key, deadline), opened).value

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The values of several keys, as they stand after all writes that have returned."""
        deadline = self._deadline()
        return self._call(lambda session: self.read_all(session, keys, deadline))

    def put(self, key: str, value: bytes, ttl: float) -> None:
        """Set a key for so many milliseconds.

        Raises:
          MessageTooLarge: If the server or the bucket takes no value of that size.
          EnqueueRejected: If the bucket does not take it, being full for example.
        """
        deadline = self._deadline()
        self._call(lambda session: self.write(session, key, value, ttl, None, deadline))

    def put_stand_in(self, key: str, value: bytes, ttl: float) -> None:
        """Set a key in place of a value that was refused; who waits for the key gets it even if the bucket is full."""
        deadline = self._deadline()
        self._call(lambda session: self._offer(session, key, value, ttl, deadline))

    def put_all(self, keys: Sequence[str], value: bytes, ttl: float) -> None:
        """Set several keys to one value for so many milliseconds."""
        deadline = self._deadline()
        self._call(lambda session: self._write_all(session, keys, value, ttl, deadline))

    def change(
        self,
        key: str,
        change: Change,
        ttl: TimeToLive,
        besides: Besides = nothing_besides,
        *,
        undo: Change | None = None,
        is_undo: bool = False,
    ) -> bytes | None:
        """Replace a key's value, atomically.

        Parameters:
          key(str): The key.
          change(Callable): Computes the new value.  It is called again when somebody else was faster.
          ttl(float): For how many milliseconds the new value is kept.
          besides(Callable): Names further keys, which are read after the key itself.
          undo(Callable): Takes the change back, should it be stored when its caller has given up.
          is_undo(bool): Whether this takes another change back, for which it waits longer.

        Raises:
          CallTimeout: If that takes longer than the connection's timeout.

        Returns:
          bytes: The new value, or None if it was left.
        """

        async def make(session: Session) -> bytes | None:
            timeout = session.timeout * 1000 * (UNDO_PATIENCE if is_undo else 1)
            return await self._changes.make(session, key, Waiting(change, besides, ttl, timeout, undo))

        return self._call(make)

    def wait(self, key: str, timeout: int | None) -> bytes | None:
        """Wait until a key has a value.

        Parameters:
          key(str): The key.
          timeout(int): The milliseconds to wait at most; None for ever.

        Raises:
          CallTimeout: If the server did not answer in that time.

        Returns:
          bytes: The value, or None if there was none in time.
        """
        found = self.wait_any([key], timeout)
        return None if found is None else found[1].value

    def wait_any(
        self, keys: Sequence[str], timeout: int | None, seen: Mapping[str, int] | None = None
    ) -> tuple[str, Entry] | None:
        """Wait until one of several keys has a value.

        Parameters:
          keys(Sequence[str]): The keys; at least one.
          timeout(int): The milliseconds to wait at most; None for ever.
          seen(Mapping): Revisions of keys; only later ones count.

        Raises:
          CallTimeout: If the server did not answer in that time.

        Returns:
          tuple: The key and what it holds, or None if there was none in time.
        """
        deadline = Deadline.after(timeout)
        return self._call(partial(self._await_any, keys=keys, deadline=deadline, seen=seen or {}), deadline)

    async def read(self, session: Session, key: str, deadline: Deadline) -> Entry:
        """What a key holds, from whichever server is near; it may be a moment old; on the loop."""
        found = await self._access.read(session, self._subject(key), deadline)
        headers = found.headers or {}
        return Entry.of(found.data, int(headers["Nats-Sequence"])) if "Nats-Sequence" in headers else Entry()

    async def read_last(self, session: Session, key: str, deadline: Deadline) -> Entry:
        """What a key holds after all writes that have returned, from the bucket's leader; on the loop."""
        question = {"last_by_subj": self._subject(key)}
        try:
            answer = await self._access.call_api(session, "STREAM.MSG.GET", question, deadline)
        except ApiError as error:
            if error.err_code != MESSAGE_NOT_FOUND:
                raise
            return Entry()
        return Entry.of(base64.b64decode(answer["message"].get("data", "")), answer["message"]["seq"])

    async def read_all(self, session: Session, keys: Sequence[str], deadline: Deadline) -> Sequence[bytes | None]:
        """The values of several keys after all writes that have returned; on the loop."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), PAGE):
            page = keys[start : start + PAGE]
            entries = await asyncio.gather(*(self.read_last(session, key, deadline) for key in page))
            found += [entry.value for entry in entries]
        return found

    async def write(
        self, session: Session, key: str, value: bytes, ttl: float, revision: int | None, deadline: Deadline
    ) -> bool:
        """Set a key; with a revision, only if that is its last, and tell whether it was; on the loop."""
        headers = {MSG_ID: new_id(), TTL: ttl_value(ttl)}
        if revision is not None:
            headers[EXPECTED_SUBJECT_SEQUENCE] = str(revision)
        try:
            await self._store(session, key, value, headers, deadline)
        except ApiError as error:
            if error.err_code not in WRONG_LAST_SEQUENCE:
                raise self._refusal(key, error) from error
            return error.repeated and await self._was_stored(session, headers[MSG_ID], deadline)
        return True

    async def _was_stored(self, session: Session, message_id: str, deadline: Deadline) -> bool:
        """Whether a write whose answer got lost was stored, whoever wrote its key since.

        A server looks at a key's revision before it looks at message ids, so a repeated write fails on
        its own first copy.  A write to another key with the same id tells: it is a duplicate if the
        first was stored.  (A condition that never holds, on the stream's last message id, would do
        without that key, but a replicated stream stops for good when one fails.)
        """
        question = f"@stored:{message_id}"
        receipt = await self._store(session, question, b"?", {MSG_ID: message_id, TTL: "60"}, deadline)
        # It may be a duplicate of itself.
        return receipt.duplicate and (await self.read_last(session, question, deadline)).value is None

    async def _store(
        self, session: Session, key: str, value: bytes, headers: dict[str, str], deadline: Deadline
    ) -> Receipt:
        subject = self._subject(key)
        # The subjects of buckets in another domain are reached through its API.
        reached = f"{session.api}.{subject}" if session.settings.domain else subject
        return await self._access.store(session, Publication(reached, value, headers), deadline)

    def _refusal(self, key: str, error: ApiError) -> EnqueueRejected:
        kind = MessageTooLarge if error.err_code == MESSAGE_TOO_LARGE else EnqueueRejected
        return kind(
            f"the bucket {self.bucket!r} does not take the value of key {key!r}: {error.description} "
            f"(error {error.err_code})"
        )

    async def _write_all(
        self, session: Session, keys: Sequence[str], value: bytes, ttl: float, deadline: Deadline
    ) -> None:
        await asyncio.gather(*(self.write(session, key, value, ttl, None, deadline) for key in keys))

    async def _offer(self, session: Session, key: str, value: bytes, ttl: float, deadline: Deadline) -> None:
        if await self._takes(session, key, value, ttl, deadline, {}) or len(self._offers) >= MAX_OFFERS:
            return
        self._offers.add(key)
        work = partial(self._keep_offering, session, key, value, ttl)
        session.supervisor.keep(f"offer of key {key!r} to the full bucket {self.bucket!r}", work)

    async def _keep_offering(self, session: Session, key: str, value: bytes, ttl: float) -> None:
        """Offer a stand-in to whoever begins to wait for it, until there is room for it."""
        end = Deadline.after(min(ttl, OFFER_FOR))
        try:
            while end.left:
                await asyncio.sleep(OFFER_PAUSE)
                # Somebody may have stored a value meanwhile, which is better.
                if await self._takes(session, key, value, ttl, self._deadline(), {EXPECTED_SUBJECT_SEQUENCE: "0"}):
                    return
        finally:
            self._offers.discard(key)

    async def _takes(
        self, session: Session, key: str, value: bytes, ttl: float, deadline: Deadline, condition: Mapping[str, str]
    ) -> bool:
        headers = {MSG_ID: new_id(), TTL: ttl_value(ttl), STAND_IN: "1", **condition}
        try:
            await self._store(session, key, value, headers, deadline)
        except ApiError as error:
            return error.err_code in WRONG_LAST_SEQUENCE
        return True

    async def _await_any(
        self, session: Session, keys: Sequence[str], deadline: Deadline, seen: Mapping[str, int]
    ) -> tuple[str, Entry] | None:
        look_again, looked = LOOK_AGAIN, False
        words = Words({self._subject(key): key for key in keys})
        # One subscription for all: keys are single tokens.
        subject = self._subject(keys[0]) if len(keys) == 1 else f"$KV.{self.bucket}.*"
        subscription = await session.overhear(subject, words.take)
        try:
            while True:
                try:
                    found = await self._first(session, keys, deadline, seen)
                except CallTimeout:
                    if not looked:
                        raise
                    return words.stand_in
                looked, found = True, found or words.stand_in
                if found is not None or not deadline.left:
                    return found
                look_again = await words.wait(min(deadline.left, look_again), look_again)
        finally:
            await session.unsubscribe(subscription, drain=False)

    async def _first(
        self, session: Session, keys: Sequence[str], deadline: Deadline, seen: Mapping[str, int]
    ) -> tuple[str, Entry] | None:
        for key in keys:
            # What was seen must not come again from a server that lags behind.
            read = self.read_last if key in seen else self.read
            entry = await read(session, key, deadline)
            if entry.value is not None and entry.revision > seen.get(key, 0):
                return key, entry
        return None

    def _subject(self, key: str) -> str:
        return f"$KV.{self.bucket}.{escape(key)}"

    def _deadline(self, timeout: float | None = None) -> Deadline:
        return Deadline.after(self._connection.settings.timeout if timeout is None else timeout)

    def _call(self, function: Callable[[Session], Coroutine[Any, Any, T]], deadline: Deadline | None = None) -> T:
        """Run a coroutine on the loop; a connection that is not open yet is opened within the deadline, if given."""
        if deadline is None or math.isinf(deadline.at):
            return self._connection.call(function)
        while True:
            try:
                return self._connection.call(function, max(deadline.left, BRIEFEST))
            except ServerUnreachable:
                if not deadline.left:
                    raise
