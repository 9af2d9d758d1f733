"""What the first bytes of an image tell: its format, its size, its orientation. No pixel is decoded here.

The sizes are read before Pillow sees the file, because some of its readers make room for the pixels as soon as
they are opened. They must not be trusted further than that: Pillow's own reading is compared to the limit as well.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

__all__ = ["EXTENSIONS", "Size", "format_of", "orientation_of", "size_of"]

EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""The formats, by the extensions (in lower case) that stand for them."""

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}

_EXIF_ORIENTATION = 0x0112
_EXIF_SHORT = 3


class Size(NamedTuple):
    """An image's size in pixels."""

    width: int
    height: int


def format_of(file: BinaryIO) -> str | None:
    """The format that the file's first bytes announce, or None when it is none that the service knows."""
    head = _read_at(file, 0, 12)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def size_of(file: BinaryIO, format_name: str) -> Size | None:
    """The size in the file's header, or None where Pillow has to find it (TIFF, headers that make no sense)."""
    reader = _SIZES.get(format_name)
    try:
        return reader(file) if reader is not None else None
    except (struct.error, IndexError):
        return None


def orientation_of(exif: bytes) -> int:
    """The orientation in an EXIF block: 1 to 8, and 1 for a block that has none or is damaged."""
    try:
        value = _first_directory(exif.removeprefix(b"Exif\x00\x00")).get(_EXIF_ORIENTATION, 1)
    except struct.error:
        return 1
    return value if 1 <= value <= 8 else 1


def _first_directory(tiff: bytes) -> dict[int, int]:
    """The short integers among the first directory's entries, by tag."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return {}
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    entries = (struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * index) for index in range(count))
    return {tag: value for tag, kind, _, value in entries if kind == _EXIF_SHORT}


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _png_size(file: BinaryIO) -> Size:
    return Size(*struct.unpack(">II", _read_at(file, 16, 8)))


def _bmp_size(file: BinaryIO) -> Size:
    (header_length,) = struct.unpack("<I", _read_at(file, 14, 4))
    if header_length == 12:
        return Size(*struct.unpack("<HH", _read_at(file, 18, 4)))
    width, height = struct.unpack("<ii", _read_at(file, 18, 8))
    # A negative height means rows from the top down.
    return Size(width, abs(height))


def _webp_size(file: BinaryIO) -> Size:
    head = _read_at(file, 12, 18)
    kind, data = head[:4], head[8:]
    if kind == b"VP8X":
        return Size(1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little"))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 1)
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 6)
    return Size(width & 0x3FFF, height & 0x3FFF)


def _gif_size(file: BinaryIO) -> Size:
    """The logical screen, widened to the first frame as Pillow widens it."""
    width, height, flags = struct.unpack("<HHB", _read_at(file, 6, 5))
    file.seek(13 + _gif_palette_length(flags))
    while (block := file.read(1)) == b"!":
        file.seek(1, 1)
        while length := file.read(1)[0]:
            file.seek(length, 1)
    if block != b",":
        return Size(width, height)
    left, top, frame_width, frame_height = struct.unpack("<HHHH", file.read(8))
    return Size(max(width, left + frame_width), max(height, top + frame_height))


def _gif_palette_length(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _jpeg_size(file: BinaryIO) -> Size | None:
    file.seek(2)
    while (marker := file.read(2)) and marker[0] == 0xFF:
        if marker[1] == 0xFF:
            file.seek(-1, 1)
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", file.read(5))
            return Size(width, height)
        file.seek(length - 2, 1)
    return None


_SIZES = {"PNG": _png_size, "BMP": _bmp_size, "WEBP": _webp_size, "GIF": _gif_size, "JPEG": _jpeg_size}
