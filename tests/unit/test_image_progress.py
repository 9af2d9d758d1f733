"""The bar of a batch of images, in terminals of any width."""

from __future__ import annotations

from pathlib import Path

import pytest

from bw_tasks.batch import Batch
from bw_tasks.progress import bar


def batch(total: int, done: int, retrying: int = 0) -> Batch:
    made = Batch([Path(f"{number}.png") for number in range(total)])
    for image in made.images[:done]:
        image.done = True
    made.retrying = retrying
    made.seconds = 6.0
    return made


@pytest.mark.parametrize("columns", [0, 1, 10, 25, 40, 79, 119, 159])
@pytest.mark.parametrize("images", [batch(1, 0), batch(12, 3), batch(10_000, 9_999, retrying=6), batch(3, 3)])
def test_bar_fits_the_terminal(images: Batch, columns: int) -> None:
    assert len(bar(images, columns)) <= columns


def test_bar_counts_what_is_done_and_how_long_the_rest_takes() -> None:
    assert bar(batch(12, 3), 79) == f"Converting  [{'#' * 9}{'-' * 27}]  3/12, 18 s to go"


def test_bar_counts_what_is_retried() -> None:
    assert bar(batch(12, 6, retrying=6), 79) == f"Converting  [{'#' * 18}{'-' * 18}]  6/12, retrying 6"


def test_bar_is_full_at_the_end() -> None:
    assert bar(batch(3, 3), 79) == f"Converting  [{'#' * 36}]  3/3"
