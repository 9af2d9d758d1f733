"""PNG and WEBP: files made of chunks, of which Pillow is given only those that the first frame needs.

Pillow would otherwise read all frames of a WEBP, and has limits of its own on single texts and profiles of a PNG.
"""

from __future__ import annotations

import struct
import zlib

from .survey import Survey

__all__ = ["survey_png", "survey_webp"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_OVERHEAD = 12
"""Bytes of a chunk's length, kind and checksum."""

_FRAMES = (b"IDAT", b"fdAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TURNING_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""The texts in which Pillow looks for an orientation."""


def survey_png(survey: Survey) -> None:
    """Note a PNG's size, metadata and frames, and keep its image, its palette and what tells its orientation."""
    survey.pieces.append(PNG_MAGIC)
    offset = len(PNG_MAGIC)
    while len(head := survey.read_at(offset, 8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND" or not kind.isalpha():
            break
        _note_png_chunk(survey, kind, offset + 8, length)
        offset += PNG_OVERHEAD + length
        if offset > survey.length and kind == b"IDAT":
            # Nothing may follow that could be taken for the pixels that are missing.
            return
    survey.pieces.append(_png_chunk(b"IEND", b""))


def _note_png_chunk(survey: Survey, kind: bytes, start: int, length: int) -> None:
    there = max(min(length, survey.length - start), 0)
    survey.metadata(PNG_OVERHEAD + (0 if kind in _FRAMES else there))
    if kind == b"IHDR":
        survey.size(*struct.unpack(">II", survey.read_at(start, 8)))
    elif kind == b"acTL":
        survey.frames(int.from_bytes(survey.read_at(start, 4), "big"))
    elif kind == b"iCCP":
        _, _, packed = survey.read_at(start, there).partition(b"\0")
        survey.count_unpacked(packed[1:])
    elif kind == b"eXIf":
        survey.pieces.append(_png_chunk(kind, survey.read_at(start, there)))
    elif kind in _TEXTS:
        _note_png_text(survey, kind, survey.read_at(start, there))
    if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
        survey.keep(start - 8, min(length + PNG_OVERHEAD, survey.length - start + 8))


def _note_png_text(survey: Survey, kind: bytes, data: bytes) -> None:
    keyword, _, text = data.partition(b"\0")
    if kind == b"zTXt":
        packed, text = True, text[1:]
    elif kind == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    else:
        packed = False
    if packed:
        survey.count_unpacked(text)
    if keyword in _TURNING_TEXTS:
        try:
            plain = survey.unpacked(text) if packed else text
        except zlib.error:
            return
        plain = plain if kind == b"iTXt" else plain.decode("latin-1").encode()
        survey.pieces.append(_png_chunk(b"iTXt", keyword + bytes(5) + plain))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def survey_webp(survey: Survey) -> None:
    """Note a WEBP's size, metadata and frames, and keep its first frame and what tells its orientation."""
    declared = 8 + int.from_bytes(survey.read_at(4, 4), "little")
    end = min(declared, survey.length) if declared > 8 else survey.length
    kept: list[tuple[bytes, int, int]] = []
    offset = 12
    while offset < end and len(head := survey.read_at(offset, 8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if _note_webp_chunk(survey, kind, offset + 8, length, [kind for kind, _, _ in kept]):
            kept.append((kind, offset, length))
        offset += 8 + length + length % 2
    _keep_webp(survey, kept)


def _note_webp_chunk(survey: Survey, kind: bytes, start: int, length: int, before: list[bytes]) -> bool:
    """Whether Pillow shall see the chunk."""
    there = max(min(length, survey.length - start), 0)
    if kind == b"ANMF":
        survey.frames()
    pixels = kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
    survey.metadata(8 if pixels else 8 + there)
    if kind in before or (pixels and b"ANMF" in before):
        return False
    if kind == b"VP8X":
        data = survey.read_at(start, 10)
        survey.size(1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little"))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", survey.read_at(start, 5), 1)
        survey.size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", survey.read_at(start, 10), 6)
        survey.size(width & 0x3FFF, height & 0x3FFF)
    if there < length:
        if pixels or kind == b"VP8X":
            raise survey.cut_short()
        return False
    return pixels or kind in (b"VP8X", b"ANIM", b"EXIF", b"XMP ")


def _keep_webp(survey: Survey, kept: list[tuple[bytes, int, int]]) -> None:
    extended = kept[:1] and kept[0][0] == b"VP8X"
    chosen = kept if extended else kept[:1]
    size = 4 + sum(8 + length + length % 2 for _, _, length in chosen)
    survey.pieces.append(b"RIFF" + struct.pack("<I", size) + b"WEBP")
    for _, offset, length in chosen:
        survey.keep(offset, 8 + length)
        if length % 2:
            survey.pieces.append(b"\0")
