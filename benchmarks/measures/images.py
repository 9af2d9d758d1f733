"""bw_tasks beside ImageMagick, and by two worker processes beside one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from bw_tasks.images import convert_image
from bw_tasks.sample import draw_sample

from ..bench import TIMEOUT, Bench, Figures
from ..children import last_words, process
from ..needs import find_program

#: 12 megapixels.
SIZE = (4000, 3000)

#: The parts of all images at which the clock begins and stops to run.
BEGIN, END = 0.2, 0.8


def convert(bench: Bench) -> Figures:
    """CPU and time of one of `count` conversions, the output a JPEG as well."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        source, output = _draw_source(Path(name)), Path(name, "output.jpg")
        if bench.name == "imagemagick":
            command = [str(find_program("convert")), str(source), "-monochrome", str(output)]
            return _cost(bench.params["count"], _children_seconds, lambda: subprocess.run(command, check=True))
        return _cost(
            bench.params["count"], time.process_time, lambda: convert_image(source.as_uri(), "output", outdir=name)
        )


def convert_workers(bench: Bench) -> Figures:
    """Images a second through the queue in so many worker `processes` of one thread, of `count`."""
    from bw_tasks import broker, to_blackandwhite

    os.environ["NATS_URL"] = bench.url
    count, done = bench.params["count"], threading.Semaphore(0)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        source, output, log = _draw_source(Path(name)), Path(name, "output"), Path(name, "log")
        output.mkdir()
        command = [sys.executable, "-m", "dramatiq", "bw_tasks", "--threads", "1"]
        command += ["--processes", str(bench.params["processes"])]
        with broker.subscribe(bench.token, lambda *_: done.release()):
            for number in range(count):
                to_blackandwhite.send(f"{bench.token}-{number}", source.as_uri(), bench.token)
            with process(command, log, {**os.environ, "OUTDIR": str(output)}):
                _await(done, round(count * BEGIN), log)
                began = time.perf_counter()
                timed = round(count * END) - round(count * BEGIN)
                _await(done, timed, log)
                rate = timed / (time.perf_counter() - began)
                _await(done, count - round(count * END), log)
    broker.close()
    return {"runs": rate}


def _cost(count: int, cpu_seconds: Callable[[], float], run: Callable[[], object]) -> Figures:
    run()
    began, began_cpu = time.perf_counter(), cpu_seconds()
    for _ in range(count):
        run()
    cpu, wall = cpu_seconds() - began_cpu, time.perf_counter() - began
    return {"cpu_ms": cpu / count * 1000, "wall_ms": wall / count * 1000}


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _draw_source(folder: Path) -> Path:
    """The demo's picture, large and with the noise that a camera's has."""
    picture = draw_sample().resize(SIZE, Image.Resampling.BICUBIC)
    noise = Image.effect_noise(SIZE, 60).convert("RGB")
    path = folder / "source.jpg"
    Image.blend(picture, noise, 0.15).save(path, quality=90)
    return path


def _await(done: threading.Semaphore, count: int, log: Path) -> None:
    for _ in range(count):
        if not done.acquire(timeout=TIMEOUT):
            raise RuntimeError(f"The workers convert no images. Their last words:\n{last_words(log)}")
