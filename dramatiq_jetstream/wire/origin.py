"""The position of a delivered message in its stream, and what a message is decoded from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from .headers import Headers


class Origin(NamedTuple):
    """The position of a delivered message in its stream, read from its acknowledgement subject."""

    stream: str
    consumer: str
    deliveries: int
    sequence: int
    timestamp: int

    @classmethod
    def parse(cls, reply: str) -> Origin:
        """Read ``$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<…>.<nanoseconds>.<pending>``.

        Newer servers put the domain and the account's hash before the stream.
        """
        tokens, start = _tokens(reply)
        stream, consumer, deliveries, sequence, _, timestamp = tokens[start : start + 6]
        return cls(stream, consumer, int(deliveries), int(sequence), int(timestamp))

    @property
    def milliseconds(self) -> int:
        """When the message was stored, as UNIX time in milliseconds."""
        return self.timestamp // 1_000_000


def deliveries_of(reply: str) -> int:
    """How often a message was delivered, read from its acknowledgement subject."""
    tokens, start = _tokens(reply)
    return int(tokens[start + 2])


def pending_of(reply: str) -> int:
    """How many messages the consumer had yet to deliver after this one, read from its acknowledgement subject."""
    tokens, start = _tokens(reply)
    return int(tokens[start + 6])


def _tokens(reply: str) -> tuple[list[str], int]:
    """The tokens of an acknowledgement subject, and the index of the stream's name."""
    tokens = reply.split(".")
    if len(tokens) < 9 or not reply.startswith("$JS.ACK."):
        raise ValueError(f"not an acknowledgement subject: {reply!r}")
    return tokens, 2 if len(tokens) == 9 else 4


class Source(Protocol):
    """What a message is decoded from; each part is parsed only when it is read."""

    @property
    def body(self) -> bytes: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def origin(self) -> Origin: ...
