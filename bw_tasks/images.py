"""The conversion of an image to black and white, as ImageMagick's ``-monochrome`` does it."""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .decoding import decode
from .errors import InvalidLimit, shown
from .output import OutputDirectory
from .paths import extension_of, output_name, source_path
from .sources import open_source
from .tones import black_and_white

__all__ = ["DEFAULT_MAX_MEGAPIXELS", "convert_image", "most_pixels"]

DEFAULT_MAX_MEGAPIXELS = 100
"""The limit when neither the caller nor ``MAX_MEGAPIXELS`` gives one."""

# Dithered pixels gain next to nothing from slow compression.
_WRITERS: Mapping[str, Mapping[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {"compress_level": 1, "compress_type": zlib.Z_RLE},
    "WEBP": {"lossless": True, "quality": 0, "method": 0},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "group4"},
}


def convert_image(
    uri: str,
    image_id: str,
    *,
    outdir: str | os.PathLike[str],
    indir: str | os.PathLike[str] | None = None,
    max_megapixels: float | None = None,
    tiff: bool = False,
) -> Path:
    """Convert an image to black and white and write it to the output directory, named by its id.

    The output keeps the source's extension and format. It is upright, has the first frame only where the source
    has several, stands on white where the source is transparent, and carries no metadata. It appears whole or not
    at all, also over an older one.

    Parameters:
      uri(str): The source, as ``file:///absolute/path.jpg``: JPEG, PNG, WEBP, GIF or BMP.
      image_id(str): The output's name without the extension.
      outdir(str): The directory to write to, which must exist.
      indir(str): The directory that the source must lie in, or None to read from anywhere.
      max_megapixels(float): The most millions of pixels to decode, or None to ask ``MAX_MEGAPIXELS`` in the
        environment, and without that to take 100.
      tiff(bool): Whether TIFF is taken as well.

    Raises:
      ImageError: When the image is refused; the subclass tells the reason.

    Returns:
      Path: The file written.
    """
    path = source_path(uri, indir)
    name = output_name(image_id, extension_of(path))
    limit = most_pixels(max_megapixels)
    with OutputDirectory(outdir) as output, open_source(path, indir) as source:
        grey, format_name = decode(source, limit, tiff=tiff)
        return output.write(name, _encoded(black_and_white(grey), format_name))


def most_pixels(max_megapixels: float | None = None) -> int:
    """The most pixels to decode.

    Parameters:
      max_megapixels(float): The limit in millions, or None to ask ``MAX_MEGAPIXELS``, and without that to take 100.

    Raises:
      InvalidLimit: If the limit is not a positive number.
    """
    given: Any = max_megapixels
    if given is None:
        given = os.environ.get("MAX_MEGAPIXELS") or DEFAULT_MAX_MEGAPIXELS
    try:
        megapixels = float(given)
    except ValueError:
        megapixels = math.nan
    if not 0 < megapixels < math.inf:
        raise InvalidLimit(f"The limit in megapixels is {shown(str(given))}. Set MAX_MEGAPIXELS to one such as 100.")
    return round(megapixels * 1_000_000)


def _encoded(picture: Image.Image, format_name: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **_WRITERS[format_name])
    return buffer.getvalue()
