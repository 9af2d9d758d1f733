"""A plain NATS client beside the broker, to see and change what is really on the server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from nats.aio.msg import Msg
from nats.js.errors import NotFoundError, ServiceUnavailableError

from dramatiq_jetstream.client.nats_internals import NatsClient

T = TypeVar("T")

CALL_TIMEOUT = 60


class StoredMessage(NamedTuple):
    """One message of a stream."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    body: bytes


class Admin:
    """Speaks to the server on a thread of its own; a context manager.

    Parameters:
      url(str): The server.
      **connect_options: Passed to ``nats.connect``.
    """

    def __init__(self, url: str, **connect_options: Any) -> None:
        # It closes what a failed handshake leaves open, which nats-py's own does not.
        self._client = NatsClient(websocket=False, tls=False, before_connect=lambda *_: {})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="admin", daemon=True)
        self._thread.start()
        self._call(self._client.connect(url, **connect_options))

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect, and end the thread."""
        self._call(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT)
        self._loop.close()

    def request(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        """Send a core NATS request and return the answer."""
        return self._call(self._client.request(subject, body, CALL_TIMEOUT, headers=headers))

    def pull(self, subject: str) -> Msg:
        """Request the next message with an empty body, over an inbox of its own, for it bears its own subject."""
        return self._call(self._client.request(subject, b"", CALL_TIMEOUT, old_style=True))

    def publish(
        self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Send a core NATS message; when this returns, the server has it."""

        async def publish() -> None:
            await self._client.publish(subject, body, reply, headers=headers)
            await self._client.flush(CALL_TIMEOUT)

        self._call(publish())

    def subscribe(self, subject: str) -> SimpleQueue[Msg]:
        """Collect what is published on a subject from now on."""
        collected: SimpleQueue[Msg] = SimpleQueue()

        async def collect(message: Msg) -> None:
            collected.put(message)

        async def subscribe() -> None:
            await self._client.subscribe(subject, cb=collect)
            await self._client.flush(CALL_TIMEOUT)

        self._call(subscribe())
        return collected

    def ask(self, operation: str, body: object = None) -> dict[str, Any]:
        """Call JetStream's API and return its answer, which may be an error."""
        answer = self.request(f"$JS.API.{operation}", b"" if body is None else json.dumps(body).encode())
        fields: dict[str, Any] = json.loads(answer.data)
        return fields

    def api(self, operation: str, body: object = None) -> dict[str, Any]:
        """Call JetStream's API and return its answer, which must not be an error."""
        answer = self.ask(operation, body)
        assert "error" not in answer, f"{operation}: {answer['error']}"
        return answer

    def store(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Publish to a stream and return its answer: the stream and the sequence, or an error."""
        answer: dict[str, Any] = json.loads(self.request(subject, body, headers).data)
        return answer

    def streams(self) -> list[str]:
        """The names of all streams, up to the server's limit of one answer."""
        return list(self.api("STREAM.NAMES").get("streams") or [])

    def stream(self, name: str) -> dict[str, Any]:
        """A stream's configuration and state."""
        return self.api(f"STREAM.INFO.{name}")

    def consumer(self, stream: str, name: str) -> dict[str, Any]:
        """A durable consumer's configuration and state."""
        return self.api(f"CONSUMER.INFO.{stream}.{name}")

    def count(self, stream: str) -> int:
        """How many messages a stream holds; none if it does not exist."""
        messages: int = self.ask(f"STREAM.INFO.{stream}").get("state", {}).get("messages", 0)
        return messages

    def stored(self, stream: str) -> list[StoredMessage]:
        """The messages of a stream, oldest first."""
        if "error" in self.ask(f"STREAM.INFO.{stream}"):
            return []
        return self._call(self._load(stream))

    async def _load(self, stream: str) -> list[StoredMessage]:
        jetstream = self._client.jetstream()
        state = (await jetstream.stream_info(stream)).state
        found: list[StoredMessage] = []
        if not state.messages:
            return found
        for sequence in range(state.first_seq, state.last_seq + 1):
            try:
                message = await _persist(partial(jetstream.get_msg, stream, sequence))
            except NotFoundError:  # Removed already.
                continue
            found.append(StoredMessage(sequence, message.subject or "", message.headers or {}, message.data or b""))
        return found

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_TIMEOUT)


async def _persist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the server can answer: a cluster cannot while it has no leader."""
    while True:
        try:
            return await ask()
        except ServiceUnavailableError:
            await asyncio.sleep(0.1)
