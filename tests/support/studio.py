"""A place to convert images in, and images to convert."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from bw_tasks import images
from bw_tasks.errors import ImageError


class Studio:
    """A directory of images, one of results, and the conversion from the one to the other."""

    def __init__(self, root: Path) -> None:
        self.indir = root / "in"
        self.outdir = root / "out"
        self.indir.mkdir()
        self.outdir.mkdir()

    def put(self, name: str, content: Image.Image | bytes, **options: Any) -> str:
        path = self.indir / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path, **options)
        return path.as_uri()

    def convert(self, uri: str, image_id: str = "id", **options: Any) -> Path:
        written = images.convert_image(uri, image_id, outdir=self.outdir, indir=self.indir, **options)
        assert isinstance(written, Path)
        return written

    def result(self, name: str, content: Image.Image | bytes, **options: Any) -> Image.Image:
        with Image.open(self.convert(self.put(name, content, **options))) as image:
            image.load()
            return image

    def refused(self, name: str, content: Image.Image | bytes, error: type[ImageError]) -> ImageError:
        uri = self.put(name, content)
        with pytest.raises(error) as caught:
            self.convert(uri)
        assert type(caught.value) is error
        assert name in str(caught.value)
        assert list(self.outdir.iterdir()) == []
        return caught.value


def quadrants(width: int = 96, height: int = 64) -> Image.Image:
    """Red, white, black and white quarters: no two of its eight orientations look alike."""
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill="black")
    draw.rectangle((0, height // 2, width // 4 - 1, height - 1), fill="darkred")
    return picture


def encoded(picture: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def greys(image: Image.Image) -> set[int]:
    return {grey for grey, count in enumerate(image.convert("L").histogram()) if count}


def difference(one: Image.Image, other: Image.Image) -> float:
    """How much two pictures differ as the eye sees them from afar: 0 for not at all, 255 for black against white."""
    small = [picture.convert("L").resize((24, 24), Image.Resampling.BOX) for picture in (one, other)]
    return ImageStat.Stat(ImageChops.difference(*small)).mean[0]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    """A good PNG with these chunks after its header."""
    content = encoded(quadrants(), "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


def jpeg_with(*segments: bytes) -> bytes:
    """A good JPEG with these application segments in front."""
    content = encoded(quadrants(), "JPEG")
    framed = (b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment for segment in segments)
    return content[:2] + b"".join(framed) + content[2:]


def exif_of(orientation: int, order: str = ">") -> bytes:
    mark = b"MM" if order == ">" else b"II"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(order + "HIH", 42, 8, 1) + entry + b"\0\0\0\0"


def picture(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    red = Image.radial_gradient("L").resize((size, size))
    Image.merge("RGB", (red, red.rotate(90), red.rotate(180))).save(buffer, "PNG")
    return buffer.getvalue()


def noise(size: int = 1500) -> bytes:
    """A picture of several megabytes, whose black and white version is large as well."""
    buffer = io.BytesIO()
    Image.frombytes("L", (size, size), os.urandom(size * size)).save(buffer, "BMP")
    return buffer.getvalue()
