"""``python -m bw_tasks``: try the image service, submit images, prepare a server."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote_to_bytes

import click
from dramatiq.errors import DramatiqError

from dramatiq_jetstream import NatsServer

from .announcing import announced
from .batch import AT_ONCE, Batch
from .demo_storage import STORAGES, DemoStorage
from .errors import ServiceError, UnwritableOutput, shown
from .output import OutputDirectory
from .paths import source_uri
from .progress import Progress, accounted
from .sample import save_sample
from .saying import Refusal, say
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
  python -m bw_tasks demo --storage s3
      the same with the images in a bucket, on an embedded server of S3
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
            raise Refusal(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                # Whoever read the output has gone.
                raise
            where = f"{shown(os.fsdecode(error.filename))}: " if error.filename else ""
            raise Refusal(f"{where}{error.strerror or error}") from error
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
@click.option(
    "--storage",
    default="file",
    show_default=True,
    type=click.Choice(STORAGES),
    help="Where workers read and write: files, a server of S3, or NATS's object store.",
)
def demo(images: Sequence[Path], outdir: Path, processes: int, threads: int, storage: str) -> None:
    """Run the whole service here: a server, workers, and IMAGES (a sample image if none are given).

    The server keeps its streams in a temporary folder; it and the workers are stopped at the end.
    Exits with 0 only if every image was converted.
    """
    end_on_sigterm()
    outdir = made(outdir)
    with tempfile.TemporaryDirectory(prefix="bw_tasks-") as folder, NatsServer() as server, closing(broker):
        os.environ["NATS_URL"] = server.url
        scratch = Path(folder)
        paths = images or [save_sample(scratch / "sample.jpg")] * SAMPLE_COPIES
        say(f"nats-server at {server.url}, {processes} worker processes with {threads} threads each")
        broker.setup()
        with DemoStorage(storage, outdir, broker.connection) as place:
            batch = Batch(paths, attended=True, uri_of=place.uri_of)
            workers = Workers(server.url, place.outdir, scratch / "workers.log", processes=processes, threads=threads)
            if storage != "file":
                say(f"The workers write to {place.outdir}; what they write is copied from there in the end.")
            with workers, batch, accounted(batch, outdir, kept=False):
                hand_in(batch)
                follow(batch, workers.check)
                place.fetch(image.output for image in batch.succeeded)
    if batch.failed:
        sys.exit(1)


@main.command(cls=Command)
@click.argument("images", nargs=-1, type=IMAGE_PATH)
@click.option(
    "--from",
    "listed",
    type=click.File("r", errors="surrogateescape"),
    help="A file that lists further images, a path or file:// URI a line; - for standard input.",
)
@click.option(
    "--failed-to",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to list the images that failed or were not submitted, for --from; empty if none did.",
)
@click.option("--wait", is_flag=True, help="Wait until every image is converted, or has failed.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    help="With --wait: the seconds to wait at most; the command exits with 1 if images are left then.",
)
@url_option
def submit(
    images: Sequence[Path],
    listed: TextIO | None,
    failed_to: Path | None,
    wait: bool,
    timeout: float | None,
    url: str | None,
) -> None:
    """Submit IMAGES to the service, which must be able to read them under the same paths.

    Exits with 1 if one of them could not be submitted, or with --wait converted.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    paths = [*images, *read_list(listed)]
    if not paths:
        raise click.UsageError("Missing argument 'IMAGES...', or --from with a file that lists them.")
    end_on_sigterm()
    connect(url)
    with Batch(paths) as batch, repeatable(batch, failed_to):
        if wait:
            with accounted(batch, Path("OUTDIR"), kept=True):
                hand_in(batch)
                follow(batch, timeout=timeout)
        else:
            submit_only(batch)
    if batch.failed:
        sys.exit(1)


def submit_only(batch: Batch) -> None:
    """Submit images and say under which ids, also if not all can be."""
    try:
        hand_in(batch)
    finally:
        for image in batch.images:
            fate = f"submitted as {image.id}, to be written to OUTDIR/{image.output}"
            submitted = bool(image.message_id)
            say(f"{image.path}: {fate if submitted else image.error or 'not submitted'}", err=not submitted)


def hand_in(batch: Batch) -> None:
    """Submit images, and show how far that is if they are many."""
    if len(batch.images) <= AT_ONCE:
        deque(batch.submit())
        return
    with Progress(batch, submitting=True) as progress:
        for _ in batch.submit():
            progress.update()


def read_list(listed: TextIO | None) -> list[Path]:
    """The images that a file lists, a path or a file:// URI a line."""
    lines = [line.rstrip("\r\n") for line in listed or ()]
    return [_named(line) for line in lines if line.strip()]


def _named(line: str) -> Path:
    # Whether workers take such a name is theirs to say.
    uri = line.startswith("file:///")
    return Path(os.fsdecode(unquote_to_bytes(line.removeprefix("file://")))) if uri else Path(line)


@contextmanager
def repeatable(batch: Batch, failed_to: Path | None) -> Iterator[None]:
    """List the images to be submitted again in a file, however the submission ends.

    Raises:
      UnwritableOutput: If there can be no such file, before anything is submitted.
    """
    if failed_to is None:
        yield
        return
    failed_to = failed_to.resolve()
    if failed_to.exists() and not failed_to.is_file():
        # It would be replaced by a file.
        raise UnwritableOutput(f"The list {shown(str(failed_to))} is no file but something else. Name another.")
    with OutputDirectory(failed_to.parent) as folder:
        folder.try_out()
        try:
            yield
        finally:
            # As URIs: a name may hold a line feed, or bytes that are no text.
            lines = [f"{source_uri(image.path)}\n" for image in batch.to_repeat]
            folder.write(failed_to.name, "".join(lines).encode())


@main.command(cls=Command)
@url_option
def setup(url: str | None) -> None:
    """Make the walkthrough's stream and consumer, or check those that exist."""
    connect(url)
    broker.setup()
    say(f"The stream {IMAGES.stream} and its consumer {IMAGES.consumer} are ready.")


def connect(url: str | None) -> None:
    """Connect, and say after a second that the server does not answer."""
    if url:
        os.environ["NATS_URL"] = url
    with announced(broker, lambda text: say(f"{text}.", err=True)):
        broker.connection.session()


def end_on_sigterm() -> None:
    """Have SIGTERM end the program as Ctrl-C does, with what there is to clean up and to say."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def made(outdir: Path) -> Path:
    """Make a folder unless it exists, and return its absolute path.

    Raises:
      UnwritableOutput: If it cannot be made, or takes no files.
    """
    try:
        outdir = outdir.resolve()
        outdir.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        # A RuntimeError is how Python tells of a loop of symbolic links.
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnwritableOutput(
            f"The output directory {shown(str(outdir))} cannot be made: {reason}. Name another with --outdir."
        ) from error
    with OutputDirectory(outdir) as output:
        output.try_out()
    return outdir


def follow(batch: Batch, check: Callable[[], None] = lambda: None, timeout: float | None = None) -> None:
    """Show how far a batch is, until every image is done or has failed."""
    with Progress(batch) as progress:
        for _ in batch.follow(check, timeout):
            progress.update()
