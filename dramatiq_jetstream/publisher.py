"""Publishing that returns once the stream has stored the message."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, NamedTuple

from nats.aio.msg import Msg

from .errors import ApiError, BrokerConnectionError, StreamNotFound
from .outbox import Outbox, Parcel
from .threads import new_future
from .wire import Publication

#: Seconds without an answer after which a publish is repeated under its message id.
REPEAT_AFTER = 2.0


class Receipt(NamedTuple):
    """The server's word that a message is stored.

    Parameters:
      stream(str): The stream that stored it.
      sequence(int): Its sequence there.
      duplicate(bool): Whether an earlier publish with the same message id had stored it.
    """

    stream: str
    sequence: int
    duplicate: bool


class _Waiter(NamedTuple):
    publication: Publication
    future: Future[Receipt]
    parcel: Parcel
    repeated: bool = False


class Publisher:
    """Publishes from any thread over one inbox.

    Parameters:
      outbox(Outbox): The lane to the server.
      inbox(str): A subject prefix of this process's own, ending in a dot.
    """

    def __init__(self, outbox: Outbox, inbox: str) -> None:
        self._outbox = outbox
        self.inbox = inbox
        self._pending: dict[str, _Waiter] = {}
        self._tokens = itertools.count()
        self._repeating: asyncio.TimerHandle | None = None

    def submit(self, publication: Publication) -> Future[Receipt]:
        """Publish a message; the future holds the receipt or the error.

        Until it is answered or cancelled the message is sent again after a reconnect, and every two
        seconds; its Nats-Msg-Id makes the stream store it once.
        """
        token = str(next(self._tokens))
        future: Future[Receipt] = new_future()

        def failed(error: Exception) -> None:
            self._resolve(token, error)

        parcel = Parcel(publication.subject, publication.body, self.inbox + token, publication.headers, failed=failed)
        self._pending[token] = _Waiter(publication, future, parcel)
        future.add_done_callback(lambda _: self._pending.pop(token, None))
        self._outbox.send(parcel)
        return future

    async def on_reply(self, reply: Msg) -> None:
        """Resolve the publish that an answer belongs to; on the loop."""
        token = reply.subject[len(self.inbox) :]
        waiter = self._pending.get(token)
        if waiter is not None:
            outcome = _read_reply(reply, waiter.publication.subject)
            if isinstance(outcome, ApiError):
                outcome.repeated = waiter.repeated
            self._resolve(token, outcome)

    def resume(self) -> None:
        """Repeat every publish that is not answered; on the loop."""
        for token in list(self._pending):
            self._repeat(token)

    def watch(self) -> None:
        """Repeat, from now on, what stays unanswered for long; on the loop."""
        seen: set[str] = set()

        def repeat() -> None:
            nonlocal seen
            for token in seen & self._pending.keys():
                self._repeat(token)
            seen = set(self._pending)
            self._repeating = asyncio.get_running_loop().call_later(REPEAT_AFTER, repeat)

        repeat()

    def fail(self, error: BrokerConnectionError, concerns: Callable[[str], bool]) -> None:
        """Fail the publishes whose subject an error concerns; on the loop."""
        for token, waiter in list(self._pending.items()):
            if concerns(waiter.publication.subject):
                self._resolve(token, error)

    def _repeat(self, token: str) -> None:
        # Its caller may give it up at any moment.
        waiter = self._pending.get(token)
        if waiter is not None:
            self._pending[token] = waiter._replace(repeated=True)
            self._outbox.send(waiter.parcel)

    def _resolve(self, token: str, outcome: Receipt | Exception) -> None:
        waiter = self._pending.pop(token, None)
        if waiter is None:
            return
        try:
            if isinstance(outcome, Receipt):
                waiter.future.set_result(outcome)
            else:
                waiter.future.set_exception(outcome)
        except InvalidStateError:
            # The caller gave up between the two lines above; there is nobody left to tell.
            return


def _read_reply(reply: Msg, subject: str) -> Receipt | Exception:
    if reply.headers and reply.headers.get("Status") == "503":
        return StreamNotFound(f"no stream listens on {subject!r}")
    answer: dict[str, Any] = json.loads(reply.data)
    error = answer.get("error")
    if error is not None:
        return ApiError(f"publishing to {subject!r}", error["code"], error.get("err_code", 0), error["description"])
    return Receipt(answer["stream"], answer["seq"], answer.get("duplicate", False))
