"""One message as it is published, and the ids by which the server detects duplicates."""

from __future__ import annotations

import itertools
import os
import re
import secrets
from typing import NamedTuple

from ..errors import MessageTooLarge
from .headers import MESSAGE_ID, MSG_ID, Headers

#: A Nats-Msg-Id that contains the id of a dramatiq message.  This saves a separate header, as headers
#: count toward a limit that may be small.
_CARRYING_MSG_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.[0-9a-f]{8}")


class _Ids:
    """Generates ids: a random part for each process, and a counter."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.prefix = secrets.token_hex(12)
        self.count = itertools.count()


_ids = _Ids()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.restart)


def new_id() -> str:
    """A unique Nats-Msg-Id."""
    return f"{_ids.prefix}{next(_ids.count):x}"


class Publication(NamedTuple):
    """One message as it is published."""

    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def size(self) -> int:
        """The bytes that count toward ``max_msg_size``: headers and body."""
        lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in self.headers.items())
        return len(self.body) + (len(b"NATS/1.0\r\n\r\n") + lines if self.headers else 0)

    def may_exceed(self, limit: int) -> bool:
        """Whether the message may be larger than a limit in bytes: a fast estimate with false positives."""
        text = sum(map(len, self.headers)) + sum(map(len, self.headers.values()))
        return len(self.body) + 4 * text + 64 + 4 * len(self.headers) > limit

    def named(self, msg_id: str) -> Publication:
        """The same message with the given Nats-Msg-Id."""
        headers = {**self.headers, MSG_ID: msg_id}
        carried = message_id_of(self.headers)
        if carried is not None:
            headers.setdefault(MESSAGE_ID, carried)
        return self._replace(headers=headers)

    def check_size(self, limit: int | None, where: str) -> None:
        """Raise MessageTooLarge if the message exceeds a limit in bytes."""
        if limit is not None and self.may_exceed(limit) and self.size > limit:
            raise MessageTooLarge(
                f"the message takes {self.size} bytes ({len(self.body)} of body, {self.size - len(self.body)} of "
                f"headers), but {where} takes at most {limit}; send a reference to large data instead"
            )


def message_id_of(headers: Headers) -> str | None:
    """The dramatiq message id that a Nats-Msg-Id contains, or None."""
    match = _CARRYING_MSG_ID.fullmatch(headers.get(MSG_ID, ""))
    return match[1] if match else None


def carrying_id(message_id: str) -> str | None:
    """A Nats-Msg-Id that contains a dramatiq message id; None if the id has another format."""
    carrying = f"{message_id}.{secrets.token_hex(4)}"
    return carrying if _CARRYING_MSG_ID.fullmatch(carrying) else None
