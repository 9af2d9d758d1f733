"""Images whose file ends early: converted where only the end mark or the last rows are missing.

ImageMagick converts a JPEG that is cut anywhere and refuses most of the rest. Here all formats that are decoded row
by row (JPEG, PNG, GIF, BMP and uncompressed TIFF) are treated alike: at most one row in twenty may be missing.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from PIL.ImageFile import ImageFile

from .errors import DamagedImage, shown
from .survey import Survey

__all__ = ["is_cut_short", "load_available", "salvaged"]

ROWS_PER_MISSING = 20
"""Of so many rows, one may be missing."""

JPEG_END = b"\xff\xd9"
JPEG_FILLING = {"L": {128}, "CMYK": {126, 127, 128, 129}}
"""The values, by mode, that libjpeg gives to pixels of which there is no data."""

JPEG_BLOCK = 8
"""Pixels that libjpeg has or lacks together."""


def is_cut_short(error: OSError) -> bool:
    """Whether an error of Pillow's means that data is missing, rather than wrong."""
    return "image file is truncated" in str(error)


def salvaged(survey: Survey, opened: Callable[[bytes], ImageFile]) -> tuple[ImageFile, set[int]]:
    """What there is of an image that is cut short, and the rows that are missing.

    In a JPEG none are: libjpeg makes them grey.

    Parameters:
      survey(Survey): What is known of the image.
      opened(Callable): Opens the image anew, with these bytes behind its own.

    Raises:
      DamagedImage: When too much of it is missing.
    """
    # What a decoder has not written still has the colour that was there before.
    filled = [_partly_loaded(opened(b""), filling) for filling in (0, 255)]
    image = filled[0]
    missing = {row for row in range(image.height) if _row(filled[0], row) != _row(filled[1], row)}
    if image.format == "JPEG":
        image = opened(JPEG_END)
        image.load()
        missing = {row for row in missing if _ends_in_filling(image, row)}
    elif image.format == "GIF" and "transparency" in image.info:
        # Its reader begins with a transparent image.
        clear = bytes([image.info["transparency"]]) * image.width
        missing = {row for row in range(image.height) if _row(image, row) == clear}
    if len(missing) > max(image.height // ROWS_PER_MISSING, 1) or len(missing) == image.height:
        raise DamagedImage(
            f"The image {shown(survey.source.name)} is cut short: {len(missing)} of its {image.height} rows are "
            "missing. Copy it again."
        )
    return image, set() if image.format == "JPEG" else missing


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


def _ends_in_filling(image: Image.Image, row: int) -> bool:
    end = image.crop((max(image.width - JPEG_BLOCK, 0), row, image.width, row + 1))
    return set(end.tobytes()) <= JPEG_FILLING.get(image.mode, set())


def _row(image: Image.Image, row: int) -> bytes:
    return image.crop((0, row, image.width, row + 1)).tobytes()
