"""Whatever Pillow's own ImageOps.exif_transpose turns is turned, wherever the orientation is written."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image, ImageOps

from bw_tasks.tones import black_and_white
from tests.support.studio import Studio, chunk, difference, encoded, jpeg_with, png_with, quadrants

ORIENTATION, SHORT, LONG = 0x0112, 3, 4


def exif(orientation: int, kind: int = SHORT, order: str = ">") -> bytes:
    value = struct.pack(
        order + ("HH" if kind == SHORT else "I"), *((orientation, 0) if kind == SHORT else (orientation,))
    )
    entry = struct.pack(order + "HHI", ORIENTATION, kind, 1) + value
    return (b"MM" if order == ">" else b"II") + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


def attribute(orientation: int) -> bytes:
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def element(orientation: int) -> bytes:
    return b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>" % orientation


def jpeg_xmp(packet: bytes) -> bytes:
    return jpeg_with(b"http://ns.adobe.com/xap/1.0/\0" + packet)


def png_xmp(packet: bytes, packed: bool = False) -> bytes:
    text = zlib.compress(packet) if packed else packet
    return png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"\0\0" + text))


def raw_profile(orientation: int, kind: bytes) -> bytes:
    block = b"Exif\0\0" + exif(orientation)
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    packed = b"\0" + zlib.compress(text) if kind == b"zTXt" else text
    return png_with(chunk(kind, b"Raw profile type exif\0" + packed))


def late(orientation: int) -> bytes:
    """A PNG whose EXIF block stands behind the pixels."""
    content = encoded(quadrants(), "PNG")
    return content[:-12] + chunk(b"eXIf", exif(orientation)) + content[-12:]


PLACES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "EXIF in JPEG": (".jpg", lambda turn: jpeg_with(b"Exif\0\0" + exif(turn))),
    "EXIF in JPEG, LONG": (".jpg", lambda turn: jpeg_with(b"Exif\0\0" + exif(turn, LONG))),
    "EXIF in JPEG, LONG, little-endian": (".jpg", lambda turn: jpeg_with(b"Exif\0\0" + exif(turn, LONG, "<"))),
    "XMP attribute in JPEG": (".jpg", lambda turn: jpeg_xmp(attribute(turn))),
    "XMP element in JPEG": (".jpg", lambda turn: jpeg_xmp(element(turn))),
    "EXIF in PNG": (".png", lambda turn: png_with(chunk(b"eXIf", exif(turn)))),
    "EXIF in PNG, LONG": (".png", lambda turn: png_with(chunk(b"eXIf", exif(turn, LONG)))),
    "EXIF in PNG, behind the pixels": (".png", late),
    "XMP attribute in PNG": (".png", lambda turn: png_xmp(attribute(turn))),
    "XMP element in PNG": (".png", lambda turn: png_xmp(element(turn))),
    "XMP attribute in PNG, compressed": (".png", lambda turn: png_xmp(attribute(turn), packed=True)),
    "XMP in PNG beside 2 MB of it": (".png", lambda turn: png_xmp(attribute(turn) + bytes(2_000_000), packed=True)),
    "raw profile in PNG": (".png", lambda turn: raw_profile(turn, b"tEXt")),
    "raw profile in PNG, compressed": (".png", lambda turn: raw_profile(turn, b"zTXt")),
    "EXIF in WEBP": (".webp", lambda turn: encoded(quadrants(), "WEBP", lossless=True, exif=exif(turn))),
    "EXIF in WEBP, LONG": (".webp", lambda turn: encoded(quadrants(), "WEBP", lossless=True, exif=exif(turn, LONG))),
    "XMP attribute in WEBP": (".webp", lambda turn: encoded(quadrants(), "WEBP", lossless=True, xmp=attribute(turn))),
    "XMP element in WEBP": (".webp", lambda turn: encoded(quadrants(), "WEBP", lossless=True, xmp=element(turn))),
    "tag in TIFF": (".tif", lambda turn: encoded(quadrants(), "TIFF", tiffinfo={ORIENTATION: turn})),
    "tag in TIFF, compressed": (
        ".tif",
        lambda turn: encoded(quadrants(), "TIFF", tiffinfo={ORIENTATION: turn}, compression="tiff_lzw"),
    ),
    "EXIF in AVIF": (".avif", lambda turn: encoded(quadrants(), "AVIF", quality=95, exif=exif(turn))),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", PLACES)
def test_every_orientation_is_turned_wherever_it_is_written(studio: Studio, place: str, orientation: int) -> None:
    extension, make = PLACES[place]
    data = make(orientation)
    uri = studio.put(f"a{extension}", data)
    with Image.open(io.BytesIO(encoded(quadrants(), "JPEG", exif=b"Exif\0\0" + exif(orientation)))) as source:
        expected = ImageOps.exif_transpose(source).convert("L")
    with Image.open(studio.convert(uri, extra_formats=["tiff", "avif"])) as result:
        assert result.size == expected.size
        assert difference(result, black_and_white(expected)) < 4
        assert ORIENTATION not in result.getexif()


@pytest.mark.parametrize("text", [b"\nexif\n   8\nnonsense\n", b"", b"\n\n\n0"])
def test_damaged_raw_profile_means_upright(studio: Studio, text: bytes) -> None:
    result = studio.result("a.png", png_with(chunk(b"tEXt", b"Raw profile type exif\0" + text)))
    assert difference(result, black_and_white(quadrants().convert("L"))) < 4


def test_metadata_with_a_wrong_checksum_does_not_stop_the_conversion(studio: Studio) -> None:
    broken = chunk(b"eXIf", exif(6))[:-4] + bytes(4) + chunk(b"tEXt", b"a\0b")[:-4] + bytes(4)
    assert studio.result("a.png", png_with(broken)).size == (64, 96)
