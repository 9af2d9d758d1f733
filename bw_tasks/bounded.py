"""A source of bytes as the decoder sees it: any seekable binary file, read in bounded portions."""

from __future__ import annotations

import io
from typing import Protocol

from .errors import TooMuchMetadata, shown

__all__ = ["BoundedReader", "Source"]


class Source(Protocol):
    """An image's bytes, wherever they are stored: a seekable binary file, opened, of which nothing was read yet."""

    @property
    def name(self) -> str:
        """The path or URI, for error texts."""

    @property
    def extension(self) -> str:
        """The name from its last dot on, as it was found, or nothing."""

    @property
    def length(self) -> int:
        """How many bytes it has."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class BoundedReader(io.RawIOBase):
    """Reads a source, and gives no more bytes than it has been allowed to.

    Parameters:
      source(Source): The image.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0
        self._allowance = 0

    def allow(self, count: int) -> None:
        """Let this many more bytes be read."""
        self._allowance += count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.length}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Like any file's, within the allowance.

        Raises:
          TooMuchMetadata: When the allowance is used up.
        """
        most = min(self._allowance + 1, max(self._source.length - self._position, 0))
        wanted = most if size is None or size < 0 else min(size, most)
        self._source.seek(self._position)
        data = self._source.read(wanted)
        self._position += len(data)
        self._allowance -= len(data)
        if self._allowance < 0:
            raise TooMuchMetadata(
                f"The image {shown(self._source.name)} carries far more data than its pixels need. "
                "Remove its profiles, comments and other metadata."
            )
        return data
