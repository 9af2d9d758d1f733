"""`python -m bw_tasks demo --storage …`: the whole service on embedded servers, the images in a bucket."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.bw import ROOT, environment, save_picture


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bw_tasks", "demo", *arguments]
    variables = environment(PYTHONPATH=str(ROOT))
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("storage", "place"), [("s3", "s3://pictures/bw"), ("nats", "nats://pictures/bw")])
def test_images_go_through_a_bucket_and_come_back_converted(tmp_path: Path, storage: str, place: str) -> None:
    sources = [save_picture(tmp_path / name) for name in ("a b#%41.png", "ü.PNG")]

    run = demo(tmp_path, "--storage", storage, "--outdir", "out", *map(str, sources))

    assert run.returncode == 0, run.stdout + run.stderr
    assert f"The workers write to {place}" in run.stdout
    written = sorted((tmp_path / "out").iterdir())
    assert [path.suffix for path in sorted(written, key=lambda path: path.suffix)] == [".PNG", ".png"]
    for path in written:
        with Image.open(path) as picture:
            assert picture.size == (256, 256)
    assert re.search(r"2 of 2 images", run.stdout)


def test_demo_of_s3_without_its_server_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    program = (
        "import sys, importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'moto' else real(name, *a)\n"
        "from bw_tasks.cli import main\nmain(['demo', '--storage', 's3'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=str(ROOT)),
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert "pip install 'dramatiq-jetstream[images,server,s3,s3server]'" in run.stderr
    assert "Traceback" not in run.stderr
