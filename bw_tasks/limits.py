"""What the service takes: how much of it, and in which formats. The environment is read at each call."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from PIL import features

from .errors import InvalidFormats, InvalidLimit, shown

__all__ = ["EXTRA_FORMATS", "FORMATS", "Limits", "taken_formats"]

MILLION = 1_000_000

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The formats that are always taken."""

EXTRA_FORMATS = {"tiff": "TIFF", "avif": "AVIF", "heic": "HEIF"}
"""The formats that are taken where they are asked for, by the words that ask for them."""


@dataclass(frozen=True)
class Limits:
    """The most that an image may have, each with its own variable in the environment.

    Parameters:
      bytes(int): The file's length. ``MAX_MEGABYTES``, 256 by default.
      pixels(int): Width by height of the first frame. ``MAX_MEGAPIXELS``, 100 by default.
      metadata(int): Bytes of profiles, texts and all else that is not pixels, unpacked. ``MAX_METADATA_MEGABYTES``,
        16 by default.
      frames(int): Frames or pages, of which only the first is converted. ``MAX_FRAMES``, 10,000 by default.
    """

    bytes: int = 256 * MILLION
    pixels: int = 100 * MILLION
    metadata: int = 16 * MILLION
    frames: int = 10_000

    @classmethod
    def from_environment(cls, max_megapixels: float | None = None) -> Limits:
        """The limits that the environment sets.

        Parameters:
          max_megapixels(float): Taken instead of ``MAX_MEGAPIXELS``, unless it is None.

        Raises:
          InvalidLimit: When one of them is not a positive number.
        """
        return cls(
            bytes=_limit("MAX_MEGABYTES", cls.bytes, MILLION),
            pixels=_limit("MAX_MEGAPIXELS", cls.pixels, MILLION, max_megapixels),
            metadata=_limit("MAX_METADATA_MEGABYTES", cls.metadata, MILLION),
            frames=_limit("MAX_FRAMES", cls.frames, 1),
        )


def taken_formats(extra: Iterable[str] | None = None) -> list[str]:
    """The formats that are taken.

    Parameters:
      extra(Iterable[str]): Those besides :data:`FORMATS`, some of ``tiff``, ``avif`` and ``heic``, or None to ask
        ``EXTRA_FORMATS`` in the environment, where commas stand between them.

    Raises:
      InvalidFormats: When one of them is not known, or cannot be read here.
    """
    words = os.environ.get("EXTRA_FORMATS", "").split(",") if extra is None else extra
    return [*FORMATS, *(_extra(word.strip().lower()) for word in words if word.strip())]


def positive(text: str) -> float | None:
    """The number above zero that a text is, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def _limit(variable: str, default: int, unit: int, given: float | None = None) -> int:
    text = str(given) if given is not None else os.environ.get(variable, "")
    if not text:
        return default
    number = positive(text)
    if number is None:
        raise InvalidLimit(f"{variable} is {shown(text)}. Set it to a positive number such as {default // unit}.")
    return max(round(number * unit), 1)


def _extra(word: str) -> str:
    if word not in EXTRA_FORMATS:
        raise InvalidFormats(
            f"EXTRA_FORMATS names {shown(word)}. Set it to some of {', '.join(EXTRA_FORMATS)}, with commas between."
        )
    if word == "avif" and not features.check("avif"):
        raise InvalidFormats("EXTRA_FORMATS names avif, but this Pillow is built without it. Install Pillow's wheel.")
    if word == "heic" and find_spec("pillow_heif") is None:
        raise InvalidFormats("EXTRA_FORMATS names heic, which needs pillow-heif. Run pip install pillow-heif.")
    return EXTRA_FORMATS[word]
