"""Commands as somebody runs them who has a clone of what is committed, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.bw import ROOT, environment

#: What a shell that is already within a virtual environment passes on, and a stranger's does not have.
ACTIVATED = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTEST_")

#: A registry that is away for a moment is asked again.
_PATIENT = {"PIP_RETRIES": "10"}


def strangers_environment(**variables: str) -> dict[str, str]:
    """The environment of a shell that nothing was activated in, with these variables."""
    inherited = {name: value for name, value in environment().items() if not name.startswith(ACTIVATED)}
    return _PATIENT | inherited | variables


def run_in_bash(command: str, folder: Path, **variables: str) -> str:
    """Run a command as it stands, require that it succeeds, and return what it printed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=strangers_environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_in_clone(command: str, folder: Path, **variables: str) -> str:
    """Run a command in a fresh clone of what is committed, and return what it printed."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True, timeout=60)
    return run_in_bash(command, folder, **variables)
