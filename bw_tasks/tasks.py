"""The broker and the actor.  Importing this does no I/O and reads no environment."""

from __future__ import annotations

import json
import os

import dramatiq
from dramatiq import Broker, Middleware, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Retries, default_middleware

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.logs import get_logger

from .advisories import allowed_subjects, check_advisory
from .announcing import Announcement
from .errors import ImageError, OutputNotSet, ServiceError, UnusableInput, shown
from .images import convert_image
from .limits import Limits, taken_formats
from .output import OutputDirectory

logger = get_logger("bw_tasks")

#: The walkthrough's stream and consumer, setting by setting.
IMAGES = WorkQueue(
    stream="IMAGES",
    stream_subjects=("IMAGES.>",),
    subject="IMAGES.blackandwhite",
    consumer="BW",
    payload="json",
    max_deliver=5,
    ack_wait=30_000,
    max_msg_size=512,
    duplicate_window=3_600_000,
    discard="old",
    dead_letters="keep",
)


class Preparation(Middleware):
    """Refuses to start a worker that could convert nothing: it would only use up the attempts of every image."""

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        try:
            check_output_folder()
            check_input_folder()
            Limits.from_environment()
            taken_formats()
            allowed_subjects()
        except ServiceError as error:
            raise SystemExit(str(error)) from None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._announcement = Announcement(broker, lambda text: logger.warning("%s; then the worker tries again.", text))
        self._announcement.start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._announcement.stop()


class Attempts(Retries):
    """dramatiq's middleware, which leaves refused images to the broker: it has the stream deliver them again.

    What dramatiq would log of them is not what happens in a stream that keeps its failed messages.
    """

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        if isinstance(exception, ImageError):
            message.options["retries"] = message.options.get("retries", 0) + 1
            message.fail()
        else:
            super().after_process_message(broker, message, result=result, exception=exception)  # type: ignore[no-untyped-call]


broker = JetStreamBroker(
    queues={"blackandwhite": IMAGES},
    middleware=[Attempts() if kind is Retries else kind() for kind in default_middleware],
)
broker.add_middleware(Preparation())
dramatiq.set_broker(broker)


def output_folder() -> str:
    """The folder that pictures are written to, OUTDIR from the environment.

    Raises:
      OutputNotSet: If there is none.
    """
    outdir = os.environ.get("OUTDIR", "")
    if not outdir:
        raise OutputNotSet("Please set OUTDIR to the folder that the pictures shall be written to.")
    return outdir


def check_output_folder() -> None:
    """Make sure that there is a folder to write to.

    Raises:
      OutputNotSet: If none is named.
      UnwritableOutput: If there is none of that name, or nothing can be written there.
    """
    with OutputDirectory(output_folder()) as output:
        output.try_out()


def input_folder() -> str | None:
    """The folder that images are read from, INDIR from the environment; None if they may lie anywhere."""
    return os.environ.get("INDIR") or None


def check_input_folder() -> None:
    """Make sure that the folder to read from is there, if one is named.

    Raises:
      UnusableInput: If there is none of that name, or this user may not read it.
    """
    indir = input_folder()
    if indir is None:
        return
    try:
        os.listdir(indir)
    except OSError as error:
        raise UnusableInput(
            f"The input directory {shown(indir)} cannot be read: {error.strerror}. "
            "Make it, or set INDIR to a directory that exists, or to nothing."
        ) from error


@dramatiq.actor(
    broker=broker,
    queue_name="blackandwhite",
    max_retries=4,
    min_backoff=500,
    max_backoff=5_000,
    time_limit=30_000,
)
def to_blackandwhite(id: str, image: str, advisory: str | None = None, **_: object) -> None:
    """Convert an image to black and white, then tell whoever listens that it is done.

    Parameters:
      id(str): The picture's name in OUTDIR, without its extension.
      image(str): Where the image is, a file:// URI; below INDIR, if that is set in the environment.
      advisory(str): The subject on which ``{"id": …}`` is published afterwards, if any: one of ADVISORIES.
      **_: Whatever else a request says is ignored, as the other workers do.

    Raises:
      ImageError: If the image cannot be converted, or the request makes no sense.
    """
    check_advisory(advisory)
    written = convert_image(image, id, outdir=output_folder(), indir=input_folder())
    logger.info("Converted %s into %s", image, written)
    if advisory:
        broker.publish(advisory, json.dumps({"id": id}, separators=(",", ":")).encode())
