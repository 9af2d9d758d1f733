"""What an image's structure tells: its format, its size, its metadata and frames. No pixel is decoded here.

Pillow reads everything that is used of an image. What is read here first is what must stay within limits, because
some of Pillow's readers make room for the pixels, or take in the whole file, as soon as they are opened.
"""

from __future__ import annotations

import struct

from .chunks import survey_png, survey_webp
from .ifds import survey_tiff
from .survey import Survey

__all__ = ["EXTENSIONS", "format_of", "look_over"]

EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".apng": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
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
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}

_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
BRANDS_READ = 256
"""Bytes in which the brands of an AVIF or HEIC file are looked for."""


def format_of(survey: Survey) -> str | None:
    """The format that the file's first bytes announce, or None when it is none that the service knows."""
    head = survey.read_at(0, BRANDS_READ)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _format_of_brands(head[: int.from_bytes(head[:4], "big")])
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def look_over(survey: Survey, format_name: str) -> None:
    """Note the size, the metadata and the frames of an image whose format is known.

    What makes no sense ends the look: Pillow finds the same, and its own reading is held to the limits as well.

    Raises:
      ImageError: When a limit is passed.
    """
    look = _LOOKS.get(format_name)
    try:
        if look is not None:
            look(survey)
    except (struct.error, IndexError):
        return


def _format_of_brands(head: bytes) -> str | None:
    # The major brand may be that of any image; then the compatible ones tell, after the minor version.
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, len(head), 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand in _HEIF_BRANDS:
            return "HEIF"
    return None


def _look_at_bmp(survey: Survey) -> None:
    (header_length,) = struct.unpack("<I", survey.read_at(14, 4))
    survey.metadata(header_length)
    if header_length == 12:
        survey.size(*struct.unpack("<HH", survey.read_at(18, 4)))
        return
    width, height = struct.unpack("<ii", survey.read_at(18, 8))
    # A negative height means rows from the top down.
    survey.size(width, abs(height))


def _look_at_gif(survey: Survey) -> None:
    """The logical screen, widened to the first frame as Pillow widens it; then the other frames are counted."""
    file = survey.file
    width, height, flags = struct.unpack("<HHB", survey.read_at(6, 5))
    file.seek(13 + _gif_palette_length(flags))
    found = False
    while (block := file.read(1)) in (b"!", b","):
        if block == b",":
            survey.frames()
            left, top, frame_width, frame_height, flags = struct.unpack("<HHHHB", file.read(9))
            if not found:
                survey.size(max(width, left + frame_width), max(height, top + frame_height))
                found = True
            file.seek(_gif_palette_length(flags) + 1, 1)
        else:
            file.seek(1, 1)
        _skip_gif_blocks(survey, counted=not found)
    if not found:
        survey.size(width, height)


def _skip_gif_blocks(survey: Survey, *, counted: bool) -> None:
    file = survey.file
    while length := file.read(1)[0]:
        if counted:
            survey.metadata(1 + length)
        file.seek(length, 1)


def _gif_palette_length(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _look_at_jpeg(survey: Survey) -> None:
    file = survey.file
    file.seek(2)
    while (marker := _next_jpeg_marker(survey)) not in (None, 0xDA):
        if 0xD0 <= marker <= 0xD9:
            # It stands alone.
            continue
        (length,) = struct.unpack(">H", file.read(2))
        following = file.tell() + max(length - 2, 0)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", file.read(5))
            survey.size(width, height)
        else:
            survey.metadata(length + 2)
        file.seek(following)


def _next_jpeg_marker(survey: Survey) -> int | None:
    skipped = 0
    while byte := survey.file.read(1):
        if byte == b"\xff":
            while (byte := survey.file.read(1)) == b"\xff":
                skipped += 1
            if byte != b"\0":
                survey.metadata(skipped)
                return byte[0] if byte else None
        skipped += 1
        if skipped % 65_536 == 0:
            survey.metadata(skipped)
            skipped = 0
    return None


_LOOKS = {
    "JPEG": _look_at_jpeg,
    "PNG": survey_png,
    "WEBP": survey_webp,
    "GIF": _look_at_gif,
    "BMP": _look_at_bmp,
    "TIFF": survey_tiff,
}
