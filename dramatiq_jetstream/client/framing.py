"""The reading end of the connection: messages of our own inboxes go straight to whom they concern.

nats-py would wake one task to cut them out of the stream, queue each one, and wake another to take it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.errors import ProtocolError

from ..logs import get_logger

#: Takes the subject, the reply subject, the block of headers and the body of a message.
Receiver = Callable[[bytes, bytes, bytes, bytes], object]

#: Who takes the messages of a subscription, by its id as the server writes it.
Receivers = dict[bytes, Receiver]

_END = b"\r\n"
_MESSAGES = frozenset({b"MSG", b"HMSG"})


class InboxFilter(asyncio.Protocol):
    """Cuts what arrives into commands, and leaves to nats-py's end of the stream what no receiver waits for.

    Parameters:
      inner(Protocol): nats-py's end.
      receivers(Receivers): Those who wait.
    """

    def __init__(self, inner: asyncio.Protocol, receivers: Receivers) -> None:
        self.logger = get_logger(__name__, type(self))
        self._inner = inner
        self._receivers = receivers
        self._rest = bytearray()
        self._missing = 0

    def data_received(self, data: bytes) -> None:
        """Take what arrived, up to the last command that is complete.

        Raises:
          ProtocolError: If it is not the server's language; that ends the connection.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._missing:
                return
            data, self._rest, self._missing = bytes(self._rest), bytearray(), 0
        position = passed = 0
        while (end := data.find(_END, position)) >= 0:
            fields = data[position:end].split(b" ")
            if fields[0] not in _MESSAGES:
                position = end + 2
                continue
            stop = end + 4 + _size(fields)
            if stop > len(data):
                self._missing = stop - position
                break
            receiver = self._receivers.get(fields[2])
            if receiver is not None:
                self._pass_on(data[passed:position])
                self._hand_over(receiver, fields, data[end + 2 : stop - 2])
                passed = stop
            position = stop
        self._pass_on(data[passed:position])
        self._rest += data[position:]

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._inner.data_received(data)

    def _hand_over(self, receiver: Receiver, fields: list[bytes], content: bytes) -> None:
        count = len(fields)
        try:
            if fields[0] == b"MSG":
                receiver(fields[1], fields[3] if count == 5 else b"", b"", content)
            else:
                head = int(fields[-2])
                receiver(fields[1], fields[3] if count == 6 else b"", content[:head], content[head:])
        except Exception:
            # Raised on, it would end the connection.
            self.logger.critical("A message on %r could not be taken.", fields[1].decode(), exc_info=True)


def _size(fields: list[bytes]) -> int:
    """How many bytes follow the line of a message."""
    plain, size = fields[0] == b"MSG", fields[-1]
    if len(fields) not in ((4, 5) if plain else (5, 6)) or not size.isdigit():
        raise ProtocolError
    if not plain and not (fields[-2].isdigit() and int(fields[-2]) <= int(size)):
        raise ProtocolError
    return int(size)
