"""One limit each for bytes, pixels, metadata and frames: each refusal names the limit and the variable that sets it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image, ImageFile

from bw_tasks.errors import (
    ImageError,
    InvalidFormats,
    InvalidLimit,
    TooManyBytes,
    TooManyFrames,
    TooManyPixels,
    TooMuchMetadata,
    UnsupportedFormat,
)
from bw_tasks.limits import Limits, taken_formats
from tests.support.studio import Studio, chunk, encoded, exif_of, jpeg_with, png_with, quadrants

VARIABLES = ["MAX_MEGABYTES", "MAX_MEGAPIXELS", "MAX_METADATA_MEGABYTES", "MAX_FRAMES"]
MILLION = 1_000_000


def animated(format_name: str, count: int, side: int = 24) -> bytes:
    frames = [Image.new("RGB", (side, side), (number % 256, number // 256, 99)) for number in range(count)]
    options = {"lossless": True} if format_name == "WEBP" else {}
    return encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options)


def heavy_webp() -> bytes:
    """An animation whose frames are far more bytes than a frame has pixels."""
    noise = [Image.effect_noise((64, 64), 90).convert("RGB") for _ in range(900)]
    return encoded(noise[0], "WEBP", save_all=True, append_images=noise[1:], lossless=True, quality=0, method=0)


def profile_png(count: int) -> bytes:
    return png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(count))))


def profile_jpeg(count: int) -> bytes:
    parts = [bytes(60_000)] * (count // 60_000)
    heads = (b"ICC_PROFILE\0" + bytes([number % 255 + 1, len(parts) % 256]) for number in range(len(parts)))
    content = encoded(quadrants(), "JPEG")
    framed = [b"\xff\xe2" + struct.pack(">H", len(head) + 60_002) + head + bytes(60_000) for head in heads]
    return content[:2] + b"".join(framed) + content[2:]


def test_defaults_are_those_that_readme_states() -> None:
    assert Limits() == Limits(bytes=256 * MILLION, pixels=100 * MILLION, metadata=16 * MILLION, frames=10_000)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("limit", ["many", "0", "-1", "nan", "inf"])
def test_limit_that_is_no_positive_number_is_refused_by_its_name(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, limit: str, variable: str
) -> None:
    monkeypatch.setenv(variable, limit)
    with pytest.raises(InvalidLimit, match=f"^{variable} is "):
        studio.convert(studio.put("a.png", quadrants()))


@pytest.mark.parametrize(
    ("variable", "limit", "name", "data", "error"),
    [
        ("MAX_MEGABYTES", "0.01", "a.bmp", lambda: encoded(quadrants(), "BMP"), TooManyBytes),
        ("MAX_MEGABYTES", "0.0001", "a.jpg", lambda: encoded(quadrants(), "JPEG"), TooManyBytes),
        ("MAX_MEGAPIXELS", "0.006", "a.png", lambda: encoded(quadrants(), "PNG"), TooManyPixels),
        ("MAX_METADATA_MEGABYTES", "0.5", "a.png", lambda: profile_png(MILLION), TooMuchMetadata),
        ("MAX_METADATA_MEGABYTES", "0.5", "a.jpg", lambda: profile_jpeg(MILLION), TooMuchMetadata),
        ("MAX_FRAMES", "9", "a.gif", lambda: animated("GIF", 10), TooManyFrames),
        ("MAX_FRAMES", "9", "a.png", lambda: animated("PNG", 10), TooManyFrames),
        ("MAX_FRAMES", "9", "a.webp", lambda: animated("WEBP", 10), TooManyFrames),
        ("MAX_FRAMES", "9", "a.tif", lambda: animated("TIFF", 10), TooManyFrames),
        ("MAX_FRAMES", "9", "a.avif", lambda: animated("AVIF", 10, side=64), TooManyFrames),
    ],
)
def test_each_limit_is_named_by_its_refusal_and_lifted_by_its_variable(
    studio: Studio,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    limit: str,
    name: str,
    data: Callable[[], bytes],
    error: type[ImageError],
) -> None:
    monkeypatch.setenv("EXTRA_FORMATS", "tiff,avif")
    uri = studio.put(name, data())
    monkeypatch.setenv(variable, limit)
    with pytest.raises(error, match=variable) as caught:
        studio.convert(uri)
    assert type(caught.value) is error
    assert f"{float(limit):g}" in str(caught.value)
    monkeypatch.delenv(variable)
    assert studio.convert(uri).exists()


def test_file_over_the_limit_is_not_read(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from bw_tasks.sources import SourceFile

    monkeypatch.setenv("MAX_MEGABYTES", "0.0001")
    monkeypatch.setattr(SourceFile, "read", lambda *_: pytest.fail("the file was read"))
    with pytest.raises(TooManyBytes):
        studio.convert(studio.put("a.png", quadrants()))


@pytest.mark.parametrize(("format_name", "extension"), [("GIF", ".gif"), ("PNG", ".png"), ("WEBP", ".webp")])
def test_animation_of_many_frames_is_converted_by_its_first(studio: Studio, format_name: str, extension: str) -> None:
    uri = studio.put(f"a{extension}", animated(format_name, 3000))
    with Image.open(studio.convert(uri)) as result:
        assert result.size == (24, 24)
        assert getattr(result, "n_frames", 1) == 1


def test_frames_after_the_first_are_neither_metadata_nor_read(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    data = heavy_webp()
    monkeypatch.setenv("MAX_METADATA_MEGABYTES", "0.1")
    assert len(data) > 1_000_000
    assert studio.result("a.webp", data).size == (64, 64)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.png", profile_png),
        ("a.jpg", profile_jpeg),
        ("a.webp", lambda count: encoded(quadrants(), "WEBP", icc_profile=bytes(count))),
        ("a.png", lambda count: png_with(chunk(b"tEXt", b"a\0" + b"b" * count))),
        ("a.png", lambda count: png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * count)))),
        ("a.png", lambda count: png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"b" * count)))),
        ("a.png", lambda count: png_with(chunk(b"eXIf", exif_of(1)[6:] + bytes(count)))),
        ("a.png", lambda count: png_with(chunk(b"prVt", bytes(count)))),
        ("a.webp", lambda count: encoded(quadrants(), "WEBP", exif=exif_of(1) + bytes(count))),
        ("a.webp", lambda count: encoded(quadrants(), "WEBP", xmp=bytes(count))),
        ("a.jpg", lambda count: jpeg_with(*[b"http://ns.adobe.com/xap/1.0/\0" + bytes(60_000)] * (count // 60_000))),
        ("a.jpg", lambda count: jpeg_with(*[b"anything" + bytes(60_000)] * (count // 60_000))),
        ("a.gif", lambda count: gif_comment(count)),
        ("a.tif", lambda count: encoded(quadrants(), "TIFF", icc_profile=bytes(count))),
        ("a.tif", lambda count: encoded(quadrants(), "TIFF", description="b" * count)),
        ("a.avif", lambda count: encoded(quadrants(), "AVIF", icc_profile=bytes(count))),
        ("a.avif", lambda count: encoded(quadrants(), "AVIF", xmp=bytes(count))),
    ],
)
def test_metadata_of_any_kind_is_held_to_the_one_limit(studio: Studio, name: str, make: Callable[[int], bytes]) -> None:
    uris = [studio.put(f"{count}{name}", make(count * MILLION)) for count in (2, 14, 17)]
    for uri in uris[:2]:
        assert studio.convert(uri, extra_formats=["tiff", "avif"]).exists()
    with pytest.raises(TooMuchMetadata, match=r"16 megabytes.*MAX_METADATA_MEGABYTES"):
        studio.convert(uris[2], extra_formats=["tiff", "avif"])


def gif_comment(count: int) -> bytes:
    content = encoded(quadrants(), "GIF")
    blocks = (b"\xff" + b"c" * 255) * (count // 256)
    start = 13 + (3 << (content[10] & 7) + 1)
    return content[:start] + b"!\xfe" + blocks + b"\0" + content[start:]


def test_what_follows_the_end_of_an_image_is_no_metadata(studio: Studio) -> None:
    for name, format_name in (("a.jpg", "JPEG"), ("a.png", "PNG"), ("a.gif", "GIF"), ("a.webp", "WEBP")):
        assert studio.result(name, encoded(quadrants(), format_name) + bytes(20 * MILLION)).size == (96, 64)


def tiff_of(order: str, *entries: tuple[int, int, int, int]) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    packed = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return mark + struct.pack(order + "HIH", 42, 8, len(entries)) + packed + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tags", [(256, 257), (322, 323)])
def test_size_of_a_tiff_and_of_its_tiles_is_known_before_pillow_sees_it(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, order: str, tags: tuple[int, int]
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "__init__", lambda *_: pytest.fail("Pillow has opened the image"))
    uri = studio.put("a.tif", tiff_of(order, *((tag, 4, 1, 60_000) for tag in tags)))
    with pytest.raises(TooManyPixels, match="60000x60000"):
        studio.convert(uri, extra_formats=["tiff"])


def test_pages_of_a_tiff_that_lead_in_a_circle_are_counted_once(studio: Studio) -> None:
    data = bytearray(encoded(quadrants(), "TIFF"))
    start = int.from_bytes(data[4:8], "little")
    after = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    data[after : after + 4] = struct.pack("<I", start)
    assert studio.convert(studio.put("a.tif", bytes(data)), extra_formats=["tiff"]).exists()


@pytest.mark.parametrize(("word", "extension", "format_name"), [("tiff", ".tif", "TIFF"), ("avif", ".avif", "AVIF")])
def test_other_formats_are_taken_where_the_environment_asks_for_them(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, word: str, extension: str, format_name: str
) -> None:
    frames = [quadrants(), Image.new("RGB", (96, 64), "white")]
    uri = studio.put(f"a{extension}", encoded(frames[0], format_name, save_all=True, append_images=frames[1:]))
    with pytest.raises(UnsupportedFormat):
        studio.convert(uri)
    monkeypatch.setenv("EXTRA_FORMATS", f" {word.upper()} , ")
    with Image.open(studio.convert(uri)) as result:
        assert (result.format, result.size, getattr(result, "n_frames", 1)) == (format_name, (96, 64), 1)
        assert min(result.convert("L").tobytes()) < 64


def test_big_tiff_is_taken_as_well(studio: Studio) -> None:
    uri = studio.put("a.tif", encoded(quadrants(), "TIFF", big_tiff=True))
    assert studio.convert(uri, extra_formats=["tiff"]).exists()


def test_heic_is_taken_where_it_can_be_read(studio: Studio) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(quadrants()).save(buffer, quality=95)
    uri = studio.put("a.HEIC", buffer.getvalue())
    with pytest.raises(UnsupportedFormat):
        studio.convert(uri)
    written = studio.convert(uri, extra_formats=["heic"])
    assert written.name == "id.HEIC"
    assert pillow_heif.open_heif(written).size == (96, 64)
    with pytest.raises(TooManyPixels):
        studio.convert(uri, extra_formats=["heic"], max_megapixels=0.006)


@pytest.mark.parametrize("words", ["eps", "tiff,,svg", "jpeg2000"])
def test_format_that_is_not_known_is_refused_by_its_name(studio: Studio, words: str) -> None:
    with pytest.raises(InvalidFormats, match="EXTRA_FORMATS names"):
        taken_formats(words.split(","))


def test_format_that_cannot_be_read_here_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bw_tasks.limits.find_spec", lambda _: None)
    with pytest.raises(InvalidFormats, match="pip install pillow-heif"):
        taken_formats(["heic"])
