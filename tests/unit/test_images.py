"""The conversion: what comes out, that it comes out whole or not at all, and that bad images are refused."""

from __future__ import annotations

import io
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image, ImageFile, ImageOps

from bw_tasks import images
from bw_tasks.errors import (
    BadImageID,
    DamagedImage,
    EmptyImage,
    ImageNotFound,
    InvalidLimit,
    MislabelledImage,
    OutsideInputDirectory,
    TooManyPixels,
    TooMuchMetadata,
    UnreadableImage,
    UnsupportedFormat,
    UnwritableOutput,
)
from bw_tasks.headers import look_over
from bw_tasks.limits import Limits
from bw_tasks.sample import HEIGHT, WIDTH, draw_sample, save_sample
from bw_tasks.sources import open_source
from bw_tasks.survey import Survey
from bw_tasks.tones import black_and_white, tone_curve
from tests.support.studio import Studio, chunk, difference, encoded, exif_of, greys, jpeg_with, png_with, quadrants

FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
BLACK, WHITE = 0, 255
MEGABYTE = 1024 * 1024


def png_of_size(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


# What comes out


@pytest.mark.parametrize("extension", FORMATS)
def test_each_format_comes_out_as_itself_in_black_and_white(studio: Studio, extension: str) -> None:
    picture = draw_sample().resize((320, 240))
    result = studio.result(f"a{extension}", picture)
    assert result.format == FORMATS[extension]
    assert result.size == picture.size
    if extension != ".jpg":
        assert greys(result) == {BLACK, WHITE}


def test_jpeg_comes_out_grey_and_close_to_black_and_white(studio: Studio) -> None:
    result = studio.result("a.jpg", draw_sample().resize((320, 240)))
    assert result.mode == "L"
    between = sum(result.histogram()[64:192])
    assert between < result.width * result.height / 100


def test_png_and_bmp_come_out_with_one_bit_a_pixel(studio: Studio) -> None:
    for name, bits_at in (("a.png", 24), ("a.bmp", 28)):
        studio.result(name, quadrants())
        assert (studio.outdir / f"id{name[1:]}").read_bytes()[bits_at] == 1


def test_output_is_returned_and_named_by_id_and_extension(studio: Studio) -> None:
    uri = studio.put("color.JPG", quadrants())
    assert studio.convert(uri, "5e91425f") == studio.outdir / "5e91425f.JPG"
    assert [path.name for path in studio.outdir.iterdir()] == ["5e91425f.JPG"]


def test_file_without_extension_keeps_its_own_format(studio: Studio) -> None:
    assert studio.result("noextension", encoded(quadrants(), "PNG")).format == "PNG"


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(studio: Studio, orientation: int, extension: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quadrants(), FORMATS[extension], exif=exif)
    result = studio.result(f"a{extension}", data)
    with Image.open(io.BytesIO(data)) as source:
        expected = ImageOps.exif_transpose(source).convert("L")
    assert result.size == expected.size
    assert difference(result, black_and_white(expected)) < 4
    assert 0x0112 not in result.getexif()


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders(studio: Studio, order: str) -> None:
    for value in range(1, 9):
        data = jpeg_with(exif_of(value, order)).replace(b"JFIF\0", b"XXXX\0")
        with Image.open(io.BytesIO(data)) as source:
            expected = ImageOps.exif_transpose(source)
        assert difference(studio.result("a.jpg", data), black_and_white(expected.convert("L"))) < 4


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"nonsense", exif_of(0), exif_of(9), exif_of(6)[:-9], b"MM\0*\xff\xff\xff\xff"]
)
def test_damaged_exif_means_upright(studio: Studio, exif: bytes) -> None:
    for name, data in (("a.jpg", jpeg_with(b"Exif\0\0" + exif)), ("a.png", png_with(chunk(b"eXIf", exif)))):
        assert difference(studio.result(name, data), black_and_white(quadrants().convert("L"))) < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_of_every_kind_is_converted_alike(studio: Studio, mode: str) -> None:
    grey = quadrants().convert("L")
    picture = (
        grey.convert("I").point(lambda value: value * 257).convert("I;16") if mode == "I;16" else grey.convert(mode)
    )
    assert difference(studio.result("a.png", picture), black_and_white(grey)) < 4


def test_sixteen_bit_grey_keeps_its_tones(studio: Studio) -> None:
    ramp = Image.linear_gradient("L")
    deep = ramp.convert("I").point(lambda value: value * 257).convert("I;16")
    assert difference(studio.result("a.png", deep), black_and_white(ramp)) < 2


