"""The broker and the actor.  Importing this does no I/O and reads no environment."""

from __future__ import annotations

import json
import os
import threading
from contextlib import ExitStack

import dramatiq
from dramatiq import Broker, Middleware, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Retries, default_middleware

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.logs import get_logger

from .advisories import allowed_subjects, check_advisory
from .announcing import announced
from .errors import ImageError, OutputNotSet, ServiceError, StorageUnavailable
from .images import convert_image
from .limits import Limits, taken_formats
from .storage import ObjectOutput, Roots, Storages, output_location, storage_timeout

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


#: Milliseconds before each further attempt at an image whose storage is away.
OUTAGE_DELAYS = (1_000, 5_000, 25_000, 60_000)


class Preparation(Middleware):
    """Refuses to start a worker that could convert nothing: it would only use up the attempts of every image."""

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        try:
            Limits.from_environment()
            taken_formats()
            allowed_subjects()
            storage_timeout()
            check_output_folder()
            check_input_folder()
        except ServiceError as error:
            raise SystemExit(str(error)) from None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._announcement = ExitStack()
        self._announcement.enter_context(
            announced(broker, lambda text: logger.warning("%s; then the worker tries again.", text))
        )
        if input_folder() is None:
            logger.warning("INDIR is not set: this worker serves every file and object that it can read.")
        threading.Thread(target=clean_output_folder, name="bw_tasks-cleaning", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._announcement.close()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        storages.close()


class Attempts(Retries):
    """dramatiq's middleware, which leaves refused images to the broker: it has the stream deliver them again.

    What dramatiq would log of them is not what happens in a stream that keeps its failed messages. A storage that
    is away gets time to come back: the attempts are spread over a minute and a half.
    """

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        if isinstance(exception, StorageUnavailable):
            tried = message.options.get("retries", 0)
            exception.delay = OUTAGE_DELAYS[min(tried, len(OUTAGE_DELAYS) - 1)]
            logger.warning("Message %s: %s", message.message_id, exception)
            super().after_process_message(broker, message, result=result, exception=exception)  # type: ignore[no-untyped-call]
        elif isinstance(exception, ImageError):
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

#: The clients of S3 and of the object store, made when they are needed.
storages = Storages(broker.connection)


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
    """Make sure that there is a place to write to.

    Raises:
      OutputNotSet: If none is named.
      ServiceError: If there is none of that name, or nothing can be written there.
    """
    with storages.output(output_location(output_folder())) as output:
        output.try_out()


def clean_output_folder() -> None:
    """Remove what workers that were killed left in an object store that is written to."""
    with storages.output(output_location(output_folder())) as output:
        if isinstance(output, ObjectOutput):
            output.remove_orphans()


def input_folder() -> str | None:
    """The places that images are read from, INDIR from the environment; None if they may lie anywhere."""
    return os.environ.get("INDIR") or None


def check_input_folder() -> None:
    """Make sure that the places to read from are there, if some are named.

    Raises:
      ServiceError: If one is not, or this user may not read it.
    """
    storages.check_readable(Roots.of(input_folder()))


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
      image(str): Where the image is, a file://, s3:// or nats:// URI; below one of INDIR's places, if there are some.
      advisory(str): The subject on which ``{"id": …}`` is published afterwards, if any: one of ADVISORIES.
      **_: Whatever else a request says is ignored, as the other workers do.

    Raises:
      ImageError: If the image cannot be converted, or the request makes no sense.
    """
    check_advisory(advisory)
    written = convert_image(image, id, outdir=output_folder(), indir=input_folder(), storages=storages)
    logger.info("Converted %s into %s", image, written)
    if advisory:
        broker.publish(advisory, json.dumps({"id": id}, separators=(",", ":")).encode())
