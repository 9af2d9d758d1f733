"""The conversion of an image to black and white, as ImageMagick's ``-monochrome`` does it."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from PIL import Image

from .decoding import decode
from .limits import Limits, taken_formats
from .paths import output_name
from .storage import Roots, Storages, location_of, output_location
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
    storages: Storages | None = None,
) -> Path | str:
    """Convert an image to black and white and write it to the output directory, named by its id.

    The output keeps the source's extension and format. It is upright, has the first frame only where the source
    has several, stands on white where the source is transparent, and carries no metadata. It appears whole or not
    at all, also over an older one.

    Parameters:
      uri(str): The source, as ``file:///absolute/path.jpg``, ``s3://bucket/key.jpg`` or ``nats://bucket/name.jpg``:
        JPEG, PNG, WEBP, GIF or BMP.
      image_id(str): The output's name without the extension.
      outdir(str): The place to write to, which must exist: a directory, ``s3://bucket/prefix`` or ``nats://bucket``.
      indir(str): The places that the source must lie in, as ``INDIR`` names them, or None to read from anywhere.
      max_megapixels(float): The most millions of pixels to decode, or None to ask ``MAX_MEGAPIXELS`` in the
        environment, and without that to take 100.
      extra_formats(Iterable[str]): The formats to take besides, of ``tiff``, ``avif`` and ``heic``, or None to ask
        ``EXTRA_FORMATS`` in the environment, and without that to take none.

      storages(Storages): Clients to use again. Defaults to some that are closed at the end.

    Raises:
      ImageError: When the image is refused; the subclass tells the reason.

    Returns:
      Path | str: The file written, or the URI of the object.
    """
    location, roots = location_of(uri), Roots.of(indir)
    roots.directory_of(location)
    name = output_name(image_id, location.extension)
    limits = Limits.from_environment(max_megapixels)
    formats = taken_formats(extra_formats)
    with ExitStack() as opened:
        if storages is None:
            storages = opened.enter_context(closing(Storages()))
        output = opened.enter_context(storages.output(output_location(outdir)))
        source = opened.enter_context(storages.open(location, roots, limits.bytes))
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
