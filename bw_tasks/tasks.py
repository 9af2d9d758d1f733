"""The broker and the actor.  Importing this does no I/O and reads no environment."""

from __future__ import annotations

import json
import os

import dramatiq
from dramatiq import Broker, Middleware, Worker

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.logs import get_logger

from .errors import BadAdvisory, ImageError, OutputNotSet, ServiceError, UnwritableOutput, shown
from .images import convert_image
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


class OutputFolder(Middleware):
    """Refuses to start a worker that has nowhere to write: it would only use up the attempts of every image."""

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        try:
            check_output_folder()
        except ServiceError as error:
            raise SystemExit(str(error)) from None


broker = JetStreamBroker(queues={"blackandwhite": IMAGES})
broker.add_middleware(OutputFolder())
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
      UnwritableOutput: If there is none of that name, or this user may not write there.
    """
    outdir = output_folder()
    with OutputDirectory(outdir):
        if not os.access(outdir, os.W_OK | os.X_OK):
            raise UnwritableOutput(
                f"The output directory {shown(outdir)} may not be written to by this user. "
                "Change its permissions, or set OUTDIR to another."
            )


@dramatiq.actor(
    broker=broker,
    queue_name="blackandwhite",
    max_retries=4,
    min_backoff=500,
    max_backoff=5_000,
    time_limit=30_000,
    throws=ImageError,
)
def to_blackandwhite(id: str, image: str, advisory: str | None = None, **_: object) -> None:
    """Convert an image to black and white, then tell whoever listens that it is done.

    Parameters:
      id(str): The picture's name in OUTDIR, without its extension.
      image(str): Where the image is, a file:// URI; below INDIR, if that is set in the environment.
      advisory(str): The subject on which ``{"id": …}`` is published afterwards, if any.
      **_: Whatever else a request says is ignored, as the other workers do.

    Raises:
      ImageError: If the image cannot be converted, or the request makes no sense.
    """
    check_advisory(advisory)
    written = convert_image(image, id, outdir=output_folder(), indir=os.environ.get("INDIR") or None)
    logger.info("Converted %s into %s", image, written)
    if advisory:
        broker.publish(advisory, json.dumps({"id": id}, separators=(",", ":")).encode())


def check_advisory(advisory: object) -> None:
    """Refuse an advisory subject that would make this worker command the server on a stranger's behalf.

    Raises:
      BadAdvisory: If the subject is the server's own, or none that can be published to.
    """
    if not advisory:
        return
    tokens = advisory.split(".") if isinstance(advisory, str) else [""]
    if tokens[0].startswith("$") or any(not token or token in "*>" or not token.isprintable() for token in tokens):
        raise BadAdvisory(f"advisory {shown(advisory)} is not a subject to publish to: use one like 'advisory.<id>'")
    if any(character.isspace() for character in str(advisory)):
        raise BadAdvisory(f"advisory {shown(advisory)} has spaces in it: use a subject like 'advisory.<id>'")
