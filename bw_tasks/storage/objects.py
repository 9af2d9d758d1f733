"""Objects in JetStream's object store, on the broker's connection, in the layout of NATS's own clients.

An object is a meta message, which names the subject of its chunks. What is written becomes visible with its meta
message, which replaces the older one; the older chunks are removed after that.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from dramatiq_jetstream.client import Connection, Session
from dramatiq_jetstream.errors import ApiError, BrokerError
from dramatiq_jetstream.logs import get_logger
from dramatiq_jetstream.streams.reading import next_of, purge, read_page
from dramatiq_jetstream.wire import Publication

from ..errors import ImageNotFound, ServiceError, StorageUnavailable, SymlinkRefused, UnreadableImage, shown
from ..sources import SourceFile
from .downloads import downloaded, require_size
from .locations import Location
from .object_errors import explained
from .object_meta import Meta, chunk_subject, meta_of, meta_subject, stream_of
from .outputs import BucketOutput

__all__ = ["ObjectStorage"]

T = TypeVar("T")

logger = get_logger("bw_tasks")

#: Bytes of a chunk; less where the server takes less in one message.
CHUNK = 512 * 1024
#: Bytes of a message that are left for its headers.
HEADERS = 1024
#: Seconds between the attempts to remove the chunks of an unfinished image.
_PAUSES = (1, 5, 25)
#: How many chunks are asked for at a time.
PAGE = 16

#: Seconds after which chunks without an object are what a killed worker left: writing takes far less.
ORPHAN_AGE = 3600


class ObjectStorage:
    """Reads and writes objects; from any thread.

    Parameters:
      connection(Connection): The way to the server.
      timeout(float): The seconds that one object may take.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self.timeout = timeout

    def open(self, location: Location, directory: str | None, most_bytes: int) -> SourceFile:
        """Download an image, as it was at one moment.

        Raises:
          ServiceError: When it cannot be had; the subclass tells the reason.
        """
        with self._translated(location, "read"):
            deadline = time.monotonic() + self.timeout
            meta = self._meta(location, deadline)
            if meta is None:
                raise ImageNotFound(
                    f"The image {shown(str(location))} cannot be read: there is no object of that name in bucket "
                    f"{location.bucket!r}."
                )
            if meta.is_link:
                raise SymlinkRefused(f"{shown(str(location))} is a link to another object, which is not followed.")
            require_size(location, meta.size, most_bytes)
            try:
                return downloaded(location, meta.size, self._chunks(location, meta, deadline))
            except StorageUnavailable:
                self._require_same(location, meta, deadline)
                raise

    def output(self, location: Location) -> ObjectOutput:
        """The bucket to write to."""
        return ObjectOutput(self, location)

    def write(self, location: Location, data: bytes) -> None:
        """Write an object: its chunks, then its meta message, which makes it visible.

        Raises:
          ServiceError: When that is not possible; the subclass tells the reason.
        """
        with self._translated(location, "written"):
            self._call(lambda session: _put(session, location, data), time.monotonic() + self.timeout)

    def check_readable(self, location: Location) -> None:
        """Make sure that the bucket is there.

        Raises:
          ServiceError: If not; the subclass tells the reason.
        """
        with self._translated(location, "used"):
            self._call(
                lambda session: session.call_api(f"STREAM.INFO.{stream_of(location.bucket)}"),
                time.monotonic() + self.timeout,
            )

    def make(self, location: Location) -> None:
        """Make the bucket.

        Raises:
          ServiceError: If that is not possible; the subclass tells the reason.
        """
        stream = stream_of(location.bucket)
        subjects = [chunk_subject(location.bucket, ">"), f"$O.{location.bucket}.M.>"]
        config = {"name": stream, "subjects": subjects, "discard": "new", "num_replicas": 1, "storage": "file"}
        config |= {"retention": "limits", "allow_rollup_hdrs": True, "allow_direct": True}
        with self._translated(location, "used"):
            self._call(
                lambda session: session.call_api(f"STREAM.CREATE.{stream}", config), time.monotonic() + self.timeout
            )

    def try_out(self, location: Location) -> None:
        """Make sure that the bucket takes chunks, by one that is removed again.

        Raises:
          ServiceError: If not; the subclass tells the reason.
        """
        self.check_readable(location)
        with self._translated(location, "used"):
            self._call(lambda session: _try_out(session, location.bucket), time.monotonic() + self.timeout)

    def remove_orphans(self, location: Location, older_than: float = ORPHAN_AGE) -> int:
        """Remove chunks that belong to no object: those of workers that were killed while they wrote.

        Parameters:
          location(Location): The bucket.
          older_than(float): The seconds for which they must have lain there.

        Returns:
          int: How many objects' chunks were removed.
        """
        with self._translated(location, "used"):
            return self._connection.call(lambda session: _remove_orphans(session, location.bucket, older_than))

    def close(self) -> None:
        """Nothing of its own is held open: the connection is the broker's."""

    def _meta(self, location: Location, deadline: float) -> Meta | None:
        return self._call(lambda session: _read_meta(session, location), deadline)

    def _chunks(self, location: Location, meta: Meta, deadline: float) -> Iterator[bytes]:
        stream, subject = stream_of(location.bucket), chunk_subject(location.bucket, meta.nuid)
        digest, arrived, start = hashlib.sha256(), 0, 1
        while arrived < meta.size:
            page = self._call(partial(read_page, stream=stream, subject=subject, start=start, count=PAGE), deadline)
            for message in page.messages:
                arrived += len(message.body)
                digest.update(message.body)
                yield message.body
            if not page.messages:
                return
            start = page.messages[-1].sequence + 1
        if not meta.fits(digest.digest()):
            raise UnreadableImage(
                f"The image {shown(str(location))} cannot be read: its digest is not that of its chunks. "
                "Put it into the bucket again."
            )

    def _require_same(self, location: Location, meta: Meta, deadline: float) -> None:
        """Tell an object that was replaced while it was read, which may pass, from one that has lost chunks."""
        found = self._meta(location, max(deadline, time.monotonic() + 1))
        if found is not None and found.nuid == meta.nuid and time.monotonic() < deadline:
            raise UnreadableImage(
                f"The image {shown(str(location))} cannot be read: chunks of it are missing. Put it into the bucket "
                "again."
            )

    def _call(self, function: Callable[[Session], Coroutine[Any, Any, T]], deadline: float) -> T:
        async def bounded(session: Session) -> T:
            return await asyncio.wait_for(function(session), max(deadline - time.monotonic(), 0.001))

        return self._connection.call(bounded, max(deadline - time.monotonic(), 0.001))

    @contextmanager
    def _translated(self, location: Location, verb: str) -> Iterator[None]:
        try:
            yield
        except ServiceError:
            raise
        except Exception as error:
            ours = explained(error, location, verb, self.timeout)
            if ours is None:
                raise
            raise ours from error


