"""From URIs, which strangers choose, to places in a storage, and which of them may be read. No I/O here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import MalformedURI, OutsideInputDirectory, UnsupportedScheme, shown, shown_uri
from ..paths import extension_of, path_below, plain_path, source_path

__all__ = ["Location", "Roots", "location_of", "output_location"]

FILE, S3, NATS = "file", "s3", "nats"

#: S3's rules for names, and those of older buckets and of other servers, which allow a little more.
_BUCKETS = {S3: re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){1,254}"), NATS: re.compile(r"[A-Za-z0-9_-]{1,251}")}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

#: Bytes in the longest key that S3 takes.
LONGEST_KEY = 1024


@dataclass(frozen=True)
class Location:
    """One place in a storage.

    Parameters:
      scheme(str): The kind of storage: ``file``, ``s3`` or ``nats``.
      bucket(str): The bucket; nothing for files.
      key(str): The name in the bucket, or the file's absolute path.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return self.key if self.scheme == FILE else f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    @property
    def path(self) -> Path:
        """A file's path."""
        return Path(self.key)

    @property
    def extension(self) -> str:
        """What the name ends with, from its last dot on."""
        return extension_of(self.path if self.scheme == FILE else PurePosixPath(self.key))

    def cannot_be(self, verb: str) -> str:
        """How an error text begins that says what could not be done: read or written, or used where it is a bucket."""
        return f"{'' if verb == 'used' else 'The image '}{shown(str(self))} cannot be {verb}"

    def below(self, name: str) -> Location:
        """The place of that name in this one."""
        return Location(self.scheme, self.bucket, "/".join(part for part in (self.key, name) if part))


def location_of(uri: str) -> Location:
    """The place that an image's URI names.

    ``file:///absolute/path``, ``s3://bucket/key`` and ``nats://bucket/name`` are taken, the scheme in lower case,
    percent-escapes decoded once.

    Raises:
      UnsupportedScheme: When the URI is of another kind.
      NotLocalFile: When a ``file://`` URI names another host.
      MalformedURI: When the rest is not one plain path.
    """
    scheme = str(uri).partition("://")[0]
    if scheme not in _BUCKETS:
        return Location(FILE, "", str(source_path(uri)))
    place = _in_bucket(scheme, uri)
    if not place.key:
        raise MalformedURI(
            f"The image {shown_uri(uri)} names a bucket and nothing in it. Write {scheme}://bucket/name."
        )
    return place


def output_location(outdir: str | os.PathLike[str]) -> Location:
    """The place that OUTDIR names: a path, ``file:///path``, ``s3://bucket/prefix`` or ``nats://bucket/prefix``.

    Raises:
      UnsupportedScheme: When it is a URI of another kind.
      MalformedURI: When it does not spell one plain path.
    """
    return _place(os.fspath(outdir), "OUTDIR") if isinstance(outdir, str) else _local(os.fspath(outdir))


class Roots:
    """The places that images may be read from.

    Parameters:
      places(Sequence[Location]): Directories, and buckets with or without a prefix; none to allow every place.
    """

    def __init__(self, places: Sequence[Location] = ()) -> None:
        self.places = tuple(places)

    @classmethod
    def of(cls, indir: str | os.PathLike[str] | None) -> Roots:
        """Read INDIR: places as OUTDIR takes them, with commas between; a comma in a name is written ``%2C`` in a URI.

        Raises:
          UnsupportedScheme: When one is a URI of another kind.
          MalformedURI: When one does not spell one plain path.
        """
        if indir is None or not isinstance(indir, str):
            return cls(() if indir is None else (_local(os.fspath(indir)),))
        return cls([_place(text.strip(), "INDIR") for text in indir.split(",") if text.strip()])

    def directory_of(self, location: Location) -> str | None:
        """Require that a place may be read, and return the directory that a file must lie in, if there is one.

        Raises:
          OutsideInputDirectory: When it is below none of the roots.
        """
        if not self.places:
            return None
        for root in self.places:
            if root.scheme == location.scheme and _is_below(location, root):
                return root.key if root.scheme == FILE else None
        raise OutsideInputDirectory(
            f"{shown(str(location))} is not below the input directory "
            f"{' or '.join(shown(str(root)) for root in self.places)}. "
            "Put the image there, and spell its path as INDIR is spelled."
        )


def _is_below(location: Location, root: Location) -> bool:
    if location.scheme == FILE:
        try:
            path_below(location.path, root.key)
        except OutsideInputDirectory:
            return False
        return True
    return location.bucket == root.bucket and location.key.startswith(f"{root.key}/" if root.key else "")


def _place(text: str, variable: str) -> Location:
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _local(text)
    if scheme[1] in _BUCKETS:
        return _in_bucket(scheme[1], text.rstrip("/"))
    if scheme[1] != FILE:
        raise UnsupportedScheme(
            f"{variable} is {shown_uri(text)}, which is of no kind that is known. Set it to a directory, "
            "s3://bucket/prefix or nats://bucket."
        )
    return Location(FILE, "", str(source_path(text.rstrip("/"))))


def _local(path: str) -> Location:
    # A path is kept as it is spelled: it may be relative, and error texts quote it.
    return Location(FILE, "", path)


def _in_bucket(scheme: str, uri: str) -> Location:
    bucket, _, key = uri[len(f"{scheme}://") :].partition("/")
    if not _BUCKETS[scheme].fullmatch(bucket):
        raise MalformedURI(f"{shown_uri(uri)} names no bucket. Write {scheme}://bucket/name, without user or port.")
    if not key:
        return Location(scheme, bucket, "")
    decoded = plain_path(uri, f"/{key}")[1:]
    if len(decoded.encode("utf-8", "surrogateescape")) > LONGEST_KEY:
        raise MalformedURI(f"{shown_uri(uri)} has a name of more than {LONGEST_KEY} bytes.")
    if not decoded.isprintable():
        raise MalformedURI(f"{shown_uri(uri)} has characters in its name that cannot be printed.")
    return Location(scheme, bucket, decoded)
