"""How far a batch is: a bar in a terminal, now and then a line elsewhere; and what is left of one that was stopped."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .batch import Batch, Image
from .saying import say

__all__ = ["Progress", "accounted", "report"]

#: The characters of the longest and the shortest bar.
LONGEST_BAR = 36
SHORTEST_BAR = 4

#: Seconds between two lines where there is no terminal.
LINE_INTERVAL = 5.0

#: How many of the images that are left are named.
MOST_NAMED = 20


class Progress:
    """Shows how far a batch is, and what stands in its way; a context manager.

    Parameters:
      batch(Batch): The images.
      submitting(bool): Whether they are being submitted, and not converted yet.
    """

    def __init__(self, batch: Batch, *, submitting: bool = False) -> None:
        self._batch = batch
        self._submitting = submitting
        self._in_terminal = sys.stdout.isatty()
        self._shown = ""
        self._line = ""
        self._line_at = time.monotonic()
        self._obstacle = ""

    def __enter__(self) -> Progress:
        self.update()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._leave_bar()

    def update(self) -> None:
        """Show what is new."""
        if self._batch.obstacle != self._obstacle:
            self._obstacle = self._batch.obstacle
            if self._batch.left:
                self._note(self._obstacle or "The images go on.")
        if self._in_terminal:
            self._draw()
        else:
            self._print()

    def _draw(self) -> None:
        line = bar(self._batch, shutil.get_terminal_size().columns - 1, submitting=self._submitting)
        if line != self._shown:
            say(f"\r{line.ljust(len(self._shown))}", end="", keep="\r")
            self._shown = line

    def _print(self) -> None:
        if time.monotonic() - self._line_at < LINE_INTERVAL:
            return
        done, what = _so_far(self._batch, self._submitting)
        line = f"{done} of {len(self._batch.images)} images {what}{self._batch.retrying_text}"
        if line != self._line:
            say(line, err=True)
            self._line, self._line_at = line, time.monotonic()

    def _note(self, text: str) -> None:
        self._leave_bar()
        say(text, err=True, keep="\n")

    def _leave_bar(self) -> None:
        if self._shown:
            say("")
            self._shown = ""


def _so_far(batch: Batch, submitting: bool) -> tuple[int, str]:
    """How many images were brought how far."""
    return (batch.submitted, "submitted") if submitting else (batch.count, "done")


def bar(batch: Batch, columns: int, *, submitting: bool = False) -> str:
    """A bar with the numbers beside it, in so many columns at most.

    Parameters:
      batch(Batch): The images.
      columns(int): The width of the terminal.
      submitting(bool): Whether the images are being submitted, and not converted yet.
    """
    total, (done, _) = len(batch.images), _so_far(batch, submitting)
    verb = "Submitting" if submitting else "Converting"
    numbers = f"{done}/{total}{batch.retrying_text}"
    if done and done < total and not batch.retrying:
        numbers += f", {batch.seconds / done * (total - done):.0f} s to go"
    width = min(columns - len(f"{verb}  []  {numbers}"), LONGEST_BAR)
    if width < SHORTEST_BAR:
        return f"{verb}  {numbers}"[: max(columns, 0)]
    full = width * done // total
    return f"{verb}  [{'#' * full}{'-' * (width - full)}]  {numbers}"


def report(batch: Batch, outdir: Path) -> None:
    """Say where each output lies, how many there are, how fast it went, and what failed and why."""
    for image in batch.succeeded:
        say(f"{image.path.name} -> {outdir / image.output}")
    for image in batch.failed:
        say(f"{image.path.name} failed: {image.error}", err=True)
    done, seconds = len(batch.succeeded), max(batch.seconds, 0.001)
    say(
        f"{done} of {len(batch.images)} images converted in {seconds:.1f} s ({done / seconds:.1f} a second)"
        + (f", {len(batch.failed)} failed" if batch.failed else "")
        + (f", {len(batch.left)} left" if batch.left else "")
    )


@contextmanager
def accounted(batch: Batch, outdir: Path, *, kept: bool) -> Iterator[None]:
    """Report on a batch at its end; if it is stopped before that, also on what is left.

    Parameters:
      batch(Batch): The images.
      outdir(Path): Where they are written.
      kept(bool): Whether those that are left stay queued.
    """
    try:
        yield
    except BaseException:
        report(batch, outdir)
        for image in batch.left[:MOST_NAMED]:
            say(_fate(image, kept=kept), err=True)
        if len(batch.left) > MOST_NAMED:
            say(f"and {len(batch.left) - MOST_NAMED} more", err=True)
        raise
    report(batch, outdir)


def _fate(image: Image, *, kept: bool) -> str:
    if not image.message_id:
        return f"{image.path}: not submitted"
    if not kept:
        return f"{image.path}: not converted"
    return f"{image.path}: still queued as {image.id}, to be written to OUTDIR/{image.output}"
