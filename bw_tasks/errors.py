"""The refusals of the image service: one class for each reason, all under :class:`ImageError`."""

from __future__ import annotations

import re

from dramatiq.errors import Retry

__all__ = [
    "AccessDenied",
    "AdvisoryRefused",
    "BadAdvisory",
    "BadImageID",
    "BucketNotFound",
    "DamagedImage",
    "EmptyImage",
    "ImageError",
    "ImageNotFound",
    "InvalidAdvisories",
    "InvalidFormats",
    "InvalidLimit",
    "MalformedURI",
    "MislabelledImage",
    "NotARegularFile",
    "NotLocalFile",
    "OutputNotSet",
    "OutsideInputDirectory",
    "ServiceError",
    "StorageMisconfigured",
    "StorageUnavailable",
    "SymlinkRefused",
    "TooManyBytes",
    "TooManyFrames",
    "TooManyPixels",
    "TooMuchMetadata",
    "UnreadableImage",
    "UnsupportedFormat",
    "UnsupportedScheme",
    "UnusableInput",
    "UnwritableOutput",
    "WaitEnded",
    "WorkersEnded",
    "shown",
    "shown_uri",
]

LONGEST_SHOWN = 120

#: The beginning of a URI, and what may be a user's name and password: they may hold a slash, and an @.
_USER = re.compile(r"^(\s*(?:[A-Za-z][\w+.-]*:)?/{0,2}).*@", re.DOTALL)


def shown(value: object) -> str:
    """The value as an error text quotes it: escaped, and cut where it is long."""
    if not isinstance(value, str):
        return f"<{type(value).__name__}>"
    text = repr(value[:LONGEST_SHOWN])
    return text if len(value) <= LONGEST_SHOWN else f"{text}…"


def shown_uri(uri: object) -> str:
    """The URI of an image as an error text quotes it: like any other value, and without its credentials."""
    if not isinstance(uri, str) or uri.startswith("file:///"):
        return shown(uri)
    # The query may be a signature, as in the links that object stores hand out.
    place, mark, _ = _USER.sub(r"\1…@", uri).partition("?")
    return shown(f"{place}?…" if mark else place)


class ServiceError(Exception):
    """Base class of everything that can go wrong in the image service and that its users can mend."""


class OutputNotSet(ServiceError):
    """Raised when OUTDIR does not say where to write."""


class WaitEnded(ServiceError):
    """Raised when there is no use, or no time, to wait longer for images."""


class WorkersEnded(ServiceError):
    """Raised when the demo's workers end before the work is done."""


class UnusableInput(ServiceError):
    """Raised when there is no INDIR to read from."""


class ImageError(ServiceError, Retry):
    """Base class of every reason for which an image is not converted.

    The broker logs it with what happens next; as a Retry it is logged by nobody else.
    """


class BadAdvisory(ImageError):
    """Raised when the advisory's subject is none to publish to."""


class AdvisoryRefused(ImageError):
    """Raised when the advisory's subject is not one that this service publishes on."""


class InvalidAdvisories(ImageError):
    """Raised when ADVISORIES does not hold subjects."""


class UnsupportedScheme(ImageError):
    """Raised when the URI is of no kind that is read or written."""


class NotLocalFile(ImageError):
    """Raised when the image's URI names another host."""


class MalformedURI(ImageError):
    """Raised when the image's URI does not spell one plain absolute path."""


class OutsideInputDirectory(ImageError):
    """Raised when the image does not lie in the directory that images may be read from."""


class ImageNotFound(ImageError):
    """Raised when there is no file at the image's path."""


class SymlinkRefused(ImageError):
    """Raised when a symbolic link is on the way from the input directory to the image."""


class NotARegularFile(ImageError):
    """Raised when a directory, a device, a pipe or a socket stands in the image's place."""


class UnreadableImage(ImageError):
    """Raised when the system does not let the image's file be read."""


class EmptyImage(ImageError):
    """Raised when the image has no bytes or no pixels."""


class UnsupportedFormat(ImageError):
    """Raised when the image is in a format, or asked for in one, that the service does not take."""


class MislabelledImage(ImageError):
    """Raised when the image's content is of another format than its extension says."""


class TooManyBytes(ImageError):
    """Raised when the image's file is longer than the limit; nothing of it is read."""


class TooManyFrames(ImageError):
    """Raised when the image has more frames or pages than the limit, though only the first is converted."""


class TooManyPixels(ImageError):
    """Raised when the image has more pixels than the limit; it is not decoded."""


class TooMuchMetadata(ImageError):
    """Raised when the image carries more profiles, texts and other metadata than the limit."""


class DamagedImage(ImageError):
    """Raised when the image is cut short or its data cannot be decoded."""


class BadImageID(ImageError):
    """Raised when the image's id cannot serve as the name of a file."""


class BucketNotFound(ImageError):
    """Raised when the bucket does not exist."""


class AccessDenied(ImageError):
    """Raised when the storage knows this user and does not let it read or write the object."""


class StorageMisconfigured(ImageError):
    """Raised when the endpoint, the region or the credentials of a storage are wrong, or its client is missing."""


class StorageUnavailable(ImageError):
    """Raised when a storage does not answer, or asks to come back later: what may pass, and is tried again."""


class UnwritableOutput(ImageError):
    """Raised when the converted image cannot be put in the output directory."""


class InvalidLimit(ImageError):
    """Raised when a limit is not a positive number."""


class InvalidFormats(ImageError):
    """Raised when EXTRA_FORMATS names a format that is not known, or cannot be read here."""
