"""What is downloaded goes through a temporary file: memory stays small, and Pillow can seek in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import Any

from ..errors import EmptyImage, StorageUnavailable, TooManyBytes, shown
from ..limits import MILLION
from ..sources import SourceFile
from .locations import Location

__all__ = ["downloaded", "require_size"]


def require_size(location: Location, size: int, most_bytes: int) -> None:
    """Refuse an image by its size, before any of it is downloaded.

    Raises:
      EmptyImage: When it has no bytes.
      TooManyBytes: When it has too many.
    """
    name = shown(str(location))
    if not size:
        raise EmptyImage(f"The image {name} is empty: it has 0 bytes. Save it again.")
    if size > most_bytes:
        raise TooManyBytes(
            f"The image {name} has {size / MILLION:g} megabytes, more than the limit of {most_bytes / MILLION:g}. "
            "Save it smaller, or raise MAX_MEGABYTES."
        )


def downloaded(location: Location, size: int, chunks: Iterable[Any]) -> SourceFile:
    """Put what arrives into a temporary file that has no name, and open it for reading.

    Parameters:
      location(Location): Where it comes from.
      size(int): How many bytes it has; no more are taken.
      chunks(Iterable): Its bytes, in objects of the buffer protocol.

    Raises:
      StorageUnavailable: When there are more or fewer bytes, or no room for them.
    """
    arrived = 0
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            for chunk in chunks:
                arrived += memoryview(chunk).nbytes
                if arrived > size:
                    break
                _write_all(file.fileno(), chunk)
            if arrived == size:
                file.seek(0)
                return SourceFile(os.dup(file.fileno()), str(location), location.extension)
    except OSError as error:
        raise StorageUnavailable(
            f"The image {shown(str(location))} cannot be kept while it is converted, in {tempfile.gettempdir()}: "
            f"{error.strerror}. Make room there, or set TMPDIR to another directory."
        ) from error
    raise StorageUnavailable(
        f"The image {shown(str(location))} arrived with {arrived:,} bytes instead of {size:,}: it was changed, or the "
        "connection broke."
    )


def _write_all(descriptor: int, data: Any) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
