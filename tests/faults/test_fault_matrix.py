"""The fault matrix in README.md: each row names its tests, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

#: How many faults there are.
ROWS = 28

_TEST = re.compile(r"`([\w./]+\.py)::(test_\w+)`")


def rows() -> dict[int, list[tuple[str, str]]]:
    """The tests of each row, as files and names."""
    cells = [line.split("|") for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()]
    return {int(cell[1]): _TEST.findall(cell[4]) for cell in cells if len(cell) == 6 and cell[1].strip().isdigit()}


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_row() -> None:
    assert list(rows()) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("number", range(1, ROWS + 1))
def test_every_fault_has_tests_that_exist(number: int) -> None:
    tests = rows()[number]

    assert tests
    assert [f"{file}::{name}" for file, name in tests if name not in functions(FOLDER / file)] == []
