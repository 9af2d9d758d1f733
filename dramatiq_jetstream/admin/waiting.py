"""Saying what is being waited for while no server answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from ..broker import JetStreamBroker

#: Seconds without a connection after which it is said what is being waited for.
PATIENCE = 1.0


@contextmanager
def announced(
    broker: JetStreamBroker, say: Callable[[str], object], patience: float | None = None
) -> Iterator[Callable[[], None]]:
    """Have it said, while a with block lasts, what is being waited for if the server does not answer at once.

    Parameters:
      broker(JetStreamBroker): The broker, whose first connection is meant.
      say(Callable): Called once at most, on a thread of its own, with a sentence.
      patience(float): After how many seconds.  Defaults to one.

    Returns:
      Callable: Ends the watch before the block does.
    """
    with unanswered(broker, lambda servers, until: say(_sentence(servers, until)), patience) as end:
        yield end


@contextmanager
def unanswered(
    broker: JetStreamBroker, tell: Callable[[str, datetime], object], patience: float | None = None
) -> Iterator[Callable[[], None]]:
    """Tell, while a with block lasts, which servers are waited for and until when, as :func:`announced` does."""
    over = threading.Event()
    seconds = PATIENCE if patience is None else patience

    def watch() -> None:
        if over.wait(seconds) or broker.connection.current() is not None:
            return
        try:
            servers = ", ".join(map(str, broker.settings.addresses()))
        except ValueError:
            # Nothing is waited for: whoever connects gets to know what is wrong with the address.
            return
        tell(servers, datetime.fromtimestamp(time.time() + broker.settings.timeout / 1000 - seconds))

    thread = threading.Thread(target=watch, name="dramatiq-jetstream-announcement", daemon=True)
    thread.start()
    try:
        yield over.set
    finally:
        over.set()
        thread.join()


def _sentence(servers: str, until: datetime) -> str:
    return f"No answer from {servers} yet; waiting until {until:%H:%M:%S}."
