"""``python -m bw_tasks``: try the image service, submit images, prepare a server."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import click
from dramatiq.errors import DramatiqError

from dramatiq_jetstream import NatsServer

from .batch import Batch
from .errors import ServiceError
from .sample import save_sample
from .tasks import IMAGES, broker
from .workers import Workers

#: How often the demo converts its sample when it is given no images.
SAMPLE_COPIES = 12

EPILOG = """\b
Examples:
  python -m bw_tasks demo
      the whole service on an embedded server, with a sample image
  python -m bw_tasks demo holiday/*.jpg --outdir bw
      the same with images of yours
  python -m bw_tasks setup --url nats://nats.example:4222
      make the stream IMAGES and the consumer BW there
  NATS_URL=nats://nats.example:4222 OUTDIR=/srv/bw dramatiq bw_tasks
      run workers
  python -m bw_tasks submit color.jpg --wait
      submit an image and wait until it is converted
"""

FOLDER = click.Path(file_okay=False, path_type=Path)
IMAGE_PATH = click.Path(exists=True, dir_okay=False, path_type=Path)

url_option = click.option(
    "--url",
    envvar="NATS_URL",
    show_envvar=True,
    help="The NATS server, or several with commas between.  [default: nats://127.0.0.1:4222]",
)


class Command(click.Command):
    """Shows what a user can mend as a sentence instead of a stack trace."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (DramatiqError, ServiceError) as error:
            raise click.ClickException(str(error)) from error
        finally:
            broker.close()


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The image service of the JetStream work-queue walkthrough: colour images in, black and white out.

    Requests wait in the stream IMAGES; workers in Python, Go and Ruby may share them.
    """
    # What goes wrong is said once, as the command's error.
    logging.basicConfig(level=logging.CRITICAL)


@main.command(cls=Command)
@click.argument("images", nargs=-1, type=IMAGE_PATH)
@click.option("--outdir", default="bw_output", show_default=True, type=FOLDER, help="Where to write.")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Threads in each of them.")
def demo(images: Sequence[Path], outdir: Path, processes: int, threads: int) -> None:
    """Run the whole service here: a server, workers, and IMAGES (a sample image if none are given).

    The server keeps its streams in a temporary folder; it and the workers are stopped at the end.
    Exits with 0 only if every image was converted.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    outdir = outdir.resolve()
    outdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bw_tasks-") as folder, NatsServer() as server, closing(broker):
        os.environ["NATS_URL"] = server.url
        scratch = Path(folder)
        paths = images or [save_sample(scratch / "sample.jpg")] * SAMPLE_COPIES
        click.echo(f"nats-server at {server.url}, {processes} worker processes with {threads} threads each")
        broker.setup()
        workers = Workers(server.url, outdir, scratch / "workers.log", processes=processes, threads=threads)
        with workers, Batch(paths) as batch:
            batch.submit()
            follow(batch, workers.check)
            report(batch, outdir)
    if batch.failed:
        sys.exit(1)


@main.command(cls=Command)
@click.argument("images", nargs=-1, required=True, type=IMAGE_PATH)
@click.option("--wait", is_flag=True, help="Wait until every image is converted, or has failed.")
@url_option
def submit(images: Sequence[Path], wait: bool, url: str | None) -> None:
    """Submit IMAGES to the service, which must be able to read them under the same paths."""
    use(url)
    with Batch(images) as batch:
        batch.submit()
        if not wait:
            for image in batch.images:
                click.echo(f"{image.path}: submitted as {image.id}, to be written to OUTDIR/{image.output}")
            return
        follow(batch)
        report(batch, Path("OUTDIR"))
    if batch.failed:
        sys.exit(1)


@main.command(cls=Command)
@url_option
def setup(url: str | None) -> None:
    """Make the walkthrough's stream and consumer, or check those that exist."""
    use(url)
    broker.setup()
    click.echo(f"The stream {IMAGES.stream} and its consumer {IMAGES.consumer} are ready.")


def use(url: str | None) -> None:
    if url:
        os.environ["NATS_URL"] = url


def follow(batch: Batch, check: Callable[[], None] = lambda: None) -> None:
    """Show a progress bar until every image is done or has failed."""
    with click.progressbar(length=len(batch.images), label="Converting", show_pos=True) as bar:
        for finished in batch.follow(check):
            bar.update(finished)


def report(batch: Batch, outdir: Path) -> None:
    """Say where each output lies, how many there are, how fast it went, and what failed and why."""
    for image in batch.succeeded:
        click.echo(f"{image.path.name} -> {outdir / image.output}")
    for image in batch.failed:
        click.echo(f"{image.path.name} failed: {image.error}", err=True)
    done, seconds = len(batch.succeeded), max(batch.seconds, 0.001)
    click.echo(
        f"{done} of {len(batch.images)} images converted in {seconds:.1f} s ({done / seconds:.1f} a second)"
        + (f", {len(batch.failed)} failed" if batch.failed else "")
    )
