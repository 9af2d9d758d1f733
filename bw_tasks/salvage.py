"""Images whose file ends early: converted where only the end mark or the last rows are missing.

ImageMagick converts a JPEG that is cut anywhere and refuses most of the rest. Here all formats that are decoded row
by row (JPEG, PNG, GIF, BMP and uncompressed TIFF) are treated alike: at most one pixel in twenty may be missing.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection

from PIL import Image
from PIL.ImageFile import ImageFile

from .errors import DamagedImage, shown
from .survey import Survey

__all__ = ["is_cut_short", "load_available", "repeat_rows", "salvaged"]

PIXELS_PER_MISSING = 20
"""Of so many pixels, one may be missing; of a small image, one row."""

JPEG_END = b"\xff\xd9"
JPEG_FILLING = bytes([127, 128])
"""What libjpeg gives to pixels of which there is no data: 128, or 127 where Pillow inverts CMYK."""


def is_cut_short(error: OSError) -> bool:
    """Whether an error of Pillow's means that data is missing, rather than wrong."""
    return "image file is truncated" in str(error)


def salvaged(survey: Survey, opened: Callable[[bytes], ImageFile]) -> tuple[ImageFile, set[int]]:
    """What there is of an image that is cut short, and the rows that are missing.

    In a JPEG no row is: libjpeg fills it up.

    Parameters:
      survey(Survey): What is known of the image.
      opened(Callable): Opens the image anew, with these bytes behind its own.

    Raises:
      DamagedImage: When too much of it is missing.
    """
    # What a decoder has not written still has the colour that was there before.
    filled = [_partly_loaded(opened(b""), filling) for filling in (0, 255)]
    image = filled[0]
    missing = {row for row in range(image.height) if _row(image, row) != _row(filled[1], row)}
    if image.format == "JPEG":
        image = opened(JPEG_END)
        image.load()
        _require_most(survey, image, sum(_filling_at_end(image, row) for row in missing))
        return image, set()
    if image.format == "GIF" and "transparency" in image.info:
        # Its reader begins with a transparent image.
        clear = bytes([image.info["transparency"]]) * image.width
        missing = {row for row in range(image.height) if _row(image, row) == clear}
    _require_most(survey, image, len(missing) * image.width)
    return image, missing


def repeat_rows(grey: Image.Image, missing: Collection[int]) -> None:
    """Put the nearest row that is there in the place of each that is missing, which leaves the contrast as it is."""
    there = [row for row in range(grey.height) if row not in missing]
    for row in missing:
        following = bisect.bisect(there, row)
        nearest = min(there[max(following - 1, 0) : following + 1], key=lambda other: abs(other - row))
        grey.paste(grey.crop((0, nearest, grey.width, nearest + 1)), (0, row))


def _require_most(survey: Survey, image: Image.Image, missing: int) -> None:
    pixels = image.width * image.height
    if missing > max(pixels // PIXELS_PER_MISSING, image.width) or missing == pixels:
        raise DamagedImage(
            f"The image {shown(survey.source.name)} is cut short: {missing / pixels:.0%} of its pixels are missing. "
            "Copy it again."
        )


def load_available(image: ImageFile) -> ImageFile:
    """Decode as much of an image as there is."""
    try:
        image.load()
    except OSError as error:
        if not is_cut_short(error):
            raise
    image.tile = []
    return image


def _partly_loaded(image: ImageFile, filling: int) -> ImageFile:
    image.im = Image.new(image.mode, image.size, filling).im
    return load_available(image)


def _filling_at_end(image: Image.Image, row: int) -> int:
    data = _row(image, row)
    return (len(data) - len(data.rstrip(JPEG_FILLING))) // len(image.getbands())


def _row(image: Image.Image, row: int) -> bytes:
    return image.crop((0, row, image.width, row + 1)).tobytes()
