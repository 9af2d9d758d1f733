"""A source of bytes, and a file put together from parts of it."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Sequence
from typing import BinaryIO, Protocol, TypeAlias

__all__ = ["Piece", "Source", "spliced", "whole"]

Piece: TypeAlias = "bytes | tuple[int, int]"
"""Bytes as they are, or an offset in the source and how many bytes follow it."""

BUFFER_SIZE = 64 * 1024


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


def whole(source: Source) -> BinaryIO:
    """The source as a buffered file, no byte beyond its length."""
    return spliced(source, [(0, source.length)])


def spliced(source: Source, pieces: Sequence[Piece]) -> BinaryIO:
    """The pieces, one after the other, as a buffered file. What they name is read when it is asked for."""
    return io.BufferedReader(_Spliced(source, pieces), BUFFER_SIZE)


class _Spliced(io.RawIOBase):
    def __init__(self, source: Source, pieces: Sequence[Piece]) -> None:
        self._source = source
        self._pieces = pieces
        lengths = (len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces)
        self._starts = list(itertools.accumulate(lengths, initial=0))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # always a memoryview here
        if self._position >= self._starts[-1]:
            return 0
        index = bisect.bisect_right(self._starts, self._position) - 1
        data = self._part(self._pieces[index], self._position - self._starts[index], len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _part(self, piece: Piece, skipped: int, most: int) -> bytes:
        if isinstance(piece, bytes):
            return piece[skipped : skipped + most]
        offset, length = piece
        self._source.seek(offset + skipped)
        return self._source.read(min(length - skipped, most))
