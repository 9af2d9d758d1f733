"""What NFS answers and local disks do not: stale handles, and names that are gone because a request was repeated."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bw_tasks.errors import StorageUnavailable, UnwritableOutput
from bw_tasks.output import OutputDirectory
from bw_tasks.sources import open_source


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jpg"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def outdir(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def fail_first(monkeypatch: pytest.MonkeyPatch, call: str, times: int, number: int = errno.ESTALE) -> None:
    """Have a call of the system fail so often before it works."""
    real: Callable[..., Any] = getattr(os, call)
    left = [number] * times

    def failing(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise OSError(left[0], os.strerror(left.pop()))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, failing)


@pytest.mark.parametrize("call", ["open", "stat", "fstat"])
@pytest.mark.parametrize("limited", [False, True])
def test_stale_handle_is_looked_up_again(
    image: Path, monkeypatch: pytest.MonkeyPatch, call: str, limited: bool
) -> None:
    fail_first(monkeypatch, call, 1)
    with open_source(image, image.parent if limited else None) as source:
        assert source.read() == b"content"


@pytest.mark.parametrize("limited", [False, True])
def test_handle_that_stays_stale_is_tried_again_later(
    image: Path, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    fail_first(monkeypatch, "open", 9)
    with pytest.raises(StorageUnavailable, match="Stale file handle"):
        open_source(image, image.parent if limited else None)


def test_server_that_is_away_is_tried_again_later(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_first(monkeypatch, "open", 9, errno.ETIMEDOUT)
    with pytest.raises(StorageUnavailable, match="timed out"):
        open_source(image)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_output_is_written_again_where_the_directory_is_stale(
    outdir: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with OutputDirectory(outdir) as output:
        fail_first(monkeypatch, call, 1)
        output.write("a.png", b"content")
    assert {path.name: path.read_bytes() for path in outdir.iterdir()} == {"a.png": b"content"}


def test_directory_that_was_replaced_on_the_server_gets_the_output(
    outdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OutputDirectory(outdir) as output:
        outdir.rename(outdir.with_name("old"))
        outdir.mkdir()
        fail_first(monkeypatch, "open", 1)
        output.write("a.png", b"content")
    assert (outdir / "a.png").read_bytes() == b"content"


def test_directory_that_stays_stale_is_told_so_and_left_clean(outdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OutputDirectory(outdir) as output:
        fail_first(monkeypatch, "fsync", 2)
        with pytest.raises(UnwritableOutput, match="Stale file handle"):
            output.write("a.png", b"content")
    assert list(outdir.iterdir()) == []


def test_rename_whose_answer_was_lost_counts_as_done(outdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def twice(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        real(*args, **kwargs)

    monkeypatch.setattr(os, "replace", twice)
    with OutputDirectory(outdir) as output:
        output.write("a.png", b"content")
    assert (outdir / "a.png").read_bytes() == b"content"


def test_rename_of_a_file_that_somebody_removed_is_an_error(outdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace
    (outdir / "a.png").write_bytes(b"old")

    def of_nothing(source: str, *args: Any, **kwargs: Any) -> None:
        os.unlink(source, dir_fd=kwargs["src_dir_fd"])
        real(source, *args, **kwargs)

    monkeypatch.setattr(os, "replace", of_nothing)
    with OutputDirectory(outdir) as output, pytest.raises(UnwritableOutput):
        output.write("a.png", b"content")
    assert (outdir / "a.png").read_bytes() == b"old"


def test_disk_that_fills_up_at_the_sync_leaves_nothing(outdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OutputDirectory(outdir) as output:
        fail_first(monkeypatch, "fsync", 1, errno.EDQUOT)
        with pytest.raises(UnwritableOutput, match="quota"):
            output.write("a.png", b"content")
    assert list(outdir.iterdir()) == []
