"""Images that were submitted together, followed until each is done or has failed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from dramatiq_jetstream.admin import show

from .tasks import IMAGES, broker, to_blackandwhite

#: Seconds between two looks at the failures while nothing is done.
LOOK_INTERVAL = 0.25

QUEUE = to_blackandwhite.queue_name

#: Where the server says "Delivery Attempts Exceeded".
EXCEEDED = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{IMAGES.stream}.{IMAGES.consumer}"


@dataclass
class Image:
    """One image on its way.

    Parameters:
      path(Path): The colour image.
      id(str): Its id, and so the output's name.
      message_id(str): dramatiq's id of its message.
      error(str): Why it failed, once it has.
      done(bool): Whether it is converted.
    """

    path: Path
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    message_id: str = ""
    error: str = ""
    done: bool = False

    @property
    def output(self) -> str:
        """The output's name in OUTDIR."""
        return f"{self.id}{self.path.suffix}"

    @property
    def finished(self) -> bool:
        return self.done or bool(self.error)


class Batch:
    """Submits images and listens to what becomes of them; a context manager.

    Parameters:
      paths(Iterable[Path]): The colour images.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.images = [Image(path.resolve()) for path in paths]
        self.seconds = 0.0
        self._by_id = {image.id: image for image in self.images}
        self._advisories: SimpleQueue[bytes] = SimpleQueue()
        self._exceeded: list[bytes] = []
        self._last_failure = 0

    def __enter__(self) -> Batch:
        self._subscriptions = [
            broker.subscribe("advisory.*", lambda _, body: self._advisories.put(body)),
            broker.subscribe(EXCEEDED, lambda _, body: self._exceeded.append(body)),
        ]
        return self

    def __exit__(self, *exc_info: object) -> None:
        for subscription in self._subscriptions:
            subscription.close()

    @property
    def failed(self) -> list[Image]:
        return [image for image in self.images if image.error]

    @property
    def succeeded(self) -> list[Image]:
        return [image for image in self.images if image.done]

    def submit(self) -> None:
        """Enqueue every image.

        Raises:
          BrokerError: If one cannot be stored.
        """
        self._started = time.monotonic()
        for image in self.images:
            message = to_blackandwhite.send(id=image.id, image=image.path.as_uri(), advisory=f"advisory.{image.id}")
            image.message_id = message.message_id

    def follow(self, check: Callable[[], None] = lambda: None) -> Iterator[int]:
        """Yield how many images finished since the last time, until all have.

        Parameters:
          check(Callable): Called now and then; what it raises ends the wait.
        """
        counted = 0
        while counted < len(self.images):
            self._take_advisories()
            self._take_failures()
            self.seconds = time.monotonic() - self._started
            finished = sum(image.finished for image in self.images)
            yield finished - counted
            counted = finished
            check()

    def _take_advisories(self) -> None:
        try:
            self._note_done(self._advisories.get(timeout=LOOK_INTERVAL))
            while True:
                self._note_done(self._advisories.get_nowait())
        except Empty:
            return

    def _note_done(self, advisory: bytes) -> None:
        try:
            image = self._by_id.get(json.loads(advisory)["id"])
        except (ValueError, TypeError, KeyError):
            # Somebody else's message on the walkthrough's subject.
            return
        if image is not None:
            image.done = True

    def _take_failures(self) -> None:
        by_message = {image.message_id: image for image in self.images if not image.finished}
        for entry in broker.dead_letters.list(QUEUE, after=self._last_failure):
            self._last_failure = entry.number
            image = by_message.get(entry.message_id or "")
            if image is not None:
                reason = entry.exception_text or entry.reason
                image.error = f"{reason} ({entry.attempts} attempts)"
        # What workers in other languages give up on has no dead letter with a reason.
        exceeded, self._exceeded = self._exceeded, []
        for advisory in map(json.loads, exceeded):
            request = show(broker, QUEUE, advisory["stream_seq"])
            image = by_message.get(request.message_id or "") if request else None
            if image is not None and not image.error:
                image.error = f"given up after {advisory['deliveries']} attempts"
