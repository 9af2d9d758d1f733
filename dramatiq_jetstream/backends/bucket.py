"""What the backends have in common: a bucket on the broker's connection, or on one of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..broker import JetStreamBroker
from ..client import RESERVED_OPTIONS, Connection
from ..hidden import Hidden
from ..names import Names
from ..settings import BrokerSettings
from ..streams import KeyValue

#: What the server and its clients take for a bucket's name; the bucket is the stream "KV_<name>", of 255 bytes at most.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,252}")


class Bucket:
    """A bucket, and the connection if it is its own.

    Parameters:
      purpose(str): What it is for.  Its name begins with the broker's namespace, or else "dramatiq".
      bucket(str): Another name.
      url(Hidden): The servers, as for the broker.
      broker(JetStreamBroker): The broker whose connection and settings to share.
      options(Hidden): Further settings of a connection of one's own, as for the broker.

    Raises:
      ValueError: If there are settings for a connection besides a broker, or unfit ones, or the name is none
        that a bucket can have.
    """

    def __init__(
        self,
        purpose: str,
        bucket: str | None,
        url: Hidden[Any],
        broker: JetStreamBroker | None,
        options: Hidden[Mapping[str, Any]],
    ) -> None:
        if broker is not None and (url or options):
            raise ValueError("give the backend a broker, whose connection it shares, or settings of its own, not both")
        reserved = sorted(RESERVED_OPTIONS & options.reveal().keys())
        if reserved:
            raise ValueError(f"the backend sets these connect options itself: {', '.join(reserved)}")
        if bucket is not None and not _NAME.fullmatch(bucket):
            raise ValueError(f"bucket {bucket!r} must be a name of 1 to 252 letters, digits, '-' and '_'")
        connection = broker.connection if broker else Connection(BrokerSettings.of(url, options))
        names = broker.names if broker else Names()
        self._own = None if broker else connection
        self.values = KeyValue(
            connection,
            bucket if bucket is not None else names.bucket(purpose),
            replicas=connection.settings.replicas,
            managed=connection.settings.declare == "auto",
        )
        if broker is not None:
            broker.add_requirement(self.values.requirement)

    def close(self) -> None:
        """Close the connection, if it is not the broker's."""
        if self._own is not None:
            self._own.close()
