"""Images that were submitted together, followed until each is done or has failed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from dramatiq_jetstream.admin import QueueView, show, view
from dramatiq_jetstream.errors import BatchFailed, BrokerConnectionError, BrokerError

from .errors import WaitEnded
from .paths import source_uri
from .tasks import IMAGES, broker, to_blackandwhite

#: Seconds between two looks at the failures while nothing is done.
LOOK_INTERVAL = 0.25

#: Seconds between two looks at the queue, and for which nobody must have asked for its messages to be told.
QUEUE_INTERVAL = 0.5
UNATTENDED_AFTER = 2.0

#: How many images are submitted with one wait for the server.
AT_ONCE = 500

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
      attended(bool): Whether workers are known to be there, or about to start.
      uri_of(Callable): Gives the URI under which the workers find an image.
    """

    def __init__(
        self, paths: Iterable[Path], *, attended: bool = False, uri_of: Callable[[Path], str] = source_uri
    ) -> None:
        self._uri_of = uri_of
        self.attended = attended
        self.images = [Image(path.resolve()) for path in paths]
        self.seconds = 0.0
        #: How many of the images wait for another attempt.
        self.retrying = 0
        #: What keeps the images from being converted, in a sentence, if anything does.
        self.obstacle = ""
        self._started = self._looked = self._attended = time.monotonic()
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
    def left(self) -> list[Image]:
        return [image for image in self.images if not image.finished]

    @property
    def count(self) -> int:
        """How many images are finished."""
        return len(self.images) - len(self.left)

    @property
    def retrying_text(self) -> str:
        """How many wait for another attempt, to be put behind other numbers; nothing if none does."""
        return f", retrying {self.retrying}" if self.retrying else ""

    @property
    def submitted(self) -> int:
        """How many images were submitted, or could not be."""
        return sum(bool(image.message_id or image.error) for image in self.images)

    @property
    def to_repeat(self) -> list[Image]:
        """The images that have failed, or were not submitted."""
        return [image for image in self.images if image.error or not (image.done or image.message_id)]

    @property
    def succeeded(self) -> list[Image]:
        return [image for image in self.images if image.done]

    def submit(self) -> Iterator[None]:
        """Enqueue every image, many at once, and yield in between.  One that cannot be stored has failed then.

        Raises:
          BrokerError: If the server does not answer, or takes none.
        """
        self._started = time.monotonic()
        for first in range(0, len(self.images), AT_ONCE):
            self._submit(self.images[first : first + AT_ONCE])
            yield

    def _submit(self, images: Sequence[Image]) -> None:
        by_message: dict[str, Image] = {}
        messages = []
        for image in images:
            if not image.path.is_file():
                image.error = "not submitted: there is no such file"
                continue
            uri = self._uri_of(image.path)
            messages.append(to_blackandwhite.message(id=image.id, image=uri, advisory=f"advisory.{image.id}"))
            by_message[messages[-1].message_id] = image
        reasons: dict[str, Exception] = {}
        try:
            broker.enqueue_many(messages)
        except BatchFailed as error:
            reasons = {each.message.message_id: each.error for each in error.failures}
        # Whether these are stored is not known, and the next batch would wait for the server in vain.
        unanswered = [error for error in reasons.values() if isinstance(error, BrokerConnectionError)]
        for message_id, image in by_message.items():
            reason = reasons.get(message_id)
            if reason is None:
                image.message_id = message_id
            elif reason not in unanswered:
                image.error = f"not submitted: {reason}"
        if unanswered:
            raise unanswered[0]

    def follow(self, check: Callable[[], None] = lambda: None, timeout: float | None = None) -> Iterator[None]:
        """Yield now and then, until all images are finished.

        Parameters:
          check(Callable): Called now and then; what it raises ends the wait.
          timeout(float): The seconds to wait at most.

        Raises:
          WaitEnded: If images are left then, or the stream that they are in is deleted.
        """
        self._attended = time.monotonic()
        while self.left:
            self._take_advisories()
            self._take_failures()
            self._look_at_queue()
            self.seconds = time.monotonic() - self._started
            yield
            check()
            if timeout is not None and self.seconds >= timeout and self.left:
                raise WaitEnded(f"After {timeout:g} s, not all images are done; those that are left stay queued.")

    def _look_at_queue(self) -> None:
        now = time.monotonic()
        if now - self._looked < QUEUE_INTERVAL:
            self.retrying = min(self.retrying, len(self.left))
            return
        self._looked = now
        try:
            state = view(broker, QUEUE)
        except BrokerError:
            # Whoever may submit need not be allowed to look at the queue.
            return
        if state.missing and self.left:
            raise WaitEnded(f"The {state.missing} of the queue {QUEUE!r} is gone from the server: submit again.")
        self.retrying = min(state.retrying + state.overdue, len(self.left))
        if state.pulls or state.running:
            self._attended = now
        self.obstacle = self._obstacle(state, now - self._attended) if self.left else ""

    def _obstacle(self, state: QueueView, unattended: float) -> str:
        if state.paused:
            return f"The queue {QUEUE!r} is paused: resume it with 'dramatiq-jetstream resume {QUEUE}'."
        if self.attended or unattended < UNATTENDED_AFTER:
            return ""
        servers = ",".join(broker.settings.servers())
        return (
            f"No worker takes messages of the queue {QUEUE!r}; they wait. Start one with\n"
            f"  NATS_URL={servers} OUTDIR=... dramatiq bw_tasks"
        )

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
