"""TIFF: the size of the first page, the size of its tiles, its metadata, and how many pages there are."""

from __future__ import annotations

import struct
from typing import NamedTuple

from .survey import Survey

__all__ = ["survey_tiff"]

_LENGTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by its type."""

_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}

WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323
STRUCTURE = (273, 279, 324, 325, 320, 347)
"""Where the pixels are, the palette, JPEG's tables: no metadata."""


class _Layout(NamedTuple):
    """How numbers are written in the file, a TIFF or a BigTIFF."""

    length: str
    entry: str
    offset: str
    inline: int


def survey_tiff(survey: Survey) -> None:
    """Note a TIFF's size, metadata and pages. Its tiles are held to the limit of the pixels, like the page itself."""
    head = survey.read_at(0, 16)
    order = "<" if head[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", head, 2) == (43,):
        layout, start = _Layout(order + "Q", order + "HHQ", order + "Q", 8), 8
    else:
        layout, start = _Layout(order + "H", order + "HHI", order + "I", 4), 4
    (offset,) = struct.unpack_from(layout.offset, head, start)
    seen: set[int] = set()
    while 0 < offset < survey.length and offset not in seen:
        survey.frames()
        seen.add(offset)
        offset = _note_page(survey, layout, offset, first=len(seen) == 1)


def _note_page(survey: Survey, layout: _Layout, offset: int, *, first: bool) -> int:
    """Note a page, and return where the next one begins."""
    (count,) = struct.unpack(layout.length, survey.read_at(offset, struct.calcsize(layout.length)))
    entry_length = struct.calcsize(layout.entry) + layout.inline
    offset += struct.calcsize(layout.length)
    if first:
        survey.metadata(entry_length * count)
        entries = survey.read_at(offset, entry_length * count)
        _note_entries(survey, layout, [entries[at : at + entry_length] for at in range(0, len(entries), entry_length)])
    following = survey.read_at(offset + entry_length * count, struct.calcsize(layout.offset))
    return int(struct.unpack(layout.offset, following)[0])


def _note_entries(survey: Survey, layout: _Layout, entries: list[bytes]) -> None:
    sizes: dict[int, int] = {}
    for entry in entries:
        tag, kind, count = struct.unpack_from(layout.entry, entry)
        length = _LENGTHS.get(kind, 1) * count
        if tag in (WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH) and kind in _INTEGERS:
            (sizes[tag],) = struct.unpack_from(layout.entry[0] + _INTEGERS[kind], entry, len(entry) - layout.inline)
        elif tag not in STRUCTURE and length > layout.inline:
            survey.metadata(length)
    if TILE_WIDTH in sizes and TILE_LENGTH in sizes:
        survey.size(sizes[TILE_WIDTH], sizes[TILE_LENGTH])
    if WIDTH in sizes and LENGTH in sizes:
        survey.size(sizes[WIDTH], sizes[LENGTH])
