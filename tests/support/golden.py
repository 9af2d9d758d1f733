"""The golden set: pictures of every format, mode, depth, orientation and transparency, made from one formula."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image

from .studio import chunk, encoded

__all__ = ["EXTENSIONS", "LOSSLESS", "golden_pictures"]

WIDTH, HEIGHT = 96, 64
ORIENTATION = 0x0112
EXTENSIONS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
}
LOSSLESS = ("PNG", "GIF", "BMP")

Make = Callable[[], bytes]


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A gradient with a dark and a light corner: no two of its eight orientations look alike."""

    def colour(x: int, y: int) -> tuple[int, int, int]:
        if x < width // 3 and y < height // 3:
            return 10, 20, 30
        if x >= width - width // 4 and y < height // 4:
            return 250, 240, 245
        return 40 + 180 * x // width, 60 + 150 * y // height, 200 - 150 * (x + y) // (width + height)

    picture = Image.new("RGB", (width, height))
    picture.putdata([colour(x, y) for y in range(height) for x in range(width)])
    return picture


def grey() -> Image.Image:
    return scene().convert("L")


def layered() -> Image.Image:
    """The scene, its lower right quarter transparent, a strip below half so."""
    alpha = Image.new("L", (WIDTH, HEIGHT), 255)
    alpha.paste(0, (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
    alpha.paste(128, (0, HEIGHT - 8, WIDTH // 2, HEIGHT))
    picture = scene().convert("RGBA")
    picture.putalpha(alpha)
    return picture


def png(depth: int, colour: int, samples: list[int], *chunks: bytes) -> bytes:
    """A PNG of samples, each of so many bits, as Pillow cannot write them."""
    length = len(samples) // HEIGHT
    rows = [samples[start : start + length] for start in range(0, len(samples), length)]
    packed = b"".join(b"\0" + _packed(row, depth) for row in rows)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", zlib.compress(packed))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def _packed(row: list[int], depth: int) -> bytes:
    bits = 0
    for sample in row:
        bits = bits << depth | sample
    return bits.to_bytes(len(row) * depth // 8, "big")


def scaled(picture: Image.Image, depth: int) -> list[int]:
    most = (1 << depth) - 1
    return [round(value * most / 255) for value in picture.tobytes()]


def grey_png(depth: int, *, clear: bool = False) -> bytes:
    """Grey; with ``clear``, the dark corner's value is transparent."""
    samples = scaled(grey(), depth)
    dark = samples[0]
    return png(depth, 0, samples, *([chunk(b"tRNS", struct.pack(">H", dark))] if clear else []))


def rgb_png(depth: int, *, clear: bool = False) -> bytes:
    samples = scaled(scene(), depth)
    return png(depth, 2, samples, *([chunk(b"tRNS", struct.pack(">HHH", *samples[:3]))] if clear else []))


def palette_png(depth: int, alphas: bytes = b"") -> bytes:
    picture = scene().quantize(1 << depth, dither=Image.Dither.NONE)
    palette = bytes(picture.getpalette() or [])[: 3 << depth]
    chunks = [chunk(b"PLTE", palette)] + ([chunk(b"tRNS", alphas)] if alphas else [])
    return png(depth, 3, list(picture.tobytes()), *chunks)


def alpha_png(depth: int, mode: str) -> bytes:
    return png(depth, {"LA": 4, "RGBA": 6}[mode], scaled(layered().convert(mode), depth))


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    return block.tobytes()


def xmp(orientation: int) -> bytes:
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def bmp_32(alpha: Image.Image) -> bytes:
    """A BMP of 32 bits that says nothing of its fourth byte."""
    red, green, blue = scene().split()
    pixels = Image.merge("RGBA", (blue, green, red, alpha)).transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 32, 0, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def gif(*, transparency: int | None = None, frames: int = 1, interlace: bool = True) -> bytes:
    picture = scene().quantize(64, dither=Image.Dither.NONE)
    options: dict[str, Any] = {"interlace": interlace}
    if transparency is not None:
        options["transparency"] = picture.getpixel((0, 0))
    others = [Image.new("RGB", picture.size, (number, 0, 0)) for number in range(1, frames)]
    return encoded(picture, "GIF", save_all=frames > 1, append_images=others, **options)


def animated(format_name: str, **options: Any) -> bytes:
    others = [Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)) for number in range(1, 4)]
    return encoded(scene(), format_name, save_all=True, append_images=others, **options)


def deep_tiff() -> bytes:
    picture = Image.frombytes("I;16", (WIDTH, HEIGHT), struct.pack(f"<{WIDTH * HEIGHT}H", *scaled(grey(), 16)))
    return encoded(picture, "TIFF")


def golden_pictures() -> dict[str, tuple[str, Make]]:
    """All of them: their format and what makes their content, by name."""
    made: dict[str, tuple[str, Make]] = {}

    def add(format_name: str, name: str, make: Make) -> None:
        made[f"{format_name} {name}"] = (format_name, make)

    def save(format_name: str, name: str, picture: Callable[[], Image.Image], **options: Any) -> None:
        add(format_name, name, lambda: encoded(picture(), format_name, **options))

    _add_pngs(add, save)
    _add_jpegs(save)
    _add_others(add, save)
    for width, height in ((1, 1), (1, 7), (7, 1), (3, 5), (17, 13)):
        for format_name in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
            save(
                format_name,
                f"{width}x{height}",
                partial(scene, width, height),
                **({"lossless": True} if format_name == "WEBP" else {}),
            )
    return made


def _add_pngs(add: Callable[[str, str, Make], None], save: Callable[..., None]) -> None:
    for clear in (False, True):
        note = ", one colour transparent" if clear else ""
        for depth in (1, 2, 4, 8, 16):
            add("PNG", f"grey {depth} bit{note}", partial(grey_png, depth, clear=clear))
        for depth in (8, 16):
            add("PNG", f"RGB {depth} bit{note}", partial(rgb_png, depth, clear=clear))
    for depth in (1, 2, 4, 8):
        for note, alphas in (("", b""), (", one entry transparent", b"\0"), (", entries of alpha", b"\x80\0")):
            add("PNG", f"palette {depth} bit{note}", partial(palette_png, depth, alphas))
    for mode in ("LA", "RGBA"):
        for depth in (8, 16):
            add("PNG", f"{mode} {depth} bit", partial(alpha_png, depth, mode))
    for orientation in (3, 6, 8):
        save("PNG", f"EXIF orientation {orientation}", scene, exif=exif(orientation))
    add("PNG", "animated", lambda: animated("PNG"))


def _add_jpegs(save: Callable[..., None]) -> None:
    for name, options in (
        ("4:4:4", {"subsampling": 0}),
        ("4:2:0", {"subsampling": 2}),
        ("progressive", {"progressive": True}),
        ("of low quality", {"quality": 30}),
    ):
        save("JPEG", name, scene, **options)
    save("JPEG", "grey", grey)
    save("JPEG", "CMYK", lambda: scene().convert("CMYK"))
    for orientation in range(1, 9):
        save("JPEG", f"EXIF orientation {orientation}", scene, exif=exif(orientation))


def _add_others(add: Callable[[str, str, Make], None], save: Callable[..., None]) -> None:
    add("GIF", "interlaced", gif)
    add("GIF", "not interlaced", lambda: gif(interlace=False))
    add("GIF", "one colour transparent", lambda: gif(transparency=0))
    add("GIF", "animated", lambda: gif(frames=4))
    save("GIF", "grey", grey)
    save("BMP", "1 bit", lambda: scene().convert("1"))
    save("BMP", "grey", grey)
    save("BMP", "palette", lambda: scene().quantize(32, dither=Image.Dither.NONE))
    save("BMP", "24 bit", scene)
    add("BMP", "32 bit, alpha used", lambda: bmp_32(layered().getchannel("A")))
    add("BMP", "32 bit, alpha zero", lambda: bmp_32(Image.new("L", (WIDTH, HEIGHT))))
    save("WEBP", "lossy", scene)
    save("WEBP", "lossless", scene, lossless=True)
    save("WEBP", "lossy, alpha", layered)
    save("WEBP", "lossless, alpha", layered, lossless=True)
    add("WEBP", "animated", lambda: animated("WEBP", lossless=True))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        save("TIFF", compression, scene, compression=compression)
    save("TIFF", "group4", lambda: scene().convert("1"), compression="group4")
    save("TIFF", "RGBA", layered)
    save("TIFF", "CMYK", lambda: scene().convert("CMYK"))
    save("TIFF", "orientation 6", scene, tiffinfo={ORIENTATION: 6})
    add("TIFF", "16 bit", deep_tiff)
    add("TIFF", "of many pages", lambda: animated("TIFF"))
    save("AVIF", "RGB", scene, quality=90)
    save("AVIF", "RGBA", layered, quality=90)


def upright_grey(content: bytes) -> Image.Image:
    """What the service decodes of a picture, before it is dithered."""
    from bw_tasks.decoding import decode
    from bw_tasks.headers import EXTENSIONS as known
    from bw_tasks.limits import Limits

    class Held(io.BytesIO):
        name, extension, length = "picture", "", len(content)

    decoded, _ = decode(Held(content), Limits(), sorted(set(known.values())))
    return decoded
