"""dramatiq-abort's events in a KV bucket: abort queued and running messages without another server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from dramatiq_abort.backend import Event, EventBackend

from .backends import Bucket
from .broker import JetStreamBroker
from .errors import CallTimeout
from .hidden import Hidden, hidden_options

#: Milliseconds for which an event that was handed out is not handed out again: as long as
#: dramatiq-abort keeps events by default.
MEMORY = 90_000


class JetStreamBackend(EventBackend):  # type: ignore[misc]  # dramatiq-abort is not typed
    """An event backend for dramatiq-abort on NATS JetStream.

    Examples:

      >>> broker.add_middleware(Abortable(backend=JetStreamBackend(broker=broker)))

    Parameters:
      url(str | Sequence[str]): The servers, as for the broker.  Not with a broker.
      bucket(str): The KV bucket; it is made when it is first needed.  Defaults to "dramatiq-aborts",
        or to the broker's namespace in place of "dramatiq".
      broker(JetStreamBroker): The broker whose connection and settings to share.  Without one the
        backend makes a connection of its own, when it is first used, in each process.
      **options: Further settings of a connection of its own: ``declare``, ``replicas``, ``domain``,
        ``timeout``, and whatever ``nats.connect`` takes.
    """

    def __init__(
        self,
        *,
        url: str | Sequence[str] | None = None,
        bucket: str | None = None,
        broker: JetStreamBroker | None = None,
        **options: Any,
    ) -> None:
        server, given = Hidden(url), hidden_options(options)
        del url, options
        self._bucket = Bucket("aborts", bucket, server, broker, given)
        #: The revision of each event that was handed out, and when.
        self._handed_out: dict[str, tuple[int, float]] = {}

    def wait_many(self, keys: Iterable[str], timeout: int) -> Event | None:
        """Wait for one of several events, and hand each out once, and again when it is signaled again.

        Parameters:
          keys(Iterable[str]): The events' keys.
          timeout(int): The milliseconds to wait at most.

        Returns:
          Event: The event, or None if there was none in time.
        """
        self._forget()
        waited = list(keys)
        if not waited:
            # Whoever asks does so again at once.
            time.sleep(timeout / 1000)
            return None
        seen = {key: revision for key, (revision, _) in self._handed_out.items()}
        try:
            found = self._bucket.values.wait_any(waited, timeout, seen)
        except CallTimeout:
            return None
        if found is None:
            return None
        key, (value, revision) = found
        self._handed_out[key] = revision, time.monotonic()
        return Event(key, json.loads(value or b"{}"))

    def poll(self, key: str) -> Event | None:
        """Look whether an event was signaled."""
        value = self._bucket.values.get(key)
        return None if value is None else Event(key, json.loads(value))

    def notify(self, events: Iterable[Event], ttl: int) -> None:
        """Signal events, for so many milliseconds."""
        for event in events:
            self._bucket.values.put(event.key, json.dumps(event.params).encode(), ttl)

    def close(self) -> None:
        """Close the connection, if it is not the broker's."""
        self._bucket.close()

    def _forget(self) -> None:
        limit = time.monotonic() - MEMORY / 1000
        self._handed_out = {key: seen for key, seen in self._handed_out.items() if seen[1] > limit}
