"""The conversion of an image to black and white, as ImageMagick's ``-monochrome`` does it."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .decoding import decode
from .limits import Limits, taken_formats
from .output import OutputDirectory
from .paths import extension_of, output_name, source_path
from .sources import open_source
from .tones import black_and_white

__all__ = ["convert_image"]

# Dithered pixels gain next to nothing from slow compression.
_WRITERS: Mapping[str, Mapping[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {"compress_level": 1, "compress_type": zlib.Z_RLE},
    "WEBP": {"lossless": True, "quality": 0, "method": 0},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "group4"},
    "AVIF": {"quality": 90, "speed": 10},
}


def convert_image(
    uri: str,
    image_id: str,
    *,
    outdir: str | os.PathLike[str],
    indir: str | os.PathLike[str] | None = None,
    max_megapixels: float | None = None,
    extra_formats: Iterable[str] | None = None,
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
      extra_formats(Iterable[str]): The formats to take besides, of ``tiff``, ``avif`` and ``heic``, or None to ask
        ``EXTRA_FORMATS`` in the environment, and without that to take none.

    Raises:
      ImageError: When the image is refused; the subclass tells the reason.

    Returns:
      Path: The file written.
    """
    path = source_path(uri, indir)
    name = output_name(image_id, extension_of(path))
    limits = Limits.from_environment(max_megapixels)
    formats = taken_formats(extra_formats)
    with OutputDirectory(outdir) as output, open_source(path, indir) as source:
        grey, format_name = decode(source, limits, formats)
        return output.write(name, _encoded(black_and_white(grey), format_name))


def _encoded(picture: Image.Image, format_name: str) -> bytes:
    buffer = io.BytesIO()
    if format_name == "HEIF":
        _save_heif(picture, buffer)
    else:
        # AVIF has no pixels of one bit.
        deep = picture.convert("L") if format_name == "AVIF" else picture
        deep.save(buffer, format_name, **_WRITERS[format_name])
    return buffer.getvalue()


def _save_heif(picture: Image.Image, buffer: io.BytesIO) -> None:
    from pillow_heif import from_pillow

    from_pillow(picture.convert("L")).save(buffer, quality=90)
