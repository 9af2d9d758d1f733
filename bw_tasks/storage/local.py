"""Files: of this machine, or on NFS."""

from __future__ import annotations

from ..errors import UnusableInput, shown
from ..output import OutputDirectory
from ..sources import SourceFile, open_source, require_readable
from .downloads import require_size
from .locations import Location

__all__ = ["LocalStorage"]


class LocalStorage:
    """Reads and writes files."""

    def open(self, location: Location, directory: str | None, most_bytes: int) -> SourceFile:
        """Open an image, below a directory if there is one; see :func:`bw_tasks.sources.open_source`."""
        source = open_source(location.path, directory)
        try:
            require_size(location, source.length, most_bytes)
        except BaseException:
            source.close()
            raise
        return source

    def output(self, location: Location) -> OutputDirectory:
        """The directory to write to."""
        return OutputDirectory(location.key)

    def check_readable(self, location: Location) -> None:
        """Make sure that there is a directory to read from.

        Raises:
          UnusableInput: If there is none of that name, or this user may not read it.
        """
        try:
            require_readable(location.path)
        except OSError as error:
            raise UnusableInput(
                f"The input directory {shown(location.key)} cannot be read: {error.strerror}. "
                "Make it, or set INDIR to a directory that exists, or to nothing."
            ) from error

    def close(self) -> None:
        """Nothing is held open."""
