"""What is noted of an image before Pillow sees it, each measure held against its limit as it is found."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from .errors import DamagedImage, EmptyImage, TooManyBytes, TooManyFrames, TooManyPixels, TooMuchMetadata, shown
from .limits import MILLION, Limits
from .splicing import Piece, Source, whole

__all__ = ["Size", "Survey"]

PORTION = 64 * 1024
"""Bytes unpacked at once of what is only counted."""


class Size(NamedTuple):
    """An image's size in pixels."""

    width: int
    height: int


class Survey:
    """A walk through an image's structure, by which no pixel is decoded.

    Parameters:
      source(Source): The image.
      limits(Limits): What it may have.

    Raises:
      TooManyBytes: When the file is too long.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        if source.length > limits.bytes:
            raise TooManyBytes(
                f"The image {shown(source.name)} has {source.length / MILLION:g} megabytes, more than the limit of "
                f"{limits.bytes / MILLION:g}. Save it smaller, or raise MAX_MEGABYTES."
            )
        self.source = source
        self.file = whole(source)
        self.found_size: Size | None = None
        self.pieces: list[Piece] = []
        """What Pillow is given to read instead of the whole file, if anything."""
        self._limits = limits
        self._metadata = 0
        self._frames = 0

    @property
    def length(self) -> int:
        return self.source.length

    def read_at(self, offset: int, count: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(count)

    def size(self, width: int, height: int) -> None:
        """Note the size of what will be decoded.

        Raises:
          EmptyImage: When it has no pixels.
          TooManyPixels: When it has too many.
        """
        size = f"{width}x{height}"
        if width < 1 or height < 1:
            raise EmptyImage(
                f"The image {shown(self.source.name)} has no pixels: its header says {size}. Save it again."
            )
        if width * height > self._limits.pixels:
            raise TooManyPixels(
                f"The image {shown(self.source.name)} has {size} pixels, more than the limit of "
                f"{self._limits.pixels / MILLION:g} megapixels. Scale it down, or raise MAX_MEGAPIXELS."
            )
        self.found_size = Size(width, height)

    def metadata(self, count: int) -> None:
        """Note that so many bytes are not pixels.

        Raises:
          TooMuchMetadata: When there are too many by now.
        """
        self._metadata += count
        if self._metadata > self._limits.metadata:
            raise TooMuchMetadata(
                f"The image {shown(self.source.name)} has profiles, texts and other metadata of more than the limit of "
                f"{self._limits.metadata / MILLION:g} megabytes. Remove them, or raise MAX_METADATA_MEGABYTES."
            )

    def frames(self, count: int = 1) -> None:
        """Note that there are so many more frames.

        Raises:
          TooManyFrames: When there are too many by now.
        """
        self._frames += count
        if self._frames > self._limits.frames:
            raise TooManyFrames(
                f"The image {shown(self.source.name)} has more frames than the limit of {self._limits.frames}. "
                "Save its first frame alone, or raise MAX_FRAMES."
            )

    def count_unpacked(self, packed: bytes) -> None:
        """Note metadata that is compressed, at the length it has unpacked; what is damaged counts as far as it goes."""
        unpacking = zlib.decompressobj()
        try:
            while packed and not unpacking.eof:
                self.metadata(len(unpacking.decompress(packed, PORTION)))
                packed = unpacking.unconsumed_tail
        except zlib.error:
            return

    def unpacked(self, packed: bytes) -> bytes:
        """Compressed metadata that has been counted, unpacked.

        Raises:
          zlib.error: When it is damaged.
        """
        return zlib.decompressobj().decompress(packed, self._limits.metadata)

    def keep(self, offset: int, count: int) -> None:
        """Let Pillow read this part of the file."""
        last = self.pieces[-1] if self.pieces else b""
        if isinstance(last, tuple) and sum(last) == offset:
            self.pieces[-1] = (last[0], last[1] + count)
        else:
            self.pieces.append((offset, count))

    def cut_short(self) -> DamagedImage:
        """The error for a file that ends before its first frame does."""
        return DamagedImage(f"The image {shown(self.source.name)} is cut short. Save or copy it again.")