def test_cmyk_jpeg_is_converted(studio: Studio) -> None:
    assert (
        difference(studio.result("a.jpg", quadrants().convert("CMYK")), black_and_white(quadrants().convert("L"))) < 4
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white(studio: Studio, mode: str) -> None:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 32, 64))
    result = studio.result("a.png", picture.convert(mode)).convert("L")
    assert (result.getpixel((10, 10)), result.getpixel((50, 10))) == (BLACK, WHITE)


def test_transparent_palette_entry_becomes_white(studio: Studio) -> None:
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([0, 0, 0, 10, 10, 10])
    picture.paste(1, (0, 0, 32, 64))
    result = studio.result("a.gif", picture, transparency=0).convert("L")
    assert (result.getpixel((10, 10)), result.getpixel((50, 10))) == (BLACK, WHITE)


@pytest.mark.parametrize("extension", [".gif", ".webp", ".png"])
def test_only_the_first_of_many_frames_is_converted(studio: Studio, extension: str) -> None:
    frames = [quadrants(), *(Image.new("RGB", (96, 64), (0, 0, number)) for number in range(200))]
    data = encoded(frames[0], FORMATS[extension], save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(studio.convert(studio.put(f"a{extension}", data))) as result:
        assert getattr(result, "n_frames", 1) == 1
        assert difference(result, black_and_white(frames[0].convert("L"))) < 4


def test_metadata_is_not_carried_over(studio: Studio) -> None:
    secret = b"position of the photographer"
    for extension in (".jpg", ".png", ".webp", ".gif"):
        options = {"icc_profile": secret, "comment": secret, "xmp": secret, "exif": exif_of(1) + secret}
        uri = studio.put(f"a{extension}", encoded(quadrants(), FORMATS[extension], **options))
        assert secret not in studio.convert(uri).read_bytes()
        with Image.open(studio.outdir / f"id{extension}") as result:
            assert not {"icc_profile", "comment", "xmp", "exif"} & set(result.info)


def test_tiff_is_taken_only_where_it_is_asked_for(studio: Studio) -> None:
    studio.refused("a.tiff", encoded(quadrants(), "TIFF"), UnsupportedFormat)
    with Image.open(studio.convert((studio.indir / "a.tiff").as_uri(), extra_formats=["tiff"])) as result:
        assert (result.format, result.mode) == ("TIFF", "1")


def test_output_is_as_readable_as_any_new_file(studio: Studio) -> None:
    uri = studio.put("a.png", quadrants())
    before = os.umask(0o027)
    try:
        written = studio.convert(uri)
    finally:
        os.umask(before)
    assert stat.S_IMODE(written.stat().st_mode) == 0o640


# Tones


def test_contrast_is_stretched_between_the_means_of_the_halves() -> None:
    """Measured on ImageMagick: shares of white in the eighths of a grey ramp, whatever its contrast."""
    ramp = Image.linear_gradient("L").rotate(90)
    for picture in (ramp, ramp.point([64 + grey // 2 for grey in range(256)])):
        result = black_and_white(picture).convert("L").resize((8, 1), Image.Resampling.BOX)
        shares = sorted(eighth / 255 for eighth in result.tobytes())
        assert shares == pytest.approx([0, 0, 0.12, 0.38, 0.62, 0.88, 1, 1], abs=0.03)


@pytest.mark.parametrize(("grey", "expected"), [(0, BLACK), (50, BLACK), (127, BLACK), (128, WHITE), (255, WHITE)])
def test_flat_picture_becomes_all_black_or_all_white(grey: int, expected: int) -> None:
    assert greys(black_and_white(Image.new("L", (40, 30), grey))) == {expected}


def test_few_specks_on_flat_paper_survive() -> None:
    paper = Image.new("L", (400, 300), 240)
    paper.putpixel((200, 150), 200)
    assert black_and_white(paper).convert("L").histogram()[0] == 1


def test_black_and_white_picture_stays_as_it_is() -> None:
    picture = draw_sample().convert("1")
    assert black_and_white(picture.convert("L")).tobytes() == picture.tobytes()


def test_tone_curve_never_falls() -> None:
    curve = tone_curve(draw_sample().convert("L").histogram())
    assert curve == sorted(curve)
    assert (curve[0], curve[255]) == (BLACK, WHITE)


def test_sample_is_the_same_every_time_and_in_colour(tmp_path: Path) -> None:
    path = save_sample(tmp_path / "sample.png")
    with Image.open(path) as sample:
        assert sample.size == (WIDTH, HEIGHT)
        assert sample.tobytes() == draw_sample().tobytes()
        assert len(sample.getcolors(1 << 20) or []) > 500


# What is refused


@pytest.mark.parametrize("extension", FORMATS)
def test_mislabelled_image_is_refused(studio: Studio, extension: str) -> None:
    other = ".png" if extension != ".png" else ".jpg"
    error = studio.refused(f"a{extension}", encoded(quadrants(), FORMATS[other]), MislabelledImage)
    assert FORMATS[extension] in str(error)
    assert FORMATS[other] in str(error)


@pytest.mark.parametrize("extension", ["", ".jpg"])
@pytest.mark.parametrize("format_name", ["EPS", "PDF", "PPM", "ICO", "TGA", "SPIDER", "JPEG2000", "AVIF", "TIFF"])
def test_other_formats_are_refused_whatever_they_are_called(studio: Studio, format_name: str, extension: str) -> None:
    picture = quadrants().convert("F") if format_name == "SPIDER" else quadrants()
    studio.refused(f"a{extension}", encoded(picture, format_name), UnsupportedFormat)


@pytest.mark.parametrize(
    "magic", [b"8BPS\0\1", b"SIMPLE  =", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"%!PS-Adobe", b"<svg"]
)
def test_magic_of_dangerous_formats_is_refused(studio: Studio, magic: bytes) -> None:
    studio.refused("a.jpg", magic + bytes(2000), UnsupportedFormat)


@pytest.mark.parametrize("extension", [".eps", ".pdf", ".psd", ".svg", ".php", ".jpg.html", ".", ".jpg "])
def test_other_extensions_are_refused_whatever_the_content(studio: Studio, extension: str) -> None:
    studio.refused(f"a{extension}", encoded(quadrants(), "JPEG"), UnsupportedFormat)


@pytest.mark.parametrize("head", [b"%PDF-1.7\n", b"#!/bin/sh\n", b"<html>"])
def test_polyglot_that_begins_as_something_else_is_refused(studio: Studio, head: bytes) -> None:
    studio.refused("a.jpg", head + encoded(quadrants(), "JPEG"), UnsupportedFormat)


@pytest.mark.parametrize("extension", FORMATS)
def test_tail_of_a_polyglot_does_not_reach_the_output(studio: Studio, extension: str) -> None:
    tail = b"PK\x03\x04 <script>alert(1)</script>"
    uri = studio.put(f"a{extension}", encoded(quadrants(), FORMATS[extension]) + tail)
    assert b"script" not in studio.convert(uri).read_bytes()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("extension", FORMATS)
def test_truncated_image_is_refused(studio: Studio, extension: str, share: float) -> None:
    data = encoded(draw_sample().resize((320, 240)), FORMATS[extension])
    studio.refused(f"a{extension}", data[: max(20, int(len(data) * share))], DamagedImage)


@pytest.mark.parametrize("extension", FORMATS)
def test_bare_magic_is_refused_as_damaged(studio: Studio, extension: str) -> None:
    data = encoded(quadrants(), FORMATS[extension])
    studio.refused(f"a{extension}", data[:14], DamagedImage)


def test_damaged_pixels_are_refused(studio: Studio) -> None:
    data = bytearray(encoded(draw_sample(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    studio.refused("a.png", bytes(data), DamagedImage)


def test_empty_file_is_refused(studio: Studio) -> None:
    studio.refused("a.jpg", b"", EmptyImage)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png_of_size(0, 10)),
        ("a.png", png_of_size(10, 0)),
        ("a.gif", b"GIF89a" + bytes(7) + b";"),
        ("a.bmp", b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 5) + bytes(40)),
        ("a.jpg", b"\xff\xd8\xff\xc0\0\x11\x08" + bytes(4) + bytes(40)),
        ("a.webp", b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(7) + b"\x9d\x01\x2a" + bytes(40)),
    ],
)
def test_image_of_no_pixels_is_refused(studio: Studio, name: str, data: bytes) -> None:
    studio.refused(name, data, EmptyImage)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png_of_size(60_000, 60_000)),
        ("a.gif", b"GIF89a\xff\xff\xff\xff" + bytes(3) + b";"),
        ("a.gif", b"GIF89a\x05\0\x05\0\0\0\0!\xf9\x04\x08\0\0\0\0," + b"\0\0\0\0" + b"\xff\xff\xff\xff\0"),
        ("a.bmp", b"BM" + bytes(12) + struct.pack("<Iii", 40, 60_000, -60_000) + bytes(40)),
        ("a.bmp", b"BM" + bytes(12) + struct.pack("<IHH", 12, 60_000, 60_000) + bytes(40)),
        ("a.jpg", b"\xff\xd8\xff\xff\xc2\0\x11\x08\xff\xff\xff\xff" + bytes(40)),
        ("a.webp", b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\xff\xff\0\xff\xff\0" + bytes(40)),
        ("a.webp", b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(4) + b"\x2f\xff\xff\xff\xff" + bytes(40)),
        ("a.webp", b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(7) + b"\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(40)),
    ],
)
def test_header_alone_gets_an_image_of_too_many_pixels_refused(studio: Studio, name: str, data: bytes) -> None:
    error = studio.refused(name, data, TooManyPixels)
    assert "MAX_MEGAPIXELS" in str(error)


def test_image_over_the_limit_is_never_decoded(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = studio.put("a.jpg", Image.new("L", (1001, 1000)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("the image was decoded"))
    with pytest.raises(TooManyPixels, match="limit of 1 megapixels"):
        studio.convert(uri, max_megapixels=1)


def test_limit_is_read_from_the_environment_at_each_call(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = studio.put("a.png", Image.new("L", (1001, 1000)))
    monkeypatch.setenv("MAX_MEGAPIXELS", "1")
    with pytest.raises(TooManyPixels):
        studio.convert(uri)
    monkeypatch.setenv("MAX_MEGAPIXELS", "1.001")
    assert studio.convert(uri).exists()
    monkeypatch.setenv("MAX_MEGAPIXELS", "")
    assert studio.convert(uri).exists()


@pytest.mark.parametrize("limit", ["many", "0", "-1", "nan", "inf"])
def test_limit_that_is_no_positive_number_is_refused(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("MAX_MEGAPIXELS", limit)
    with pytest.raises(InvalidLimit, match="MAX_MEGAPIXELS"):
        studio.convert(studio.put("a.png", quadrants()))


@pytest.mark.parametrize("format_name", FORMATS.values())
def test_size_in_the_header_is_the_size_that_pillow_finds(tmp_path: Path, format_name: str) -> None:
    for picture in (quadrants(), quadrants(7, 5).convert("RGBA" if format_name == "WEBP" else "L")):
        data = encoded(picture, format_name)
        path = tmp_path / "a"
        path.write_bytes(data)
        with open_source(path) as source:
            survey = Survey(source, Limits())
            look_over(survey, format_name)
            assert survey.found_size == picture.size


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", lambda: png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * MEGABYTE))))),
        ("a.png", lambda: png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 * MEGABYTE))))),
        ("a.png", lambda: png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(100 * MEGABYTE))))),
        ("a.png", lambda: png_with(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MEGABYTE - 1)))] * 80)),
        ("a.png", lambda: png_with(chunk(b"eXIf", bytes(20 * MEGABYTE)))),
        ("a.png", lambda: png_with(chunk(b"tEXt", b"a\0" + b"b" * 20 * MEGABYTE))),
        ("a.jpg", lambda: jpeg_with(*[b"Exif\0\0" + bytes(65_000)] * 300)),
        ("a.jpg", lambda: jpeg_with(*[b"ICC_PROFILE\0" + bytes(65_000)] * 300)),
        ("a.webp", lambda: encoded(quadrants(), "WEBP", icc_profile=bytes(20 * MEGABYTE))),
        ("a.gif", lambda: b"GIF89a\x05\0\x05\0\0\0\0!\xfe" + (b"\xff" + b"c" * 255) * 80_000 + b"\0;"),
    ],
)
def test_huge_metadata_is_refused(studio: Studio, name: str, data: Callable[[], bytes]) -> None:
    studio.refused(name, data(), TooMuchMetadata)


