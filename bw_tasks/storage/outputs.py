"""Places to write to that have nothing to be held open: a bucket, or what has a prefix in it."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from .locations import Location


class Writer(Protocol):
    """A storage of objects."""

    def write(self, location: Location, data: bytes) -> None:
        """Write an object whole or not at all."""


W = TypeVar("W", bound=Writer)
Self_ = TypeVar("Self_", bound="BucketOutput[Any]")


class BucketOutput(Generic[W]):
    """Where images are written to; a context manager, like an output directory.

    Parameters:
      storage(Writer): What writes.
      location(Location): The bucket, and what every name begins with.
    """

    def __init__(self, storage: W, location: Location) -> None:
        self._storage = storage
        self._location = location

    def __enter__(self: Self_) -> Self_:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write(self, name: str, data: bytes) -> str:
        """Write an object and return its URI."""
        place = self._location.below(name)
        self._storage.write(place, data)
        return str(place)
