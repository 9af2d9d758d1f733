"""The locks of development and CI, and the scripts that look at what they name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.bw import ROOT

CI = ROOT / ".ci"
LOCKS = ("dev.lock", "tools.lock")


def locked(name: str) -> dict[str, list[Requirement]]:
    """What a lock names: a package may have a version for each Python."""
    found: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^[a-z0-9].*==.*$", (CI / name).read_text("utf-8"), re.MULTILINE):
        requirement = Requirement(line.rstrip(" \\"))
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def declared() -> list[Requirement]:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = [parser["options.extras_require"][extra] for extra in ("dev", "images", "server", "websocket")]
    lines = "\n".join([parser["options"]["install_requires"], *extras]).splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "dramatiq-jetstream"))]


def test_lock_names_a_fitting_version_of_everything_that_is_declared() -> None:
    found = locked("dev.lock")

    for requirement in declared():
        versions = [str(one.specifier).removeprefix("==") for one in found[canonicalize_name(requirement.name)]]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


@pytest.mark.parametrize("name", LOCKS)
def test_each_version_in_a_lock_has_hashes_and_no_lock_names_an_index(name: str) -> None:
    text = (CI / name).read_text("utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]

    assert len(entries) == sum(map(len, locked(name).values()))
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|^-|file:", text, re.MULTILINE)


def audited(folder: Path, dependencies: object) -> subprocess.CompletedProcess[str]:
    """Audit with a pip-audit of a test's own, which answers as given."""
    (folder / "pip_audit.py").write_text(f"print({json.dumps(json.dumps(dependencies))})")
    command = [sys.executable, str(CI / "audit.py")]
    return subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60)


def test_known_vulnerability_fails_the_run(tmp_path: Path) -> None:
    odd = {"name": "odd", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
    fine = {"name": "fine", "version": "2.0", "vulns": []}
    done = audited(tmp_path, {"dependencies": [odd, fine, {"name": "own", "skip_reason": "not found"}]})

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "odd 1.0: PYSEC-1, mended in 1.1",
        "Unknown to the service: own",
        "1 of 2 packages have known vulnerabilities.",
    ]


def test_packages_without_vulnerabilities_pass(tmp_path: Path) -> None:
    done = audited(tmp_path, {"dependencies": [{"name": "fine", "version": "2.0", "vulns": []}]})

    assert (done.returncode, done.stdout) == (0, "0 of 1 packages have known vulnerabilities.\n")


@pytest.mark.parametrize("answer", [{}, {"dependencies": []}, {"dependencies": [{"name": "a", "skip_reason": "?"}]}])
def test_service_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path, answer: object) -> None:
    done = audited(tmp_path, answer)

    assert done.returncode == 0
    assert done.stdout == (
        "No vulnerability service can be reached from here (tried pypi, osv); nothing was audited.\n"
    )
