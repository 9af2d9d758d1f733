"""Files that end early: without their end mark, or with at most one pixel in twenty missing, they are converted."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from bw_tasks.errors import DamagedImage
from bw_tasks.sample import draw_sample
from tests.support.studio import Studio, difference, encoded, quadrants

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": (".jpg", {}),
    "progressive JPEG": (".jpg", {"progressive": True}),
    "grey JPEG": (".jpg", {}),
    "CMYK JPEG": (".jpg", {}),
    "PNG": (".png", {}),
    "GIF": (".gif", {}),
    "BMP": (".bmp", {}),
}
END_MARKS = {"JPEG": 2, "PNG": 12, "GIF": 1}
BYTES_IN_A_ROW = 320 * 3


def picture(kind: str) -> Image.Image:
    sample = draw_sample().resize((320, 240))
    return sample.convert({"grey JPEG": "L", "CMYK JPEG": "CMYK"}.get(kind, "RGB"))


def content(kind: str) -> bytes:
    format_name = kind.rpartition(" ")[2]
    return encoded(picture(kind), format_name, **FORMATS[kind][1])


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "BMP"])
@pytest.mark.parametrize("padding", [b"", bytes(1), bytes(4096)])
def test_missing_end_mark_changes_nothing(studio: Studio, kind: str, padding: bytes) -> None:
    if padding and kind in ("PNG", "progressive JPEG"):
        padding = padding[:1]
    data, extension = content(kind), FORMATS[kind][0]
    cut = data[: -END_MARKS[kind.rpartition(" ")[2]]]
    whole = studio.convert(studio.put(f"whole{extension}", data), "whole").read_bytes()
    assert studio.convert(studio.put(f"cut{extension}", cut + padding), "cut").read_bytes() == whole


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("missing", [1, 40, 700])
def test_image_cut_in_its_last_rows_is_converted(studio: Studio, kind: str, missing: int) -> None:
    data, extension = content(kind), FORMATS[kind][0]
    if kind != "BMP":
        missing = min(missing, len(data) // 60)
    whole = studio.result(f"whole{extension}", data)
    assert difference(studio.result(f"cut{extension}", data[:-missing]), whole) < 10


@pytest.mark.parametrize(
    ("extension", "format_name", "near", "gone"), [(".bmp", "BMP", 10, 0), (".png", "PNG", 228, 239)]
)
def test_rows_that_are_missing_repeat_the_nearest(
    studio: Studio, extension: str, format_name: str, near: int, gone: int
) -> None:
    stripes = Image.new("L", (320, 240), 0)
    stripes.paste(255, (0, 0, 160, 240))
    options = {"compress_level": 0} if format_name == "PNG" else {}
    data = encoded(stripes.convert("RGB"), format_name, **options)
    result = studio.result(f"a{extension}", data[: -10 * BYTES_IN_A_ROW]).convert("L")
    for column in (40, 280):
        assert result.getpixel((column, gone)) == result.getpixel((column, near))


def test_bmp_of_which_more_than_a_twentieth_is_missing_is_refused(studio: Studio) -> None:
    data = content("BMP")
    assert studio.result("a.bmp", data[: -12 * BYTES_IN_A_ROW]).size == (320, 240)
    with pytest.raises(DamagedImage, match="5% of its pixels are missing"):
        studio.convert(studio.put("b.bmp", data[: -13 * BYTES_IN_A_ROW]))


@pytest.mark.parametrize("kind", FORMATS)
def test_half_an_image_is_refused(studio: Studio, kind: str) -> None:
    if kind == "progressive JPEG":
        # Its first scan holds the whole picture, coarsely; it is cut in that.
        data = content(kind)
        studio.refused("a.jpg", data[: data.index(b"\xff\xda") + 200], DamagedImage)
    else:
        data = content(kind)
        studio.refused(f"a{FORMATS[kind][0]}", data[: len(data) // 2], DamagedImage)


def test_transparent_gif_that_is_cut_is_judged_by_its_rows(studio: Studio) -> None:
    image = picture("GIF").quantize(16)
    data = encoded(image, "GIF", transparency=20)
    assert studio.result("a.gif", data[:-3]).size == image.size
    with pytest.raises(DamagedImage, match="pixels are missing"):
        studio.convert(studio.put("b.gif", data[: len(data) // 2]))


def test_grey_picture_without_its_end_mark_is_not_taken_for_one_without_rows(studio: Studio) -> None:
    data = encoded(Image.new("L", (64, 400), 128), "JPEG")
    assert studio.result("a.jpg", data[:-2]).size == (64, 400)


def test_bmp_with_alpha_that_is_cut_is_converted(studio: Studio) -> None:
    data = encoded(picture("BMP").convert("RGBA"), "BMP")
    assert studio.result("a.bmp", data[: -320 * 4 * 5]).size == (320, 240)


@pytest.mark.parametrize("format_name", ["WEBP", "AVIF"])
def test_format_that_is_not_decoded_row_by_row_must_be_whole(studio: Studio, format_name: str) -> None:
    """ImageMagick refuses them as well."""
    data = encoded(picture(format_name), format_name)
    extension = f".{format_name.lower()}"
    with pytest.raises(DamagedImage, match="cut short"):
        studio.convert(studio.put(f"a{extension}", data[:-40]), extra_formats=["avif"])


@pytest.mark.parametrize("format_name", ["WEBP", "PNG", "GIF"])
def test_animation_cut_after_its_first_frame_is_converted(studio: Studio, format_name: str) -> None:
    frames = [quadrants(), *(Image.new("RGB", (96, 64), (number, 0, 0)) for number in range(50))]
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
    result = studio.result(f"a.{format_name.lower()}", data[: len(data) * 3 // 4])
    assert difference(result, studio.result(f"b.{format_name.lower()}", data)) == 0


def test_lost_metadata_at_the_end_of_a_webp_is_not_missed(studio: Studio) -> None:
    data = encoded(quadrants(), "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(500))
    assert studio.result("a.webp", data[:-100]).size == (96, 64)
