"""From a file that a stranger sent to an upright grey image, or a refusal.

The format is told by the content, and each format has its one reader: none of Pillow's other readers is ever
reached. Pillow's own settings are left as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from .errors import (
    DamagedImage,
    ImageError,
    MislabelledImage,
    TooManyPixels,
    TooMuchMetadata,
    UnsupportedFormat,
    shown,
)
from .greys import grey_on_white
from .headers import EXTENSIONS, format_of, look_over
from .limits import Limits
from .salvage import is_cut_short, load_available, repeat_rows, salvaged
from .sources import read_error
from .splicing import Source, spliced
from .survey import Survey

__all__ = ["decode"]

# Pillow warns of damaged metadata, which is of no concern here, and of large images, which are refused below. The
# filters are set once, because changing them around each call is not safe between threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")


class _JpegImageFile(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing: Pillow would refuse the image where the resolution in its metadata is damaged."""


_READERS: Mapping[str, type[ImageFile]] = {
    "JPEG": _JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

_WHOLE_METADATA = ("icc_profile", "exif", "xmp")
"""What AVIF's and HEIC's readers find of metadata when they open a file, before they decode it."""

Opener = Callable[[bytes], ImageFile]
"""Opens the image, with these bytes behind its own."""


def decode(source: Source, limits: Limits, formats: Collection[str]) -> tuple[Image.Image, str]:
    """Decode an image's first frame to grey, upright, transparent parts on white.

    Parameters:
      source(Source): The file, of which nothing has been read yet.
      limits(Limits): The most that it may have. An image of more is refused before its pixels are decoded.
      formats(Collection[str]): The formats that are taken.

    Raises:
      UnsupportedFormat: When the content or the extension is of no format that is taken.
      MislabelledImage: When content and extension disagree.
      EmptyImage: When the image has no pixels.
      TooManyBytes: When the file is too long.
      TooManyPixels: When it has too many.
      TooManyFrames: When it has too many.
      TooMuchMetadata: When it has too much beside its pixels.
      DamagedImage: When it cannot be decoded.
      UnreadableImage: When the system fails to read it.

    Returns:
      tuple[Image, str]: The image in mode L, and its format.
    """
    try:
        survey = Survey(source, limits)
        format_name = _format(survey, formats)
        look_over(survey, format_name)
        return _upright_grey(survey, format_name), format_name
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow has no common base for what its readers raise on bad data, down to KeyError and zlib.error.
        raise _refusal(error, source) from error


def _format(survey: Survey, formats: Collection[str]) -> str:
    extension, name = survey.source.extension, shown(survey.source.name)
    labelled = EXTENSIONS.get(extension.lower())
    found = format_of(survey)
    if found is None or found not in formats or (extension and labelled not in formats):
        raise UnsupportedFormat(
            f"The image {name} is not in a format that is taken, by its content or by its "
            f"extension. Save it as one of {', '.join(formats)}."
        )
    if extension and labelled != found:
        raise MislabelledImage(
            f"The image {name} is named as {labelled} but is {found}. "
            "Rename it to the extension of its format, or save it again in the other."
        )
    return found


def _upright_grey(survey: Survey, format_name: str) -> Image.Image:
    reader = _reader(format_name)
    pieces = survey.pieces or [(0, survey.length)]

    def opened(tail: bytes = b"") -> ImageFile:
        image = reader(spliced(survey.source, [*pieces, tail]))
        survey.size(*image.size)
        if format_name == "JPEG":
            image.draft("L", image.size)
        return image

    image = opened()
    if format_name in ("AVIF", "HEIF"):
        survey.frames(getattr(image, "n_frames", 1))
        survey.metadata(sum(len(image.info.get(key) or b"") for key in _WHOLE_METADATA))
    raw_mode = _raw_mode(image)
    missing: Collection[int] = ()
    try:
        image.load()
    except OSError as error:
        if not is_cut_short(error):
            raise
        image, missing = salvaged(survey, opened)

    def decoded(other_raw_mode: str) -> Image.Image:
        again = opened()
        again.tile = [tile._replace(args=_other(tile.args, other_raw_mode)) for tile in again.tile]
        return load_available(again)

    grey = grey_on_white(image, raw_mode, decoded)
    repeat_rows(grey, missing)
    return _upright(grey, image)


def _reader(format_name: str) -> type[ImageFile]:
    if format_name in _READERS:
        return _READERS[format_name]
    # Where it is asked for, it is installed; everybody else shall not need it.
    from pillow_heif import HeifImageFile

    reader: type[ImageFile] = HeifImageFile
    return reader


def _raw_mode(image: ImageFile) -> str:
    args = image.tile[0].args if image.tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _other(args: object, raw_mode: str) -> str | tuple[object, ...]:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def _upright(grey: Image.Image, image: ImageFile) -> Image.Image:
    """The grey image, turned as Pillow reads the orientation of the image that it comes from."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Damaged metadata means no orientation; Pillow's readers of it raise as many errors as those of pixels.
        orientation = 1
    # Profiles and comments are left behind: Pillow's writers would carry them over from here.
    grey.info = {}
    grey.getexif()[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(grey, in_place=True)
    return grey


def _refusal(error: Exception, source: Source) -> ImageError:
    name = shown(source.name)
    if isinstance(error, Image.DecompressionBombError):
        return TooManyPixels(f"The image {name} has more pixels than Pillow decodes: {error}. Scale it down.")
    if isinstance(error, ValueError) and "MAX_TEXT" in str(error):
        return TooMuchMetadata(f"The image {name} has texts of more than Pillow reads: {error}. Remove its metadata.")
    if isinstance(error, OSError) and error.errno is not None:
        return read_error(error, source.name)
    return DamagedImage(f"The image {name} is cut short or damaged: {error}. Save or copy it again.")
