"""From a file that a stranger sent to an upright grey image, or a refusal.

The format is told by the content, and each format has its one reader: none of Pillow's other readers is ever
reached. Pillow's own settings are left as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import BinaryIO, cast

from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from .bounded import BoundedReader, Source
from .errors import (
    DamagedImage,
    EmptyImage,
    ImageError,
    MislabelledImage,
    TooManyPixels,
    TooMuchMetadata,
    UnreadableImage,
    UnsupportedFormat,
    shown,
)
from .headers import EXTENSIONS, Size, format_of, orientation_of, size_of

__all__ = ["decode"]

METADATA_ALLOWANCE = 16 * 1024 * 1024
"""Bytes that may be read of an image besides its pixels."""

BYTES_PER_PIXEL = 8
"""Bytes of the largest pixel in any of the formats: four channels of 16 bits."""

# Pillow warns of damaged metadata, which is of no concern here, and of large images, which are refused below. The
# filters are set once, because changing them around each call is not safe between threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")

_READERS: Mapping[str, type[ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: Source, most_pixels: int, *, tiff: bool = False) -> tuple[Image.Image, str]:
    """Decode an image's first frame to grey, upright, transparent parts on white.

    Parameters:
      source(Source): The file, of which nothing has been read yet.
      most_pixels(int): The most pixels to decode. An image of more is refused by its header.
      tiff(bool): Whether TIFF is taken as well.

    Raises:
      UnsupportedFormat: When the content or the extension is of no format that is taken.
      MislabelledImage: When content and extension disagree.
      EmptyImage: When the image has no pixels.
      TooManyPixels: When it has too many.
      TooMuchMetadata: When it has too much beside its pixels.
      DamagedImage: When it cannot be decoded.
      UnreadableImage: When the system fails to read it.

    Returns:
      tuple[Image, str]: The image in mode L, and its format.
    """
    reader = BoundedReader(source)
    reader.allow(METADATA_ALLOWANCE)
    try:
        format_name = _format(source, reader, [name for name in _READERS if tiff or name != "TIFF"])
        return _upright_grey(source, reader, format_name, most_pixels), format_name
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow has no common base for what its readers raise on bad data, down to KeyError and zlib.error.
        raise _refusal(error, source) from error


def _format(source: Source, reader: BoundedReader, taken: list[str]) -> str:
    extension = source.extension
    labelled = EXTENSIONS.get(extension.lower())
    found = format_of(cast(BinaryIO, reader))
    if found not in taken or (extension and labelled not in taken):
        raise UnsupportedFormat(
            f"The image {shown(source.name)} is not in a format that is taken, by its content or by its "
            f"extension. Save it as one of {', '.join(taken)}."
        )
    if extension and labelled != found:
        raise MislabelledImage(
            f"The image {shown(source.name)} is named as {labelled} but is {found}. "
            "Rename it to the extension of its format, or save it again in the other."
        )
    return found


def _upright_grey(source: Source, reader: BoundedReader, format_name: str, most_pixels: int) -> Image.Image:
    size = size_of(cast(BinaryIO, reader), format_name)
    if size is not None:
        _require_size(size, most_pixels, source)
        if format_name == "WEBP":
            # Its reader takes in the whole file when it is opened.
            _allow_pixels(reader, size)
    reader.seek(0)
    with _READERS[format_name](cast(BinaryIO, reader)) as image:
        actual = Size(*image.size)
        _require_size(actual, most_pixels, source)
        _allow_pixels(reader, actual)
        if format_name == "JPEG":
            image.draft("L", image.size)
        image.load()
        return _upright(_grey(image), image.info.get("exif"))


def _allow_pixels(reader: BoundedReader, size: Size) -> None:
    reader.allow(BYTES_PER_PIXEL * size.width * size.height)


def _require_size(size: Size, most_pixels: int, source: Source) -> None:
    if size.width < 1 or size.height < 1:
        raise EmptyImage(
            f"The image {shown(source.name)} has no pixels: its header says {size.width}x{size.height}. Save it again."
        )
    if size.width * size.height > most_pixels:
        raise TooManyPixels(
            f"The image {shown(source.name)} has {size.width}x{size.height} pixels, more than the limit of "
            f"{most_pixels / 1_000_000:g} megapixels. Scale it down, or raise MAX_MEGAPIXELS."
        )


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # convert() alone would cut the values off at 255.
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if not image.has_transparency_data:
        return image.convert("L")
    layered = image.convert("RGBA")
    flat = Image.new("L", image.size, 255)
    flat.paste(layered.convert("L"), mask=layered.getchannel("A"))
    return flat


def _upright(grey: Image.Image, exif: object) -> Image.Image:
    transposition = _TRANSPOSITIONS.get(orientation_of(exif)) if isinstance(exif, bytes) else None
    upright = grey if transposition is None else grey.transpose(transposition)
    # Pillow's writers would carry profiles and comments over from here.
    upright.info = {}
    return upright


def _refusal(error: Exception, source: Source) -> ImageError:
    path = shown(source.name)
    if isinstance(error, Image.DecompressionBombError):
        return TooManyPixels(f"The image {path} has more pixels than Pillow decodes: {error}. Scale it down.")
    if isinstance(error, ValueError) and "MAX_TEXT" in str(error):
        return TooMuchMetadata(
            f"The image {path} has a profile or texts that grow too large when unpacked. Remove its metadata."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return UnreadableImage(f"The image {path} cannot be read: {error.strerror}. Check the storage it is on.")
    return DamagedImage(f"The image {path} is cut short or damaged: {error}. Save or copy it again.")
