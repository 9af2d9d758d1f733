"""Saying what is waited for, and until when, while no server answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from dramatiq import Broker

from dramatiq_jetstream import JetStreamBroker

#: Seconds after which a wait is announced.
PATIENCE = 1.0


class Announcement:
    """Says once that a connection is waited for, if it takes longer than a second; a context manager.

    Parameters:
      broker(Broker): Whose connection it is.
      say(Callable): Takes the sentence, without its full stop.
    """

    def __init__(self, broker: Broker, say: Callable[[str], object]) -> None:
        assert isinstance(broker, JetStreamBroker)
        self._broker = broker
        self._say = say
        self._until = time.time() + broker.settings.timeout / 1000
        self._timer = threading.Timer(PATIENCE, self._announce)
        self._timer.daemon = True

    def start(self) -> None:
        """Begin to wait."""
        self._timer.start()

    def __enter__(self) -> Announcement:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Say nothing any more."""
        self._timer.cancel()

    def _announce(self) -> None:
        try:
            servers = ", ".join(self._broker.settings.servers())
        except ValueError:
            # Nothing is waited for: whoever connects gets to know what is wrong with the address.
            return
        if self._broker.connection.current() is None:
            self._say(f"Waiting for a NATS server at {servers} until {datetime.fromtimestamp(self._until):%H:%M:%S}")