class ObjectOutput(BucketOutput["ObjectStorage"]):
    """A bucket of the object store that images are written to."""

    def try_out(self) -> None:
        """Make sure that the bucket can be written to.

        Raises:
          ServiceError: If not; the subclass tells the reason.
        """
        self._storage.try_out(self._location)

    def remove_orphans(self) -> None:
        """Remove what killed workers left, if anything, and log it; never raises."""
        try:
            count = self._storage.remove_orphans(self._location)
        except ServiceError as error:
            logger.warning("Chunks that killed workers left are not removed until the next start: %s", error)
            return
        if count:
            logger.info("Removed the chunks of %d images that killed workers left in %s", count, self._location)


async def _read_meta(session: Session, location: Location) -> Meta | None:
    message = await next_of(session, stream_of(location.bucket), meta_subject(location), 1)
    return None if message is None else meta_of(message.body)


async def _put(session: Session, location: Location, data: bytes) -> None:
    older = await _read_meta(session, location)
    nuid = secrets.token_hex(11)
    chunks = chunk_subject(location.bucket, nuid)
    try:
        size = await _put_chunks(session, chunks, data)
        meta = Meta.new(location, nuid, data, size)
    except BaseException:
        # Also where the message's time is up. The session ends it in the background.
        session.supervisor.once("removal of an unfinished image", _remove_unfinished(session, location.bucket, nuid))
        raise
    try:
        await session.store(
            Publication(meta_subject(location), meta.encoded(), {"Nats-Rollup": "sub", "Nats-Msg-Id": f"{nuid}.meta"})
        )
    except ApiError:
        # Refused; after any other error it may be stored all the same, and its chunks must stay.
        await _remove_chunks(session, location.bucket, nuid)
        raise
    if older is not None and older.nuid:
        await _remove_chunks(session, location.bucket, older.nuid)


async def _put_chunks(session: Session, subject: str, data: bytes) -> int:
    size = min(CHUNK, session.max_payload - HEADERS)
    for number, start in enumerate(range(0, len(data), size)):
        # The id: a publish without an answer is repeated, and must not be stored twice.
        headers = {"Nats-Msg-Id": f"{subject.rpartition('.')[2]}.{number}"}
        await session.store(Publication(subject, data[start : start + size], headers))
    return size


async def _try_out(session: Session, bucket: str) -> None:
    nuid = secrets.token_hex(11)
    await session.store(Publication(chunk_subject(bucket, nuid), b"?", {"Nats-Msg-Id": nuid}))
    await _remove_chunks(session, bucket, nuid)


async def _remove_unfinished(session: Session, bucket: str, nuid: str) -> None:
    """Remove chunks where the way to the server is slow or cut: that may be why the image is unfinished."""
    for pause in _PAUSES:
        with suppress(BrokerError):
            await _remove_chunks(session, bucket, nuid)
            return
        await asyncio.sleep(pause)
    await _remove_chunks(session, bucket, nuid)


async def _remove_chunks(session: Session, bucket: str, nuid: str) -> None:
    await purge(session, stream_of(bucket), chunk_subject(bucket, nuid))


async def _remove_orphans(session: Session, bucket: str, older_than: float) -> int:
    stream, removed = stream_of(bucket), 0
    # In this order: what is finished in between is found among the objects.
    chunks = await _subjects(session, stream, chunk_subject(bucket, "*"))
    known = await _known_nuids(session, bucket) if chunks else set()
    for subject in chunks:
        nuid = subject.rpartition(".")[2]
        if nuid in known:
            continue
        first = await next_of(session, stream, subject, 1)
        if first is not None and time.time() - first.timestamp / 1e9 >= older_than:
            await _remove_chunks(session, bucket, nuid)
            removed += 1
    return removed


async def _subjects(session: Session, stream: str, pattern: str) -> list[str]:
    found: dict[str, int] = {}
    while True:
        request = {"subjects_filter": pattern, "offset": len(found)}
        answer = await session.call_api(f"STREAM.INFO.{stream}", request)
        subjects = (answer.get("state") or {}).get("subjects") or {}
        found |= subjects
        if not subjects or len(found) >= int(answer.get("total") or 0):
            return list(found)


async def _known_nuids(session: Session, bucket: str) -> set[str]:
    known: set[str] = set()
    start, stream = 1, stream_of(bucket)
    while True:
        page = await read_page(session, stream, f"$O.{bucket}.M.>", start, 256)
        known |= {meta.nuid for message in page.messages if (meta := meta_of(message.body)) is not None}
        if not page.messages or not page.pending:
            return known
        start = page.messages[-1].sequence + 1
