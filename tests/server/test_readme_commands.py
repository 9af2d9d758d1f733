"""What README tells a stranger to type works as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.admin import Admin
from tests.support.bw import ROOT, Program, environment
from tests.support.images import make_images
from tests.support.strangers import run_in_clone
from tests.support.waiting import eventually

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """README's code blocks in a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def file_name(block: str) -> str | None:
    """The name that a block's first line gives its file, as in `# app.py`."""
    match = re.match(r"# (\w+\.py)\n", block)
    return match[1] if match else None


def is_complete(block: str) -> bool:
    """Whether a block is a whole program, and not a few lines out of one."""
    return file_name(block) is not None or block.startswith(("from ", "import "))


def the_two_commands() -> list[str]:
    commands = [block.strip() for block in blocks("sh")[:2]]
    assert [command.count("\n") for command in commands] == [0, 0], "each is one line"
    return commands


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Future[str]]]:
    """What the two commands print; run at once, since both mostly install."""
    first, second = the_two_commands()
    folder = tmp_path_factory.mktemp("clones")
    with ThreadPoolExecutor(2) as threads:
        yield [
            threads.submit(run_in_clone, first, folder / "first"),
            # Restricted to one file: the whole suite would run this test within itself for ever.
            threads.submit(run_in_clone, second, folder / "second", PYTEST_ADDOPTS="-v tests/unit/test_names.py"),
        ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_first_command_sets_everything_up_and_converts_images(printed: list[Future[str]]) -> None:
    text = printed[0].result()

    written = [Path(path) for path in re.findall(r" -> (.+)$", text, re.MULTILINE)]
    assert re.search(rf"^{len(written)} of {len(written)} images converted in ", text, re.MULTILINE)
    assert written
    assert all(path.stat().st_size for path in written)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_second_command_installs_what_tests_need_and_runs_them(printed: list[Future[str]]) -> None:
    text = printed[1].result()

    assert re.search(r"PASSED tests/unit/test_names\.py::", text)
    assert re.search(r"\d+ passed", text)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0][:40])
def test_python_block_compiles(block: str) -> None:
    compile(block, "README.md", "exec", dont_inherit=True)


class TestPrograms:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A folder with every file that README shows."""
        for block in blocks("python"):
            if name := file_name(block):
                (tmp_path / name).write_text(block, encoding="utf-8")
        return tmp_path

    @pytest.fixture
    def variables(self, nats_url: str, admin: Admin) -> dict[str, str]:
        """What lets README's programs and commands run here and find the server of the tests."""
        make_images(admin)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {"NATS_URL": nats_url, "PATH": path, "PYTHONUNBUFFERED": "1"}

    @pytest.fixture
    def started(self) -> Iterator[ExitStack]:
        with ExitStack() as stack:
            yield stack

    @pytest.mark.parametrize(
        "block",
        [block for block in blocks("python") if is_complete(block)],
        ids=lambda block: re.sub(r"\W+", "-", block)[:40],
    )
    def test_complete_python_block_runs(self, folder: Path, variables: dict[str, str], block: str) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=folder,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert done.returncode == 0, done.stderr

    def test_shell_lines_of_the_quick_start_work(
        self, folder: Path, variables: dict[str, str], started: ExitStack
    ) -> None:
        modules = {path.stem for path in folder.glob("*.py")}
        lines = [line for block in blocks("sh") for line in block.splitlines()]
        workers = [line for line in lines if line.startswith("dramatiq ") and shlex.split(line)[1] in modules]
        calls = [line for line in lines if line.startswith("python ") and set(re.findall(r"\w+", line)) & modules]
        assert workers
        assert calls

        running = [
            started.enter_context(Program(shlex.split(line), folder / f"{number}.log", variables, folder))
            for number, line in enumerate(workers)
        ]
        for line in calls:
            subprocess.run(["bash", "-c", line], cwd=folder, env=environment(**variables), check=True, timeout=60)

        eventually(lambda: any("Hello, world!" in program.log for program in running))
        eventually(lambda: any("Hello, later!" in program.log for program in running))


def test_request_for_the_nats_command_fits_and_is_the_services_json() -> None:
    [request] = re.findall(r"^nats req IMAGES\.blackandwhite '(.*)'$", README, re.MULTILINE)
    fields = re.findall(r'"(\w+)":"', request)

    assert fields == ["id", "image", "advisory"]
    assert len(request) <= 512
