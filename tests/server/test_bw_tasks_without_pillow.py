"""The image service where Pillow is missing or too old: one sentence, and no stack trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bw_tasks.pillow import missing
from tests.support.bw import ROOT, environment

PROGRAMS = {
    "command line": ["bw_tasks", "demo"],
    "its help": ["bw_tasks", "--help"],
    "workers": ["dramatiq", "bw_tasks", "--processes", "1", "--threads", "1"],
}


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    """Run a program with a Pillow of a test's own, whose source is given."""
    source, program = request.param
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", *PROGRAMS[program]],
        cwd=ROOT,
        env=environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there, the sentence is another, for want of a Pillow 13")
@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        pytest.param((source, program), sentence, id=f"{name} {program}")
        for name, source, sentence in (
            ("missing", "raise ImportError", "bw_tasks needs Pillow 13 or newer, but Pillow is not installed"),
            ("old", "__version__ = '12.1'", "bw_tasks needs Pillow 13 or newer, but Pillow 12.1 is installed"),
        )
        for program in PROGRAMS
    ],
    indirect=["run"],
)
def test_without_pillow_programs_end_with_a_sentence(run: subprocess.CompletedProcess[str], sentence: str) -> None:
    output = run.stdout + run.stderr

    assert run.returncode != 0
    assert f"{sentence}: run pip install 'dramatiq-jetstream[images]'.\n" in output
    assert "Traceback" not in output


def test_on_python_310_the_sentence_names_the_python_that_is_needed() -> None:
    sentence = missing("", (3, 10))

    assert sentence.startswith("bw_tasks needs Python 3.11 or newer, as Pillow 13 does, and this is Python 3.10: ")
