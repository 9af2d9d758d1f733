"""Putting a file in place so that readers see the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from .errors import UnwritableOutput, shown

__all__ = ["OutputDirectory"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class OutputDirectory:
    """The directory that converted images are written to; a context manager that holds it open.

    Parameters:
      path(str): The directory, which must exist.

    Raises:
      UnwritableOutput: On entering, when there is no such directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = -1

    def __enter__(self) -> OutputDirectory:
        try:
            self._open()
        except OSError as error:
            raise UnwritableOutput(
                f"The output directory {shown(str(self.path))} cannot be opened: {error.strerror}. "
                "Make it, or set OUTDIR to a directory that exists."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self.path, _DIRECTORY)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self._descriptor = os.open(self.path, _DIRECTORY)

    def try_out(self) -> None:
        """Write an empty file, and remove it: permissions alone do not tell whether a directory takes files.

        Raises:
          UnwritableOutput: When the system refuses.
        """
        temporary = _temporary_name()
        try:
            os.close(os.open(temporary, _CREATE, 0o666, dir_fd=self._descriptor))
            os.unlink(temporary, dir_fd=self._descriptor)
        except OSError as error:
            raise UnwritableOutput(
                f"The output directory {shown(str(self.path))} cannot be written to: {error.strerror}. "
                "Change its permissions, or name another directory."
            ) from error

    def write(self, name: str, data: bytes) -> Path:
        """Write a file: under a temporary name, to the disk, then under its own name.

        A process killed on the way leaves at most a hidden file whose name ends in ``.part``.

        Raises:
          UnwritableOutput: When the system refuses; nothing is left behind then.

        Returns:
          Path: The file's path.
        """
        try:
            self._write_fresh(name, data)
        except OSError as error:
            raise UnwritableOutput(
                f"The image {shown(name)} cannot be written to {shown(str(self.path))}: {error.strerror}. "
                "Check the directory's permissions and its free space."
            ) from error
        return self.path / name

    def _write_fresh(self, name: str, data: bytes) -> None:
        try:
            self._write(name, data)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            # NFS: the directory that is held open was replaced on the server. Its name leads to the new one.
            stale, self._descriptor = self._descriptor, os.open(self.path, _DIRECTORY)
            os.close(stale)
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        temporary = _temporary_name()
        descriptor = os.open(temporary, _CREATE, 0o666, dir_fd=self._descriptor)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                _write_all(file.fileno(), data)
                # Over NFS this sends what is written and tells what the server refuses, such as a full disk.
                os.fsync(file.fileno())
                written = os.fstat(file.fileno())
            self._put_in_place(temporary, name, written)
        except BaseException:
            # What failed is to be told, not that this fails as well.
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._descriptor)
            raise
        self._sync()

    def _put_in_place(self, temporary: str, name: str, written: os.stat_result) -> None:
        try:
            os.replace(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except FileNotFoundError:
            # An NFS client whose server's answer got lost asks again, and hears that the old name is gone.
            there = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            if not os.path.samestat(there, written):
                raise

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # Some network file systems have nothing to sync in a directory.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def _temporary_name() -> str:
    # The dot and the ending keep it from readers that look for images; the randomness, from a second run.
    return f".{secrets.token_hex(8)}.part"


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
