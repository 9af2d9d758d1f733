"""Publishing, each message of which is answered once the stream has stored it."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import ApiError, BrokerConnectionError, BrokerError, StreamNotFound
from ..logs import get_logger
from ..wire import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, Publication
from .border import readable
from .commands import STATUS, parse_headers, publish_command
from .outbox import OnReconnect, Outbox, OutboxItem
from .server_errors import error_of, is_passing

#: Seconds without an answer, since the server must have seen it, after which a publish is repeated.
REPEAT_AFTER = 2.0

#: Seconds between two checks for unanswered publishes.
LOOK_INTERVAL = 0.5

#: Seconds before a publish is repeated after a passing error.
PASSING_PAUSE = 0.25

#: The form of nearly every answer.  Reading an answer as JSON takes three times as long.
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


class _Pending:
    """A publish that is not answered yet."""

    __slots__ = ("done", "item", "passing", "repeated", "subject", "waiting")

    def __init__(self, subject: str, item: OutboxItem, done: Callable[[Outcome], object]) -> None:
        self.subject = subject
        self.item = item
        self.done = done
        #: Whether it was sent more than once.
        self.repeated = False
        #: The last answer, if that was one which asking again may change.
        self.passing: ApiError | None = None
        #: Whether it is about to be repeated because of that answer.
        self.waiting = False


#: Tokens are never used twice in a process, so that none is taken for one of a later session.
_tokens = itertools.count()


class Publisher:
    """Publishes from any thread over one inbox.

    Parameters:
      outbox(Outbox): The way to the server.
      inbox(str): A subject prefix of this process's own, ending in a dot.
      address(str): The server's address, for errors.
    """

    def __init__(self, outbox: Outbox, inbox: str, address: str) -> None:
        self.logger = get_logger(__name__, type(self))
        self.inbox = inbox
        self._outbox = outbox
        self._address = address
        self._pending: dict[bytes, _Pending] = {}

    @property
    def waiting(self) -> int:
        """How many publishes are not answered yet."""
        return len(self._pending)

    def new_token(self) -> bytes:
        """A name for one publish, which :meth:`forget` takes; from any thread."""
        return b"%d" % next(_tokens)

    def submit(
        self, publication: Publication, done: Callable[[Outcome], object], *, token: bytes, at_once: bool = False
    ) -> None:
        """Publish a message; from any thread.

        Until it is answered or forgotten the message is sent again after a reconnect, and when the server has
        seen it and does not answer for two seconds; its Nats-Msg-Id makes the stream store it once.

        Parameters:
          publication(Publication): The message.
          done(Callable): Called once, on the loop, with the receipt or the error; it must not raise.
          token(bytes): A new token.
          at_once(bool): Write on the caller's own thread if no other publish is in progress: faster for one,
            more expensive for many.
        """
        self._launch(token, publication.subject, self._command(publication, token), done, at_once)

    def submit_together(
        self, publications: Sequence[Publication], batch: str, done: Callable[[Outcome], object], *, token: bytes
    ) -> None:
        """Publish messages that one stream is to store together or not at all; else as :meth:`submit` does.

        Parameters:
          publications(Sequence[Publication]): The messages.
          batch(str): A name for them that was never used.
          done(Callable): Called with the last one's receipt, or the error.
          token(bytes): A new token.
        """
        commands = []
        for number, publication in enumerate(publications, 1):
            headers = {**publication.headers, BATCH_ID: batch, BATCH_SEQUENCE: str(number)}
            if number < len(publications):
                commands.append(publish_command(publication.subject, publication.body, headers=headers))
            else:
                commands.append(self._command(publication._replace(headers={**headers, BATCH_COMMIT: "1"}), token))
        self._launch(token, publications[-1].subject, b"".join(commands), done)

    def _command(self, publication: Publication, token: bytes) -> bytes:
        reply = self.inbox + token.decode()
        return publish_command(publication.subject, publication.body, reply, publication.headers)

    def _launch(
        self, token: bytes, subject: str, command: bytes, done: Callable[[Outcome], object], at_once: bool = False
    ) -> None:
        item = OutboxItem(command, OnReconnect.DROP)
        # Where several threads send, they share a wake-up and a write.
        alone = not self._pending
        self._pending[token] = _Pending(subject, item, done)
        if at_once and alone:
            self._outbox.send_at_once(item)
        else:
            self._outbox.send(item)

    def forget(self, token: bytes) -> ApiError | None:
        """Abandon a publish whose answer is no longer needed; from any thread.

        Returns:
          ApiError: The server's last answer, if it could not take the message just then.
        """
        pending = self._pending.pop(token, None)
        return None if pending is None else pending.passing

    def on_reply(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        """Resolve the publish that an answer belongs to; on the loop."""
        token = subject[len(self.inbox) :]
        pending = self._pending.get(token)
        if pending is None:
            return
        outcome = self._read(headers, body, pending)
        if isinstance(outcome, ApiError) and is_passing(outcome):
            # Neither stored nor refused: an earlier copy may still be on its way through the cluster.
            pending.passing = outcome
            if not pending.waiting:
                pending.waiting = True
                asyncio.get_running_loop().call_later(PASSING_PAUSE, self._repeat, token)
        elif self._pending.pop(token, None) is not None:
            pending.done(outcome)

    def resume(self) -> None:
        """Repeat every publish that is not answered; on the loop."""
        for token in list(self._pending):
            self._repeat(token)

    async def watch(self) -> None:
        """Repeat what the server has seen and does not answer, for as long as the loop runs."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            seen = set(self._pending)
            self._correct_queued()
            # On a slow connection a publish may take long; a repetition would only be queued behind it.
            if not seen or not await self._outbox.has_arrived():
                continue
            await asyncio.sleep(REPEAT_AFTER)
            for token in seen & self._pending.keys():
                self._repeat(token)

    def _correct_queued(self) -> None:
        """Have what never came to the queue be repeated: an exception hit the thread that was to put it there."""
        if not self._outbox.is_blocked:
            for pending in list(self._pending.values()):
                pending.item.queued = False

    def fail(self, error_of: Callable[[str], BrokerConnectionError | None]) -> None:
        """Fail publishes, each with the error that a function gives for its subject, if it gives one; on the loop."""
        for token, pending in list(self._pending.items()):
            error = error_of(pending.subject)
            if error is not None and self._pending.pop(token, None) is not None:
                pending.done(error)

    def _repeat(self, token: bytes) -> None:
        # Its caller may give it up at any moment.
        pending = self._pending.get(token)
        if pending is not None:
            pending.repeated, pending.waiting = True, False
            if not pending.item.queued:
                self._outbox.send(pending.item)

    def _read(self, headers: bytes, body: bytes, pending: _Pending) -> Outcome:
        plain = None if headers else _PLAIN_ANSWER.fullmatch(body)
        if plain is not None:
            return Receipt(plain[1].decode(), int(plain[2]), duplicate=False)
        if headers and parse_headers(headers).get(STATUS) == "503":
            missing = StreamNotFound(f"no stream listens on {pending.subject!r}")
            missing.repeated = pending.repeated
            return missing
        what = f"publishing to {pending.subject!r}"
        try:
            with readable(what):
                return self._read_json(what, json.loads(body), pending)
        except BrokerError as error:
            return error

    def _read_json(self, what: str, answer: dict[str, Any], pending: _Pending) -> Outcome:
        error = answer.get("error")
        if error is None:
            return Receipt(answer["stream"], answer["seq"], answer.get("duplicate", False))
        failure = error_of(what, error, self._address)
        if isinstance(failure, ApiError):
            failure.repeated = pending.repeated
        return failure
