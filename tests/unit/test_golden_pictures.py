"""The golden set, held against ImageMagick where it is installed, and against stored fingerprints everywhere.

A dither puts every dot elsewhere, so the two results are compared as the eye sees them: blurred, by their structural
similarity (SSIM) in windows of 8x8. Measured on this set, ImageMagick's result beside ours has at least 0.82 (it weighs
colours a little differently in grey), and a picture that is turned wrongly, inverted, or opaque where it should be
transparent has at most 0.69: the bound stands between them, and `test_wrong_picture_is_far_below_the_bound` holds it
there.

The fingerprints are of the grey picture before it is dithered: a dither makes a different dot of every rounding. They
are exact where no lossy decoder or encoder takes part, which may change with Pillow's libraries, and elsewhere 8x8
greys with a tolerance of five of 255, while such libraries differ by one or two.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageFilter, ImageOps

from bw_tasks.tones import black_and_white
from tests.support.golden import EXTENSIONS, LOSSLESS, golden_pictures, scene, upright_grey
from tests.support.studio import Studio

PICTURES = golden_pictures()
STORED = Path(__file__).with_name("golden_pictures.txt")
BOUND = 0.78
MARGIN = 0.05
TOLERANCE = 5
CONVERT = shutil.which("convert")
BLUR = 3
WINDOW, STEP = 8, 4
#: ImageMagick 6 does not read the orientation in a PNG's EXIF chunk; it is told.
TOLD = {
    f"PNG EXIF orientation {number}": word for number, word in ((3, "BottomRight"), (6, "RightTop"), (8, "LeftBottom"))
}
#: libheif in Debian 12 loses the alpha channel of what Pillow writes.
LOST_ALPHA = "AVIF RGBA"
#: SSIM's constants for values up to 255.
STABLE_MEAN, STABLE_SPREAD = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def similarity(one: Image.Image, other: Image.Image) -> float:
    """How alike two pictures of a size are from afar: 1 for the same."""
    assert one.size == other.size
    blurred = [picture.convert("L").filter(ImageFilter.GaussianBlur(BLUR)) for picture in (one, other)]
    width, height = one.size
    scores = [
        _window_similarity(
            *(picture.crop((x, y, min(x + WINDOW, width), min(y + WINDOW, height))) for picture in blurred)
        )
        for y in range(0, max(height - WINDOW, 0) + 1, STEP)
        for x in range(0, max(width - WINDOW, 0) + 1, STEP)
    ]
    return sum(scores) / len(scores)


def _window_similarity(one: Image.Image, other: Image.Image) -> float:
    a, b = one.tobytes(), other.tobytes()
    count = len(a)
    mean_a, mean_b = sum(a) / count, sum(b) / count
    spread_a = sum((value - mean_a) ** 2 for value in a) / count
    spread_b = sum((value - mean_b) ** 2 for value in b) / count
    shared = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / count
    means = (2 * mean_a * mean_b + STABLE_MEAN) / (mean_a**2 + mean_b**2 + STABLE_MEAN)
    return means * (2 * shared + STABLE_SPREAD) / (spread_a + spread_b + STABLE_SPREAD)


def fingerprint(name: str) -> str:
    """A picture's size, its greys in a raster, and where they cannot change, their checksum."""
    format_name, make = PICTURES[name]
    grey = upright_grey(make())
    small = grey.resize((8, 8), Image.Resampling.BOX).tobytes().hex()
    exact = hashlib.sha256(grey.tobytes()).hexdigest()[:16] if format_name in LOSSLESS else "-"
    return f"{grey.width}x{grey.height} {small} {exact}"


def stored() -> dict[str, str]:
    lines = (line.partition(": ") for line in STORED.read_text().splitlines())
    return {name: rest for name, _, rest in lines}


def test_the_set_is_large_enough() -> None:
    assert len(PICTURES) >= 60
    assert set(stored()) == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_decoded_as_it_always_was(name: str) -> None:
    size, greys, exact = fingerprint(name).split()
    stored_size, stored_greys, stored_exact = stored()[name].split()
    assert (size, exact) == (stored_size, stored_exact)
    pairs = zip(bytes.fromhex(greys), bytes.fromhex(stored_greys), strict=True)
    assert max(abs(one - other) for one, other in pairs) <= TOLERANCE


def imagemagick(source: Path, target: Path, orientation: str | None = None) -> Image.Image:
    """What the walkthrough's command makes of a picture, turned and put on white first, as the service does."""
    told = ["-orient", orientation] if orientation else []
    upright_on_white = [*told, "-auto-orient", "-background", "white", "-alpha", "remove"]
    command = [str(CONVERT), f"{source}[0]", *upright_on_white, "-monochrome", str(target)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "no decode delegate" in run.stderr:
        pytest.skip(f"this ImageMagick does not read {source.suffix}")
    assert run.returncode == 0, run.stderr
    with Image.open(target) as image:
        return image.convert("L")


@pytest.mark.skipif(CONVERT is None, reason="ImageMagick's convert is not installed")
@pytest.mark.parametrize("name", [name for name in PICTURES if name != LOST_ALPHA])
def test_picture_looks_as_imagemagick_makes_it(studio: Studio, tmp_path: Path, name: str) -> None:
    format_name, make = PICTURES[name]
    uri = studio.put(f"a{EXTENSIONS[format_name]}", make())
    with Image.open(studio.convert(uri, extra_formats=["tiff", "avif"])) as image:
        ours = image.convert("L")
    theirs = imagemagick(studio.indir / f"a{EXTENSIONS[format_name]}", tmp_path / "theirs.png", TOLD.get(name))
    assert similarity(ours, theirs) > BOUND


def test_wrong_picture_is_far_below_the_bound() -> None:
    right = black_and_white(scene().convert("L"))
    blackened = scene()
    blackened.paste("black", (48, 32, 96, 64))
    whitened = scene()
    whitened.paste("white", (48, 32, 96, 64))
    wrong = [
        *(scene().transpose(turn) for turn in (Image.Transpose.ROTATE_180, Image.Transpose.FLIP_LEFT_RIGHT)),
        scene().transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        ImageOps.invert(scene()),
        blackened,
        whitened,
        Image.new("RGB", scene().size, "white"),
    ]
    assert max(similarity(right, black_and_white(picture.convert("L"))) for picture in wrong) < BOUND - MARGIN