def test_bad_ids_and_places_are_refused_before_anything_is_read(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(BadImageID):
        studio.convert((studio.indir / "absent.jpg").as_uri(), "../id")
    with pytest.raises(OutsideInputDirectory):
        studio.convert((tmp_path / "in_old" / "a.jpg").as_uri())
    with pytest.raises(ImageNotFound):
        studio.convert((studio.indir / "absent.jpg").as_uri())


def test_failing_storage_is_told_apart_from_a_damaged_image(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: ImageFile.ImageFile) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ImageFile.ImageFile, "load", failing)
    studio.refused("a.png", encoded(quadrants(), "PNG"), UnreadableImage)


def test_damaged_metadata_neither_stops_the_conversion_nor_prints_a_warning(studio: Studio) -> None:
    entry = struct.pack(">HHII", 0x011A, 5, 1000, 60_000)
    broken = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 5) + entry
    data = jpeg_with(broken).replace(b"JFIF\0", b"XXXX\0")
    uris = [studio.put("a.jpg", data), studio.put("a.png", png_with(chunk(b"acTL", b"\0" * 8)))]
    script = "import sys; from bw_tasks.images import convert_image\n" + "".join(
        f"convert_image({uri!r}, 'id', outdir={str(studio.outdir)!r})\n" for uri in uris
    )
    # Even in an interpreter that shows every warning.
    run = subprocess.run(
        [sys.executable, "-W", "always:::PIL", "-c", script], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    assert len(list(studio.outdir.iterdir())) == 2


# All or nothing


def test_output_directory_that_does_not_exist_is_told_so(studio: Studio) -> None:
    uri = studio.put("a.png", quadrants())
    studio.outdir.rmdir()
    with pytest.raises(UnwritableOutput, match="OUTDIR"):
        studio.convert(uri)


def test_output_directory_that_is_a_file_is_told_so(studio: Studio) -> None:
    uri = studio.put("a.png", quadrants())
    with pytest.raises(UnwritableOutput, match="OUTDIR"):
        images.convert_image(uri, "id", outdir=studio.indir / "a.png")


def test_nothing_is_left_where_the_output_cannot_be_put_in_place(studio: Studio) -> None:
    (studio.outdir / "id.png").mkdir()
    with pytest.raises(UnwritableOutput, match=r"id\.png"):
        studio.convert(studio.put("a.png", quadrants()))
    assert [path.name for path in studio.outdir.iterdir()] == ["id.png"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_nothing_is_left_and_the_old_file_stays_when_a_step_fails(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    uri = studio.put("a.png", quadrants())
    (studio.outdir / "id.png").write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(UnwritableOutput, match="No space left"):
        studio.convert(uri)
    assert [path.name for path in studio.outdir.iterdir()] == ["id.png"]
    assert (studio.outdir / "id.png").read_bytes() == b"old"


def test_link_in_the_place_of_the_output_is_replaced_and_not_written_through(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"old")
    (studio.outdir / "id.png").symlink_to(tmp_path / "precious")
    written = studio.convert(studio.put("a.png", quadrants()))
    assert not written.is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"old"


KILLED_IN_STEP = """
import os, signal, sys
from bw_tasks.images import convert_image
uri, outdir, step, call = sys.argv[1:]
real, calls = getattr(os, step), []
def last(*args, **kwargs):
    calls.append(args)
    if len(calls) < int(call):
        return real(*args, **kwargs)
    if step == "write":
        real(args[0], bytes(args[1])[:50])
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, step, last)
convert_image(uri, "id", outdir=outdir)
"""


@pytest.mark.parametrize(
    ("step", "call", "whole"),
    [("write", 1, False), ("fsync", 1, False), ("replace", 1, False), ("fsync", 2, True)],
)
def test_kill_in_any_step_leaves_the_old_file_or_the_whole_new_one(
    studio: Studio, step: str, call: int, whole: bool
) -> None:
    uri = studio.put("a.png", quadrants())
    new = studio.convert(uri, "other").read_bytes()
    (studio.outdir / "id.png").write_bytes(b"old")
    run = subprocess.run([sys.executable, "-c", KILLED_IN_STEP, uri, str(studio.outdir), step, str(call)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert (studio.outdir / "id.png").read_bytes() == (new if whole else b"old")
    assert sorted(path.name for path in studio.outdir.glob("[!.]*")) == ["id.png", "other.png"]
    assert studio.convert(uri).read_bytes() == new


def test_reader_that_polls_sees_only_whole_files(studio: Studio) -> None:
    uris = [studio.put("a.png", quadrants()), studio.put("b.png", draw_sample().resize((640, 480)))]
    whole = {studio.convert(uri).read_bytes() for uri in uris}
    writing = threading.Thread(target=lambda: [studio.convert(uri) for uri in uris * 20])
    writing.start()
    seen = set()
    while writing.is_alive():
        # As a shell's *.png does, without hidden files.
        seen |= {path.read_bytes() for path in studio.outdir.glob("[!.]*")}
    writing.join()
    assert seen <= whole
    assert len(whole) == 2


def test_conversions_in_many_threads_do_not_disturb_each_other(studio: Studio) -> None:
    pictures = [quadrants(), *(Image.linear_gradient("L").rotate(90 * turn) for turn in range(4))]
    uris = [studio.put(f"{n}{extension}", picture) for n, picture in enumerate(pictures) for extension in FORMATS]
    expected = [studio.convert(uri, "alone").read_bytes() for uri in uris]
    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(studio.convert, uri, f"id{number % len(uris)}") for number, uri in enumerate(uris * 4)]
        written = [future.result().read_bytes() for future in work]
    assert written == expected * 4
    assert not list(studio.outdir.glob(".*"))
