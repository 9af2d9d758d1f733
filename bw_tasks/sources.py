"""Opening the image that a stranger named: once, without following what must not be followed, never blocking.

Everything is decided on the open descriptor, so that nothing can be put in the file's place in between.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

from .errors import (
    EmptyImage,
    ImageError,
    ImageNotFound,
    NotARegularFile,
    StorageUnavailable,
    SymlinkRefused,
    UnreadableImage,
    shown,
)
from .paths import extension_of, path_below

__all__ = ["SourceFile", "open_source", "read_error", "require_readable"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Where the system has it, O_PATH opens directories that may be passed through but not listed.
_STEP = _DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", 0)
# A pipe without a writer would block its reader without O_NONBLOCK; a terminal could become the worker's own.
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


#: What a network file system, or a machine at its limits, says for a while.
_PASSING = frozenset(
    {
        *(errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.ENOTCONN),
    }
)


class SourceFile(io.FileIO):
    """An open image file.

    Parameters:
      descriptor(int): The open file, closed together with this object.
      name(str): The image's path or URI, for error texts.
      extension(str): What its name ends with, dot included.
    """

    name: str

    def __init__(self, descriptor: int, name: str, extension: str) -> None:
        super().__init__(descriptor, "rb")
        self.name = name
        self.extension = extension
        self.length = os.fstat(descriptor).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(-1 if size is None else size) or b""


def open_source(path: Path, indir: str | os.PathLike[str] | None = None) -> SourceFile:
    """Open an image for reading.

    Parameters:
      path(Path): The image's absolute path.
      indir(str): The directory that the image must lie in. When given, no symbolic link below it is followed.

    Raises:
      OutsideInputDirectory: When the path is not below ``indir``.
      ImageNotFound: When there is no such file.
      SymlinkRefused: When a symbolic link is on the way.
      NotARegularFile: When the path leads to anything but a regular file.
      UnreadableImage: When the system refuses to open it.
      EmptyImage: When the file has no bytes.

    Returns:
      SourceFile: The open file, of which nothing has been read.
    """
    try:
        descriptor = _open_fresh(path, indir)
    except OSError as error:
        raise _explained(error, path) from error
    source = SourceFile(descriptor, str(path), extension_of(path))
    if not source.length:
        source.close()
        raise EmptyImage(f"The image {shown(str(path))} is empty: the file has 0 bytes. Save it again.")
    return source


def require_readable(directory: Path) -> None:
    """Raise OSError unless there is such a directory, and this user may read it."""
    os.listdir(directory)


def read_error(error: OSError, name: str) -> ImageError:
    """The refusal that a failed read stands for.

    Parameters:
      error(OSError): What the system said.
      name(str): The image's path or URI.
    """
    if error.errno in _PASSING:
        return StorageUnavailable(
            f"The image {shown(name)} cannot be read for now: {error.strerror}. Check the storage it is on."
        )
    return UnreadableImage(f"The image {shown(name)} cannot be read: {error.strerror}. Check the storage it is on.")


def _open_fresh(path: Path, indir: str | os.PathLike[str] | None) -> int:
    try:
        return _open_freely(path) if indir is None else _open_below(Path(indir), path)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    # NFS's client looked the name up in a directory that was replaced since; the second look is a new one.
    return _open_freely(path) if indir is None else _open_below(Path(indir), path)


def _open_freely(path: Path) -> int:
    return _open_regular(path, lambda flags: os.open(path, flags), os.stat(path))


def _open_below(indir: Path, path: Path) -> int:
    *directories, name = path_below(path, indir).parts
    here = os.open(indir, _DIRECTORY)
    try:
        for directory in directories:
            here = _step_into(here, directory, path)
        info = os.stat(name, dir_fd=here, follow_symlinks=False)
        return _open_regular(path, lambda flags: os.open(name, flags | os.O_NOFOLLOW, dir_fd=here), info)
    finally:
        os.close(here)


def _step_into(here: int, directory: str, path: Path) -> int:
    if stat.S_ISLNK(os.stat(directory, dir_fd=here, follow_symlinks=False).st_mode):
        raise _symlink(path)
    below = os.open(directory, _STEP, dir_fd=here)
    os.close(here)
    return below


def _open_regular(path: Path, opener: Callable[[int], int], seen: os.stat_result) -> int:
    # The first look spares devices the open, which may already do something to them; the second look holds.
    _require_regular(seen, path)
    descriptor = opener(_FILE)
    try:
        _require_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(info: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise _symlink(path)
    if not stat.S_ISREG(info.st_mode):
        raise NotARegularFile(
            f"{shown(str(path))} is not a regular file but {_KINDS.get(stat.S_IFMT(info.st_mode), 'something else')}. "
            "Name the image file itself."
        )


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _symlink(path: Path) -> SymlinkRefused:
    return SymlinkRefused(
        f"{shown(str(path))} leads through a symbolic link, which is not followed below the input directory. "
        "Put the image itself there."
    )


def _explained(error: OSError, path: Path) -> ImageError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ImageNotFound(
            f"There is no image at {shown(str(path))}. Check the path, and that this machine sees the shared storage."
        )
    if error.errno == errno.ELOOP:
        return _symlink(path)
    if error.errno in _PASSING:
        return read_error(error, str(path))
    return UnreadableImage(
        f"The image {shown(str(path))} cannot be read: {error.strerror}. Check its permissions and its path."
    )
