"""Where the demo's images lie: in its folder, in S3 or in an object store, on servers that it starts itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from dramatiq_jetstream.client import Connection

from .output import OutputDirectory
from .paths import source_uri
from .s3server import S3Server
from .storage import Location, Roots, Storages

__all__ = ["STORAGES", "DemoStorage"]

STORAGES = ("file", "s3", "nats")

BUCKET = "pictures"

#: More than any image has.
NO_LIMIT = 2**62


class DemoStorage:
    """Takes the demo's images in, and gives them back converted; a context manager.

    Parameters:
      kind(str): One of :data:`STORAGES`.
      folder(Path): Where the converted images go in the end.
      connection(Connection): The way to the demo's NATS server.
    """

    def __init__(self, kind: str, folder: Path, connection: Connection) -> None:
        self.kind = kind
        self._folder = folder
        self._storages = Storages(connection)
        self._opened = ExitStack()
        self._sources = Location(kind, BUCKET, "in")
        self._results = Location(kind, BUCKET, "bw")
        self._uris: dict[Path, str] = {}

    def __enter__(self) -> DemoStorage:
        if self.kind == "s3":
            server = self._opened.enter_context(S3Server())
            # For the workers as well, which inherit them.
            os.environ.update(server.environment)
            server.make_bucket(BUCKET)
        elif self.kind == "nats":
            self._storages.make_bucket(BUCKET)
        self._opened.callback(self._storages.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def outdir(self) -> str:
        """What the workers get as OUTDIR."""
        return str(self._folder if self.kind == "file" else self._results)

    def uri_of(self, path: Path) -> str:
        """The URI of an image, which is put into its bucket first."""
        if self.kind == "file":
            return source_uri(path)
        if path not in self._uris:
            name = f"{len(self._uris)}-{path.name}"
            with self._storages.output(self._sources) as output:
                output.write(name, path.read_bytes())
            self._uris[path] = f"{self._sources}/{quote(name)}"
        return self._uris[path]

    def fetch(self, names: Iterable[str]) -> None:
        """Copy converted images from their bucket to the folder."""
        if self.kind == "file":
            return
        with OutputDirectory(self._folder) as folder:
            for name in names:
                with self._storages.open(self._results.below(name), Roots(), NO_LIMIT) as source:
                    folder.write(name, source.read())
