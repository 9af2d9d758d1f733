"""docs/frameworks.md shows code that these tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent.parent / "docs" / "frameworks.md"

BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)

SOURCES = [path.read_text() for path in FOLDER.rglob("*.py") if path != Path(__file__)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0].strip())
def test_code_of_the_page_is_code_of_the_tests(block: str) -> None:
    assert any(block in source for source in SOURCES), block


def test_page_has_code() -> None:
    assert len(BLOCKS) > 10
