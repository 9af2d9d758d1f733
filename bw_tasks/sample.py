"""A colour picture for the demo, drawn so that the package need not carry one. Every run draws the same."""

from __future__ import annotations

import math
import os
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

__all__ = ["draw_sample", "save_sample"]

WIDTH, HEIGHT = 1280, 960
HORIZON = 600
SUN = (940, 250, 80)

RGB = tuple[int, int, int]

SKY_TOP: RGB = (44, 96, 184)
SKY_BOTTOM: RGB = (252, 206, 140)
SUN_COLOUR: RGB = (255, 244, 190)

# Colour, height above the picture's foot, swing, wavelength and phase of each range of hills, the farthest first.
HILLS: tuple[tuple[RGB, int, int, int, float], ...] = (
    ((150, 160, 190), 400, 55, 310, 0.4),
    ((96, 136, 118), 310, 65, 420, 2.1),
    ((150, 176, 84), 205, 50, 560, 4.0),
    ((186, 196, 104), 105, 35, 380, 5.3),
)


def save_sample(path: str | os.PathLike[str]) -> Path:
    """Draw the sample and save it, in the format of the path's extension.

    Returns:
      Path: The path.
    """
    draw_sample().save(path, quality=92)
    return Path(path)


def draw_sample() -> Image.Image:
    """Hills under an evening sun, with a signpost: soft gradients, hard edges and small print, in colour."""
    picture = _sky()
    _add_sun(picture)
    draw = ImageDraw.Draw(picture)
    for hills in HILLS:
        _add_hills(draw, *hills)
    _add_trees(draw)
    _add_signpost(draw)
    return picture


def _sky() -> Image.Image:
    """From the one colour at the top to the other at the horizon."""
    depth = Image.linear_gradient("L").resize((WIDTH, HORIZON))
    sky = Image.new("RGB", (WIDTH, HEIGHT), SKY_BOTTOM)
    top = Image.new("RGB", (WIDTH, HORIZON), SKY_TOP)
    sky.paste(Image.composite(sky.crop((0, 0, WIDTH, HORIZON)), top, depth))
    return sky


def _add_sun(picture: Image.Image) -> None:
    x, y, radius = SUN
    disc = Image.new("L", picture.size)
    ImageDraw.Draw(disc).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    halo = disc.filter(ImageFilter.BoxBlur(60)).filter(ImageFilter.BoxBlur(60))
    picture.paste(SUN_COLOUR, mask=ImageChops.lighter(disc, halo))


def _add_hills(draw: ImageDraw.ImageDraw, colour: RGB, height: int, swing: int, wave: int, phase: float) -> None:
    ridge = [(x, HEIGHT - height - _ridge(x, swing, wave, phase)) for x in range(0, WIDTH + 4, 4)]
    draw.polygon([(0, HEIGHT), *ridge, (WIDTH, HEIGHT)], fill=colour)


def _ridge(x: int, swing: int, wave: int, phase: float) -> float:
    turn = 2 * math.pi * x / wave + phase
    return swing * (0.7 * math.sin(turn) + 0.3 * math.sin(2.3 * turn))


def _add_trees(draw: ImageDraw.ImageDraw) -> None:
    for number in range(24):
        x, foot = 20 + number * 53, 880 + (number * 37) % 60
        height = 70 + (number * 29) % 50
        draw.rectangle((x - 3, foot - 10, x + 3, foot + 8), fill=(70, 44, 24))
        draw.polygon([(x - height // 4, foot - 8), (x, foot - height), (x + height // 4, foot - 8)], fill=(24, 70, 36))


def _add_signpost(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((230, 640, 246, 930), fill=(92, 60, 34))
    draw.rectangle((90, 560, 470, 690), fill=(244, 232, 204), outline=(92, 60, 34), width=6)
    draw.text((112, 578), "IMAGES.blackandwhite", fill=(150, 30, 30), font=ImageFont.load_default(32))
    draw.text((112, 630), "one message in, one picture out", fill=(30, 50, 110), font=ImageFont.load_default(22))
