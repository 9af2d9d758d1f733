"""Publishing, each message of which is answered once the stream has stored it."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .errors import ApiError, BrokerConnectionError, StreamNotFound
from .outbox import Outbox, Parcel
from .protocol import STATUS, parse_headers, publish_command
from .wire import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, Publication

#: Seconds without an answer after which a publish is repeated under its message id.
REPEAT_AFTER = 2.0


#: What nearly every answer looks like; to read the others as JSON takes three times as long.
_PLAIN_ANSWER = re.compile(rb'\{"stream":"([^"\\]+)",\s*"seq":(\d+)\}')


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


Outcome = Receipt | Exception


class _Waiter(NamedTuple):
    subject: str
    parcel: Parcel
    done: Callable[[Outcome], object]
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
        self._pending: dict[bytes, _Waiter] = {}
        self._tokens = itertools.count()

    @property
    def waiting(self) -> int:
        """How many publishes are not answered yet."""
        return len(self._pending)

    def submit(self, publication: Publication, done: Callable[[Outcome], object], *, at_once: bool = False) -> bytes:
        """Publish a message; from any thread.

        Until it is answered or forgotten the message is sent again after a reconnect, and every two
        seconds; its Nats-Msg-Id makes the stream store it once.

        Parameters:
          publication(Publication): The message.
          done(Callable): Told the receipt or the error, once, on the loop; it must not raise.
          at_once(bool): Write on the caller's own thread if no other publish is under way: sooner for one, dearer
            for many.

        Returns:
          bytes: What :meth:`forget` takes.
        """
        token = b"%d" % next(self._tokens)
        self._launch(token, publication.subject, self._command(publication, token), done, at_once)
        return token

    def submit_together(
        self, publications: Sequence[Publication], batch: str, done: Callable[[Outcome], object]
    ) -> bytes:
        """Publish messages that one stream is to store together or not at all; else as :meth:`submit` does.

        Parameters:
          publications(Sequence[Publication]): The messages.
          batch(str): A name for them that was never used.
          done(Callable): Told the last one's receipt, or the error.
        """
        token = b"%d" % next(self._tokens)
        commands = []
        for number, publication in enumerate(publications, 1):
            headers = {**publication.headers, BATCH_ID: batch, BATCH_SEQUENCE: str(number)}
            if number < len(publications):
                commands.append(publish_command(publication.subject, publication.body, headers=headers))
            else:
                commands.append(self._command(publication._replace(headers={**headers, BATCH_COMMIT: "1"}), token))
        self._launch(token, publications[-1].subject, b"".join(commands), done)
        return token

    def _command(self, publication: Publication, token: bytes) -> bytes:
        reply = self.inbox + token.decode()
        return publish_command(publication.subject, publication.body, reply, publication.headers)

    def _launch(
        self, token: bytes, subject: str, command: bytes, done: Callable[[Outcome], object], at_once: bool = False
    ) -> None:
        parcel = Parcel(command, fleeting=True)
        # Where several threads send, they share a wake-up and a write.
        alone = not self._pending
        self._pending[token] = _Waiter(subject, parcel, done)
        if at_once and alone:
            self._outbox.send_at_once(parcel)
        else:
            self._outbox.send(parcel)

    def forget(self, token: bytes) -> None:
        """Give a publish up: nobody waits for its answer any more; from any thread."""
        self._pending.pop(token, None)

    def on_reply(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        """Resolve the publish that an answer belongs to; on the loop."""
        waiter = self._pending.pop(subject[len(self.inbox) :], None)
        if waiter is not None:
            waiter.done(_read_answer(headers, body, waiter))

    def resume(self) -> None:
        """Repeat every publish that is not answered; on the loop."""
        for token in list(self._pending):
            self._repeat(token)

    def watch(self) -> None:
        """Repeat, from now on, what stays unanswered for long; on the loop."""
        seen: set[bytes] = set()

        def repeat() -> None:
            nonlocal seen
            for token in seen & self._pending.keys():
                self._repeat(token)
            seen = set(self._pending)
            asyncio.get_running_loop().call_later(REPEAT_AFTER, repeat)

        repeat()

    def fail(self, error: BrokerConnectionError, concerns: Callable[[str], bool]) -> None:
        """Fail the publishes whose subject an error concerns; on the loop."""
        for token, waiter in list(self._pending.items()):
            if concerns(waiter.subject) and self._pending.pop(token, None) is not None:
                waiter.done(error)

    def _repeat(self, token: bytes) -> None:
        # Its caller may give it up at any moment.
        waiter = self._pending.get(token)
        if waiter is not None:
            self._pending[token] = waiter._replace(repeated=True)
            self._outbox.send(waiter.parcel)


def _read_answer(headers: bytes, body: bytes, waiter: _Waiter) -> Outcome:
    plain = None if headers else _PLAIN_ANSWER.fullmatch(body)
    if plain is not None:
        return Receipt(plain[1].decode(), int(plain[2]), duplicate=False)
    if headers and parse_headers(headers).get(STATUS) == "503":
        return StreamNotFound(f"no stream listens on {waiter.subject!r}")
    answer: dict[str, Any] = json.loads(body)
    error = answer.get("error")
    if error is None:
        return Receipt(answer["stream"], answer["seq"], answer.get("duplicate", False))
    code, number, text = error["code"], error.get("err_code", 0), error["description"]
    failure = ApiError(f"publishing to {waiter.subject!r}", code, number, text)
    failure.repeated = waiter.repeated
    return failure
