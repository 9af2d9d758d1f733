"""From any of Pillow's modes to grey (mode L), with white where the image is transparent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageMath
from PIL.ImageFile import ImageFile

__all__ = ["grey_on_white", "grey_range"]

WHITE = 255

Decode = Callable[[str], Image.Image]
"""Decodes the image once more, its bytes unpacked by another of Pillow's raw modes."""


def grey_on_white(image: ImageFile, raw_mode: str, decode: Decode) -> Image.Image:
    """The image in grey, transparent parts on white.

    Parameters:
      image(ImageFile): The image, decoded.
      raw_mode(str): The raw mode that its bytes were unpacked by, or nothing.
      decode(Decode): Decodes the same image by another raw mode. Pillow drops bytes in some modes that decide what is
        transparent: the low ones of 16-bit RGB, the fourth of a 32-bit BMP.
    """
    if image.format == "BMP":
        return _bmp_on_white(image, raw_mode, decode)
    if image.mode.startswith("I;16"):
        return _deep_on_white(image)
    if image.mode in ("I", "F"):
        return grey_range(image)
    if image.mode == "LAB":
        return image.getchannel("L")
    transparent = image.info.get("transparency")
    if transparent is None or image.mode not in ("1", "L", "RGB"):
        return _layered_on_white(image)
    # Pillow's own conversion compares grey of 2 and 4 bits and RGB of 16 to values that are not scaled as they are.
    if image.mode == "RGB":
        hidden = _rgb_equal(image, raw_mode, decode, transparent)
    else:
        step = {"L;2": 85, "L;4": 17}.get(raw_mode, 1)
        hidden = _equal(image.convert("L"), step * transparent & 0xFF)
    return _whitened(image.convert("L"), hidden)


def grey_range(image: Image.Image) -> Image.Image:
    """An image of wide numbers (mode I or F) in grey, from its least number to its greatest."""
    least, greatest = image.getextrema()
    if least == greatest:
        return Image.new("L", image.size, WHITE if greatest else 0)
    scale = WHITE / (greatest - least)  # type: ignore[operator]  # one band, two numbers
    scaled: Image.Image = ImageMath.lambda_eval(lambda of: of["float"]((of["image"] - least) * scale), image=image)
    return scaled.convert("L")


def _layered_on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("L")
    layered = image.convert("RGBA")
    flat = Image.new("L", image.size, WHITE)
    flat.paste(layered.convert("L"), mask=layered.getchannel("A"))
    return flat


def _bmp_on_white(image: Image.Image, raw_mode: str, decode: Decode) -> Image.Image:
    alpha = None
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
    elif raw_mode == "BGRX" and image.info.get("compression") == 0:
        # Where the third byte is red, this reads the fourth.
        alpha = decode("XBGR").getchannel("R")
    grey = image.convert("RGB").convert("L") if image.mode == "RGBA" else image.convert("L")
    if alpha is None or alpha.getextrema() == (0, 0):
        # The fourth byte is not used.
        return grey
    flat = Image.new("L", image.size, WHITE)
    flat.paste(grey, mask=alpha)
    return flat


def _deep_on_white(image: Image.Image) -> Image.Image:
    # Two bytes a pixel, like grey with alpha; convert() would cut the values off at 255.
    first, second = Image.frombytes("LA", image.size, image.tobytes()).split()
    low, high = (second, first) if image.mode.endswith("B") else (first, second)
    transparent = image.info.get("transparency")
    if transparent is None:
        return high
    return _whitened(high, ImageChops.darker(_equal(low, transparent & 0xFF), _equal(high, transparent >> 8)))


def _rgb_equal(image: Image.Image, raw_mode: str, decode: Decode, colour: Sequence[int]) -> Image.Image:
    bands = list(image.split())
    values = [value & 0xFF for value in colour]
    if raw_mode == "RGB;16B":
        # Read the other way round, the low bytes come out.
        bands += decode("RGB;16L").split()
        values = [value >> 8 for value in colour] + values
    return functools.reduce(ImageChops.darker, map(_equal, bands, values))


def _equal(band: Image.Image, value: int) -> Image.Image:
    """White where the band has this value, black elsewhere."""
    return band.point([WHITE if grey == value else 0 for grey in range(256)])


def _whitened(grey: Image.Image, hidden: Image.Image) -> Image.Image:
    grey.paste(WHITE, mask=hidden)
    return grey
