"""The reading end of the client: messages of our own inboxes go straight to whom they concern.

nats-py would queue each one for a task of its subscription, parse its headers, and wake the task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dramatiq.logging import get_logger
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

#: Takes the subject, the reply subject, the block of headers and the body of a message.
Receiver = Callable[[bytes, bytes, bytes, bytes], object]

_END = b"\r\n"
_MESSAGES = frozenset({b"MSG", b"HMSG"})


class DirectParser(Parser):
    """Cuts what arrives into commands, and leaves to nats-py's parser what no receiver waits for.

    Parameters:
      client(Client): The client that reads.
    """

    _resets = 0

    def __init__(self, client: Any) -> None:
        self.logger = get_logger(__name__, type(self))
        #: Who takes the messages of a subscription, by its id as the server writes it.
        self.receivers: dict[bytes, Receiver] = {}
        super().__init__(client)

    def reset(self) -> None:
        super().reset()
        self._rest = bytearray()
        self._missing = 0
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        """Handle every command that is complete, and keep the rest until more of it arrives.

        Raises:
          ProtocolError: If it is not the server's language.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._missing:
                return
            data, self._rest = bytes(self._rest), bytearray()
        resets, position = self._resets, 0
        while (end := data.find(_END, position)) >= 0:
            fields = data[position:end].split(b" ")
            kind = fields[0]
            if kind not in _MESSAGES:
                stop = end + 2
                await super().parse(data[position:stop])
            else:
                stop = end + 4 + _number(fields[-1])
                if stop > len(data):
                    self._missing = stop - position
                    break
                receiver = self.receivers.get(fields[2])
                if receiver is None:
                    await super().parse(data[position:stop])
                else:
                    self._hand_over(receiver, fields, data[end + 2 : stop - 2])
            if self._resets != resets:
                # The connection broke meanwhile, and what else it brought is void.
                return
            position = stop
        self._rest = bytearray(data[position:])

    def _hand_over(self, receiver: Receiver, fields: list[bytes], content: bytes) -> None:
        count = len(fields)
        try:
            if fields[0] == b"MSG":
                receiver(fields[1], fields[3] if count == 5 else b"", b"", content)
            else:
                size = int(fields[-2])
                receiver(fields[1], fields[3] if count == 6 else b"", content[:size], content[size:])
        except Exception:
            # Raised on, it would end the reading of everything else.
            self.logger.critical("A message on %r could not be taken.", fields[1].decode(), exc_info=True)


def _number(field: bytes) -> int:
    try:
        return int(field)
    except ValueError as error:
        raise ProtocolError from error
