"""From grey to black and white: the contrast ImageMagick's ``-monochrome`` gives, then a dither."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image

__all__ = ["black_and_white", "tone_curve"]

CLIPPED_DARK = 0.0015
CLIPPED_LIGHT = 0.0005
"""The shares of the pixels that ``-monochrome`` lets go black and white before it looks at the rest."""


def black_and_white(grey: Image.Image) -> Image.Image:
    """Dither a grey image (mode L) to pure black and white (mode 1), by Floyd and Steinberg's method."""
    return grey.point(tone_curve(grey.histogram())).convert("1")


def tone_curve(histogram: Sequence[int]) -> list[int]:
    """The grey that stands for each grey before dithering, 256 of them.

    ``-monochrome`` stretches the contrast to the full range and then reduces the image to two greys, the mean of
    its dark half and that of its light half, which it draws as black and white. Dithering between these two is
    dithering between black and white after a stretch from the one mean to the other.

    Parameters:
      histogram(Sequence[int]): How many pixels have each of the 256 greys.
    """
    darkest, lightest = _range(histogram)
    if darkest >= lightest:
        return [255 if grey > darkest or grey == darkest >= 128 else 0 for grey in range(256)]
    middle = (darkest + lightest) / 2
    clipped = [_clamp(grey, darkest, lightest) for grey in range(256)]
    black = _mean((grey, count) for grey, count in zip(clipped, histogram, strict=True) if grey < middle)
    white = _mean((grey, count) for grey, count in zip(clipped, histogram, strict=True) if grey >= middle)
    return [_clamp(round((grey - black) * 255 / (white - black)), 0, 255) for grey in range(256)]


def _range(histogram: Sequence[int]) -> tuple[int, int]:
    total = sum(histogram)
    return (
        _first_beyond(histogram, range(256), total * CLIPPED_DARK),
        _first_beyond(histogram, range(255, -1, -1), total * CLIPPED_LIGHT),
    )


def _first_beyond(histogram: Sequence[int], greys: range, share: float) -> int:
    passed = 0
    for grey in greys:
        passed += histogram[grey]
        if passed > share:
            return grey
    return greys[-1]


def _mean(counted: Iterable[tuple[int, int]]) -> float:
    pairs = list(counted)
    return sum(grey * count for grey, count in pairs) / sum(count for _, count in pairs)


def _clamp(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)
