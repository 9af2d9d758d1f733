"""What the backends have in common: a bucket on the broker's connection, or on one of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .broker import JetStreamBroker
from .connection import Connection
from .key_value import KeyValue
from .settings import BrokerSettings


class Bucket:
    """A bucket, and the connection if it is its own.

    Parameters:
      bucket(str): The bucket's name.
      url(str | Sequence[str]): The servers, as for the broker.
      broker(JetStreamBroker): The broker whose connection and settings to share.
      options(dict): Further settings of a connection of one's own, as for the broker.

    Raises:
      ValueError: If there are settings for a connection besides a broker.
    """

    def __init__(
        self, bucket: str, url: str | Sequence[str] | None, broker: JetStreamBroker | None, options: dict[str, Any]
    ) -> None:
        if broker is not None and (url or options):
            raise ValueError("give the backend a broker, whose connection it shares, or settings of its own, not both")
        settings = broker.settings if broker else BrokerSettings.of(url, options)
        self._own = None if broker else Connection(settings)
        self.values = KeyValue(
            broker.connection if broker else Connection(settings),
            bucket,
            replicas=settings.replicas,
            managed=settings.declare == "auto",
        )

    def close(self) -> None:
        """Close the connection, if it is not the broker's."""
        if self._own is not None:
            self._own.close()
