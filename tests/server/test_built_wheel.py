"""What a user installs: the wheel built from a clone, in an environment with nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import pytest

from tests.support.bw import ROOT
from tests.support.strangers import run_in_bash, run_in_clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGES = ("bw_tasks", "dramatiq_jetstream")

IMPORT_EVERYTHING = """
import importlib, pkgutil, dramatiq_jetstream
found = [module.name for module in pkgutil.walk_packages(dramatiq_jetstream.__path__, "dramatiq_jetstream.")]
# The one is a plugin of another package's, the other runs the command line.
left_out = {"dramatiq_jetstream.abort", "dramatiq_jetstream.__main__"}
for name in sorted(set(found) - left_out):
    importlib.import_module(name)
print(len(found), dramatiq_jetstream.__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, made out of the source distribution, and with that."""
    clone = tmp_path_factory.mktemp("built") / "clone"
    run_in_clone(f"{sys.executable} -m build --outdir ../dist", clone)
    return clone.parent / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        yield wheel


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it requires, without extras."""
    folder = tmp_path_factory.mktemp("installed")
    [path] = built.glob("*.whl")
    run_in_bash(f"{sys.executable} -m venv env && env/bin/pip install --quiet {path}", folder)
    return folder


def packaged_files() -> list[str]:
    """The files of the packages, as they are committed."""
    command = ["git", "ls-tree", "-r", "--name-only", "HEAD", *PACKAGES]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    [path] = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_wheel_holds_each_file_of_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = [path for path in wheel.namelist() if ".dist-info/" not in path]

    assert sorted(files) == sorted(packaged_files())
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(files)


def test_source_distribution_holds_the_packages_and_no_tests(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}

    assert set(packaged_files()) | {"README.md", "LICENSE", "setup.cfg", "pyproject.toml"} <= files
    assert [name for name in files if name.startswith(("tests", "benchmarks"))] == []


def test_wheel_requires_four_packages_and_says_which_pythons_it_runs_on(wheel: zipfile.ZipFile) -> None:
    said = message_from_string(metadata(wheel, "METADATA"))
    required = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    pythons = [line.rpartition(" ")[2] for line in said.get_all("Classifier", []) if ":: Python :: 3." in line]

    assert sorted(required) == ["click>=8.1", "dramatiq<3,>=1.17", "nats-py<2.17,>=2.16", "rich>=13.0"]
    assert pythons == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert {"images", "server", "speed", "nkeys", "websocket"} <= set(said.get_all("Provides-Extra", []))
    assert not [line for line in said.get_all("Classifier", []) if "Free Threading" in line]


def test_wheel_has_the_command_line_as_its_entry_point(wheel: zipfile.ZipFile) -> None:
    assert "dramatiq-jetstream = dramatiq_jetstream.cli:main" in metadata(wheel, "entry_points.txt")


def test_everything_is_imported_without_extras(installed: Path) -> None:
    (installed / "everything.py").write_text(IMPORT_EVERYTHING)

    printed = run_in_bash("env/bin/python -W error everything.py", installed)
    packages = run_in_bash("env/bin/pip list --format freeze", installed).lower()

    count, path = printed.split(maxsplit=1)
    modules = [name for name in packaged_files() if name.startswith("dramatiq_jetstream/") and name.endswith(".py")]
    assert int(count) == len(modules) - 1
    assert str(installed) in path
    assert "pillow" not in packages
    assert "dramatiq-jetstream==" in packages


@pytest.mark.parametrize("command", ["env/bin/dramatiq-jetstream", "env/bin/python -m dramatiq_jetstream"])
def test_command_line_says_its_version(installed: Path, command: str) -> None:
    assert "version" in run_in_bash(f"{command} --version", installed)


@pytest.mark.parametrize(
    "command", ["env/bin/python -m bw_tasks demo", "env/bin/dramatiq bw_tasks --processes 1 --threads 1"]
)
def test_image_service_says_that_it_needs_pillow(installed: Path, command: str) -> None:
    printed = run_in_bash(f"! {command}", installed)

    assert "run pip install 'dramatiq-jetstream[images]'." in printed
    assert "Traceback" not in printed
