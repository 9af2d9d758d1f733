"""The storages of a process, each made at its first use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from dramatiq_jetstream.client import Connection
from dramatiq_jetstream.settings import BrokerSettings

from ..errors import InvalidLimit, shown
from ..limits import positive
from ..sources import SourceFile
from .local import LocalStorage
from .locations import FILE, NATS, S3, Location, Roots
from .objects import ObjectStorage
from .s3 import S3Storage

__all__ = ["Output", "Storage", "Storages", "storage_timeout"]

#: Seconds that an object may take when STORAGE_TIMEOUT says nothing: reading, converting and writing share the
#: 30 seconds of a conversion.
DEFAULT_TIMEOUT = 10.0


class Output(Protocol):
    """Where converted images are written to."""

    def try_out(self) -> None:
        """Make sure that something can be written.

        Raises:
          ServiceError: If not; the subclass tells the reason.
        """

    def write(self, name: str, data: bytes) -> Path | str:
        """Write an image whole or not at all, and return its path or URI.

        Raises:
          ServiceError: If that is not possible; the subclass tells the reason.
        """


class Storage(Protocol):
    """One kind of storage."""

    def open(self, location: Location, directory: str | None, most_bytes: int) -> SourceFile:
        """Open an image, from a directory if it is a file that must lie in one.

        Raises:
          ServiceError: If that is not possible; the subclass tells the reason.
        """

    def output(self, location: Location) -> AbstractContextManager[Output]:
        """The place to write to, held for as long as the block lasts."""

    def check_readable(self, location: Location) -> None:
        """Make sure that a root is there.

        Raises:
          ServiceError: If not; the subclass tells the reason.
        """

    def close(self) -> None:
        """Let go of what is held open; the next use opens it again."""


class Storages:
    """Every kind of storage; from any thread, and in a forked process as well.

    Parameters:
      connection(Connection): The broker's connection, for the object store. Defaults to one of its own, to NATS_URL.
    """

    def __init__(self, connection: Connection | None = None) -> None:
        self._given = connection
        self._own: Connection | None = None
        self._kinds: dict[str, Storage] = {}

    def open(self, location: Location, roots: Roots, most_bytes: int) -> SourceFile:
        """Open an image that the roots allow.

        Raises:
          ServiceError: If that is not possible; the subclass tells the reason.
        """
        directory = roots.directory_of(location)
        return self._of(location.scheme).open(location, directory, most_bytes)

    def output(self, location: Location) -> AbstractContextManager[Output]:
        """The place to write to, held for as long as the block lasts."""
        return self._of(location.scheme).output(location)

    def check_readable(self, roots: Roots) -> None:
        """Make sure that the roots are there.

        Raises:
          ServiceError: If one is not; the subclass tells the reason.
        """
        for place in roots.places:
            self._of(place.scheme).check_readable(place)

    def make_bucket(self, name: str) -> None:
        """Make a bucket of the object store, as ``nats object add`` does.

        Raises:
          ServiceError: If that is not possible; the subclass tells the reason.
        """
        ObjectStorage(self._connection(), storage_timeout()).make(Location(NATS, name, ""))

    def close(self) -> None:
        """Let go of what is held open; the next use opens it again."""
        for storage in self._kinds.values():
            storage.close()
        self._kinds.clear()
        if self._own is not None:
            self._own.close()
            self._own = None

    def _of(self, scheme: str) -> Storage:
        # Two threads that come first at once may make two; the one that stays is the same for both.
        found = self._kinds.get(scheme)
        return found if found is not None else self._kinds.setdefault(scheme, self._new(scheme))

    def _new(self, scheme: str) -> Storage:
        if scheme == FILE:
            return LocalStorage()
        if scheme == S3:
            return S3Storage(storage_timeout())
        return ObjectStorage(self._connection(), storage_timeout())

    def _connection(self) -> Connection:
        if self._given is not None:
            return self._given
        self._own = self._own or Connection(BrokerSettings())
        return self._own


def storage_timeout() -> float:
    """The seconds that one object may take, ``STORAGE_TIMEOUT`` from the environment.

    Raises:
      InvalidLimit: If it is not a positive number.
    """
    given = os.environ.get("STORAGE_TIMEOUT") or str(DEFAULT_TIMEOUT)
    seconds = positive(given)
    if seconds is None:
        raise InvalidLimit(f"The time for an object is {shown(given)}. Set STORAGE_TIMEOUT to seconds such as 10.")
    return seconds
