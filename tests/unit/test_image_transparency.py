"""Fully transparent pixels come out white in every mode and format; an alpha channel that is not used hides nothing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from bw_tasks.errors import ImageError
from tests.support.studio import Studio, chunk, encoded

SIDE = 16
BLACK, WHITE = 0, 255


def png(depth: int, colour: int, rows: list[bytes], *chunks: bytes, interlaced: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, interlaced))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def halves(left: bytes, right: bytes) -> list[bytes]:
    return [left * (SIDE // 2) + right * (SIDE // 2)] * SIDE


def trns(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def bmp(alphas: list[int], compression: int = 0, header: int = 40) -> bytes:
    """A black 32-bit BMP with these values in the fourth byte of a row."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) if header > 40 else b""
    pixels = b"".join(bytes([0, 0, 0, alpha]) for alpha in alphas) * SIDE
    info = struct.pack("<IiiHHIIiiII", header, SIDE, SIDE, 1, 32, compression, len(pixels), 0, 0, 0, 0) + masks
    info += bytes(header - len(info))
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(pixels), 0, 0, 14 + len(info)) + info + pixels


def half_clear(mode: str) -> Image.Image:
    picture = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (SIDE // 2, 0, SIDE, SIDE))
    return picture.convert(mode)


def gif() -> bytes:
    picture = Image.new("P", (SIDE, SIDE), 1)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    picture.paste(0, (SIDE // 2, 0, SIDE, SIDE))
    return encoded(picture, "GIF", transparency=0)


def grey_gif() -> bytes:
    picture = Image.new("L", (SIDE, SIDE), 1)
    picture.paste(0, (SIDE // 2, 0, SIDE, SIDE))
    return encoded(picture, "GIF", transparency=0)


BLACKS = chunk(b"PLTE", bytes(9))

#: The left half black and opaque, the right half black and transparent.
HALF_CLEAR: dict[str, tuple[str, Callable[[], bytes]]] = {
    "1-bit grey": (".png", lambda: png(1, 0, [b"\0\xff"] * SIDE, trns(1))),
    "2-bit grey": (".png", lambda: png(2, 0, [bytes(2) + b"\x55\x55"] * SIDE, trns(1))),
    "4-bit grey": (".png", lambda: png(4, 0, [bytes(4) + b"\x11" * 4] * SIDE, trns(1))),
    "8-bit grey": (".png", lambda: png(8, 0, halves(b"\0", b"\1"), trns(1))),
    "16-bit grey": (".png", lambda: png(16, 0, halves(b"\0\0", b"\0\1"), trns(1))),
    "16-bit grey, high byte": (".png", lambda: png(16, 0, halves(b"\0\1", b"\1\1"), trns(0x0101))),
    "8-bit RGB": (".png", lambda: png(8, 2, halves(b"\0\0\0", b"\0\0\1"), trns(0, 0, 1))),
    "16-bit RGB": (".png", lambda: png(16, 2, halves(bytes(6), b"\0\0\0\0\0\1"), trns(0, 0, 1))),
    "16-bit RGB, high byte": (".png", lambda: png(16, 2, halves(bytes(6), b"\1\2" * 3), trns(*[0x0102] * 3))),
    "palette, one entry": (".png", lambda: png(8, 3, halves(b"\0", b"\1"), BLACKS, chunk(b"tRNS", b"\xff\0"))),
    "palette, many": (".png", lambda: png(8, 3, halves(b"\0", b"\1"), BLACKS, chunk(b"tRNS", b"\xff\0\x80"))),
    "palette of 1 bit": (".png", lambda: png(1, 3, [b"\0\xff"] * SIDE, BLACKS, chunk(b"tRNS", b"\xff\0"))),
    "8-bit grey, alpha": (".png", lambda: png(8, 4, halves(b"\0\xff", b"\0\0"))),
    "16-bit grey, alpha": (".png", lambda: png(16, 4, halves(b"\0\0\xff\xff", bytes(4)))),
    "8-bit RGBA": (".png", lambda: png(8, 6, halves(b"\0\0\0\xff", bytes(4)))),
    "16-bit RGBA": (".png", lambda: png(16, 6, halves(bytes(6) + b"\xff\xff", bytes(8)))),
    "GIF": (".gif", gif),
    "grey GIF": (".gif", grey_gif),
    "lossless WEBP": (".webp", lambda: encoded(half_clear("RGBA"), "WEBP", lossless=True, exact=True)),
    "lossy WEBP": (".webp", lambda: encoded(half_clear("RGBA"), "WEBP", quality=90)),
    "animated WEBP": (
        ".webp",
        lambda: encoded(
            half_clear("RGBA"), "WEBP", save_all=True, lossless=True, append_images=[Image.new("RGBA", (SIDE, SIDE))]
        ),
    ),
    "32-bit BMP": (".bmp", lambda: bmp([255] * 8 + [0] * 8)),
    "32-bit BMP, bit fields": (".bmp", lambda: bmp([255] * 8 + [0] * 8, 3, 124)),
    "RGBA TIFF": (".tif", lambda: encoded(half_clear("RGBA"), "TIFF")),
    "LA TIFF": (".tif", lambda: encoded(half_clear("LA"), "TIFF")),
    "AVIF": (".avif", lambda: encoded(half_clear("RGBA"), "AVIF", quality=95)),
}


@pytest.mark.parametrize("kind", HALF_CLEAR)
def test_transparent_half_is_white_and_the_other_stays_black(studio: Studio, kind: str) -> None:
    extension, make = HALF_CLEAR[kind]
    uri = studio.put(f"a{extension}", make())
    with Image.open(studio.convert(uri, extra_formats=["tiff", "avif"])) as image:
        result = image.convert("L")
    # The output of AVIF is lossy.
    assert [round(grey / WHITE) * WHITE for grey in result.tobytes()] == ([BLACK] * 8 + [WHITE] * 8) * SIDE


@pytest.mark.parametrize("value", [0x0200, 0x0001, 0x0101])
@pytest.mark.parametrize("colour", [0, 2])
def test_sixteen_bit_colour_that_only_resembles_the_transparent_one_is_opaque(
    studio: Studio, colour: int, value: int
) -> None:
    bands = 1 if colour == 0 else 3
    rows = halves(*[struct.pack(">H", value) * bands] * 2)
    result = studio.result("a.png", png(16, colour, rows, trns(*[0x0201] * bands))).convert("L")
    assert result.getextrema() == (BLACK, BLACK)


@pytest.mark.parametrize(("compression", "header"), [(0, 40), (3, 124)])
def test_alpha_of_a_bmp_that_is_zero_everywhere_is_not_used(studio: Studio, compression: int, header: int) -> None:
    result = studio.result("a.bmp", bmp([0] * SIDE, compression, header)).convert("L")
    assert result.getextrema() == (BLACK, BLACK)


@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_picture_that_is_transparent_everywhere_is_white(studio: Studio, extension: str) -> None:
    """In these formats the channel is there because it is used, and ImageMagick has it so as well."""
    data = encoded(Image.new("RGBA", (SIDE, SIDE)), {".png": "PNG", ".webp": "WEBP"}[extension])
    assert studio.result(f"a{extension}", data).convert("L").getextrema() == (WHITE, WHITE)


@pytest.mark.parametrize("tail", [b"", b"\0"])
def test_damaged_transparency_never_passes_as_another_error(studio: Studio, tail: bytes) -> None:
    uri = studio.put("a.png", png(8, 2, halves(bytes(3), bytes(3)), chunk(b"tRNS", tail)))
    with pytest.raises(ImageError):
        studio.convert(uri)
