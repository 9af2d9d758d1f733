"""From URIs and ids, which strangers choose, to the paths of files. Nothing here touches a disk."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from urllib.parse import unquote_to_bytes

from .errors import BadImageID, MalformedURI, NotLocalFile, OutsideInputDirectory, UnsupportedScheme, shown, shown_uri

__all__ = ["extension_of", "output_name", "output_path", "path_below", "plain_path", "source_path", "source_uri"]

LONGEST_NAME = 255
"""Bytes in the longest name that the usual file systems take."""

_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def source_path(uri: str, indir: str | os.PathLike[str] | None = None) -> Path:
    """The path that a ``file://`` URI names.

    Only the form that every reader of the queue understands alike is taken: ``file:///absolute/path`` or
    ``file://localhost/absolute/path``, the scheme in lower case, percent-escapes decoded once.

    Parameters:
      uri(str): The URI.
      indir(str): The directory that the path must lie in, or None to take any path.

    Raises:
      UnsupportedScheme: When the URI is not a ``file://`` one.
      NotLocalFile: When the URI names a host other than ``localhost``.
      MalformedURI: When the rest is not one plain absolute path.
      OutsideInputDirectory: When the path is not below ``indir``.

    Returns:
      Path: The path, absolute and without ``.`` and ``..``.
    """
    path = Path(plain_path(uri, _local_part(uri)))
    if indir is not None:
        path_below(path, indir)
    return path


def source_uri(path: Path) -> str:
    """The ``file://`` URI of a local file, from which :func:`source_path` makes the same path again.

    Parameters:
      path(Path): The path, relative to the current directory unless it is absolute.
    """
    # Two slashes in front mean what one does, except to as_uri().
    return Path("/", *path.absolute().parts[1:]).as_uri()


def path_below(path: Path, indir: str | os.PathLike[str]) -> Path:
    """The path as seen from the input directory; both are compared as they are spelled.

    Raises:
      OutsideInputDirectory: When the path is not below the directory.
    """
    try:
        below = path.relative_to(os.path.abspath(indir))
    except ValueError:
        below = Path()
    if not below.parts:
        raise OutsideInputDirectory(
            f"{shown(str(path))} is not below the input directory {shown(os.fspath(indir))}. "
            "Put the image there, and spell its path as INDIR is spelled."
        )
    return below


def output_path(outdir: str | os.PathLike[str], image_id: str, uri: str) -> Path:
    """The path that a converted image is written to: the id with the URI's extension, in the output directory.

    Raises:
      BadImageID: When the id cannot serve as a file's name.
      ImageError: When the URI is one that :func:`source_path` refuses.
    """
    return Path(outdir) / output_name(image_id, extension_of(source_path(uri)))


def output_name(image_id: object, extension: str) -> str:
    """The name of the file for an id.

    Raises:
      BadImageID: When the id is empty, begins with a dot, is too long, or has a slash or an unprintable
        character in it.
    """
    if not isinstance(image_id, str) or not image_id:
        raise _bad_id(image_id, "it must be a string that is not empty")
    if image_id.startswith("."):
        raise _bad_id(image_id, "it may not begin with a dot")
    if "/" in image_id:
        raise _bad_id(image_id, "it may not have a slash in it")
    if not image_id.isprintable():
        raise _bad_id(image_id, "it may only have printable characters in it")
    if len(os.fsencode(image_id + extension)) > LONGEST_NAME:
        raise _bad_id(image_id, f"with its extension it may be at most {LONGEST_NAME} bytes long")
    return image_id + extension


def extension_of(path: PurePath) -> str:
    """What Go's ``filepath.Ext`` answers: the name from its last dot on, even where that is its first character."""
    _, dot, extension = path.name.rpartition(".")
    return dot + extension if dot else ""


def _bad_id(image_id: object, rule: str) -> BadImageID:
    return BadImageID(f"The id {shown(image_id)} cannot name an output file: {rule}. Choose another id.")


def _malformed(uri: object, problem: str) -> MalformedURI:
    scheme = str(uri).partition("://")[0]
    form = f"{scheme}://bucket/name.jpg" if scheme in ("s3", "nats") else "file:///absolute/path/of/the/image.jpg"
    return MalformedURI(f"The image {shown_uri(uri)} {problem}. Write {form}.")


def _local_part(uri: str) -> str:
    if not isinstance(uri, str):
        raise _malformed(uri, "is not a string")
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme != "file":
        raise UnsupportedScheme(
            f"The image {shown_uri(uri)} is not a file://, s3:// or nats:// URI: save the image where the workers can "
            "reach it and write file:///absolute/path, s3://bucket/key or nats://bucket/name, the scheme in lower case."
        )
    if not rest.startswith("//"):
        raise _malformed(uri, "lacks the two slashes after file:")
    host, slash, path = rest[2:].partition("/")
    if host not in ("", "localhost"):
        raise NotLocalFile(f"The image {shown_uri(uri)} is on another host. Write file:///path for a local file.")
    return slash + path


def _leads_away(path: str) -> bool:
    return any(part in (".", "..") for part in path.split("/"))


def plain_path(uri: str, encoded: str) -> str:
    """Decode the path in a URI.

    Parameters:
      uri(str): The whole URI, for error texts.
      encoded(str): Its path, beginning with a slash.

    Raises:
      MalformedURI: When it does not spell one plain path.
    """
    if "?" in encoded or "#" in encoded:
        raise _malformed(uri, "has a query or a fragment (in a name, write ? as %3F and # as %23)")
    if "%" in _ESCAPE.sub("", encoded):
        raise _malformed(uri, "has a % that begins no escape (in a name, write it as %25)")
    try:
        path = os.fsdecode(unquote_to_bytes(encoded))
    except UnicodeEncodeError:
        raise _malformed(uri, "has characters that no file name can have") from None
    if _leads_away(os.fsdecode(unquote_to_bytes(os.fsencode(path)))):
        # A name may have a % in it, but nobody who decodes a second time shall be led elsewhere.
        raise _malformed(uri, "is percent-encoded twice")
    if _CONTROL.search(path):
        raise _malformed(uri, "has a control character in it")
    if "" in path[1:].split("/") or _leads_away(path):
        raise _malformed(uri, "has an empty, '.' or '..' part in its path")
    return path
