from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.studio import Studio

# How long an example takes depends on the machine, and a failure prints what repeats it.
settings.register_profile("project", deadline=None, database=None, print_blob=True)
settings.load_profile("project")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)
