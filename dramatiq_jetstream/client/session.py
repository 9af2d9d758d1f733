"""A live client on its loop thread, with its requests, publishes, outbox and subscriptions."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..errors import BrokerError, CallTimeout, ConnectionClosed, PermissionDenied
from ..logs import get_logger
from ..settings import BrokerSettings
from ..wire import Publication
from .border import translated
from .commands import publish_command
from .framing import Receiver
from .loop_thread import LoopThread
from .nats_internals import NatsClient
from .outbox import OnReconnect, Outbox, OutboxItem
from .publisher import Outcome, Publisher, Receipt
from .reconnecting_client import ReconnectingClient
from .requests import RequestLost, Requests
from .subscriptions import Listening, Subscription, Subscriptions
from .supervision import Supervisor

Listener = Callable[[], object]

_SPACE = re.compile(r"\s")


class Session(Requests):
    """One process's connection.  Methods are coroutines of the loop unless they say otherwise.

    Parameters:
      settings(BrokerSettings): Where to connect, and how.
      successor(Callable): Gives the session that is open once this one is closed; from any thread.
    """

    def __init__(self, settings: BrokerSettings, successor: Callable[[], Session]) -> None:
        self.logger = get_logger(__name__, type(self))
        self.settings = settings
        self._successor = successor
        #: Called when a background task of the connection failed for good.  A worker process exits then.
        self.on_fatal: Callable[[str], object] = self._log_fatal
        self.thread = LoopThread("dramatiq-jetstream", lambda reason: self.on_fatal(reason))
        self.supervisor = Supervisor(lambda reason: self.on_fatal(reason))
        self.connected = ReconnectingClient(settings, self.supervisor, self._on_back, self._on_denied)
        super().__init__(settings, self.connected)
        self.outbox = Outbox(self.thread, self.connected, self.supervisor)
        self.publisher: Publisher
        self._listeners: set[Listener] = set()
        self._subscriptions = Subscriptions(self.connected, self.timeout)
        #: The subscriptions that the server refused, in lower case.
        self._denied: set[str] = set()
        #: The prefix of the client's own inboxes.
        self._inboxes = ""

    @property
    def client(self) -> NatsClient:
        """The current client; it is replaced after the server closed it permanently."""
        return self.connected.client

    @property
    def is_open(self) -> bool:
        """Whether the client is connected or about to be again; from any thread."""
        return self.thread.is_alive and self.connected.is_open

    @property
    def is_inherited(self) -> bool:
        """Whether it belongs to the process that this one was forked from; from any thread."""
        return self.thread.is_inherited

    @property
    def address(self) -> str:
        """The servers' addresses, without passwords; from any thread."""
        return self.connected.address

    @property
    def max_payload(self) -> int:
        """The bytes that the server takes at most in one message; from any thread."""
        return self.client.max_payload

    @property
    def server_version(self) -> str:
        """The version of the server that this is connected to; from any thread."""
        return str(self.client.server_info.get("version", ""))

    def open(self) -> None:
        """Connect; from any thread but the loop's.

        Raises:
          ServerUnreachable, AuthenticationFailed, UnsupportedServer: If that is not possible.
        """
        try:
            self.thread.run(self._open)
        except BaseException:
            self.thread.stop()
            raise

    def close(self) -> None:
        """Send what is pending, disconnect and end the thread; within the timeout."""
        self.connected.closing = True
        try:
            self.thread.run(self._close, self.timeout)
        except (TimeoutError, BrokerError) as error:
            self.logger.warning("The connection did not close cleanly: %s", str(error) or type(error).__name__)
            self.thread.call_soon_if_open(self.client.abort)
        finally:
            self.thread.stop()

    def post(self, subject: str, body: bytes) -> None:
        """Send a plain message, in order with what else this thread sends; from any thread.

        Raises:
          ValueError: If nothing can be published to the subject.
          MessageTooLarge: If the server takes no message of that size.
          ConnectionClosed: If the connection is closed.
        """
        if not subject or any(token in ("", "*", ">") or _SPACE.search(token) for token in subject.split(".")):
            raise ValueError(f"{subject!r} is not a subject that can be published to")
        self.check_open()
        self.check_size(Publication(subject, body, {}))
        self.outbox.send(OutboxItem(publish_command(subject, body), OnReconnect.SEND_AGAIN))

    def send(self, item: OutboxItem) -> None:
        """Send an item, once this session is closed over the next one; from any thread.

        Raises:
          BrokerConnectionError: If there is none.
        """
        if self.is_inherited:
            raise ConnectionClosed("this belongs to the process from which this one was forked, which goes on with it")
        if self.is_open:
            self.outbox.send(item)
        else:
            successor = self._successor()
            successor.check_open()
            successor.outbox.send(item)

    def listen(self, subject: str, callback: Callable[[str, bytes], object]) -> Subscription:
        """Call back on the loop for each message on a subject; from any thread but the loop's.

        Raises:
          PermissionDenied: If the server does not let this user listen.
        """

        async def subscribe() -> Listening:
            listening = await self.hear(subject, callback)
            # What is sent from now on arrives; while the connection is away, as soon as it is back.
            await self.outbox.has_arrived()
            if self.is_denied(subject):
                await self.unsubscribe(listening, drain=False)
                raise _denial("subscribe", subject)
            return listening

        listening = self.thread.run(subscribe)
        return Subscription(partial(self._end, listening))

    def _end(self, listening: Listening) -> None:
        """End a subscription, without waiting for messages on their way if called in its callback."""
        if not self.is_open:
            return
        if self.thread.is_current:
            self.supervisor.once("end of a subscription", self.unsubscribe(listening, drain=False))
        else:
            self.thread.run(partial(self.unsubscribe, listening))

    def check_open(self) -> None:
        """Raise ConnectionClosed if nothing can be sent any more; from any thread."""
        if not self.is_open:
            raise ConnectionClosed(f"the connection to {self.address} is closed")

    def check_size(self, publication: Publication) -> None:
        """Raise MessageTooLarge if the server takes no message of that size; it would close the connection."""
        publication.check_size(self.max_payload, "the server (max_payload)")

    def on_reconnect(self, listener: Listener) -> None:
        """Have a listener called on the loop whenever the connection is back."""
        self._listeners.add(listener)

    def forget(self, listener: Listener) -> None:
        """Take a listener back."""
        self._listeners.discard(listener)

    async def receive(self, receiver: Receiver) -> tuple[str, Listening]:
        """Subscribe to a new inbox; return its subject and the function that ends it."""
        inbox = self.client.new_inbox()
        return inbox, await self._subscriptions.add(inbox, receiver)

    async def overhear(self, subject: str, receiver: Receiver, *, optional: bool = False) -> Listening:
        """Listen on any subject, headers included; return what ends it.

        Parameters:
          subject(str): The subject.
          receiver(Receiver): Takes its messages.
          optional(bool): Whether this user need not be allowed to; that is no error then.
        """
        if optional:
            self.need_not_be_allowed(subject)
        return await self._subscriptions.add(subject, receiver)

    def need_not_be_allowed(self, subject: str) -> None:
        """Have it be no error that the server refuses a subject to this user; on the loop."""
        self.connected.optional.add(subject.lower())

    async def call_optional_api(self, operation: str, timeout: float) -> dict[str, Any]:
        """Call JetStream's API where it is no error if this user may not; raises what :meth:`call_api` does."""
        self.need_not_be_allowed(f"{self.api}.{operation}")
        return await self.call_api(operation, timeout=timeout)

    def is_denied(self, subject: str) -> bool:
        """Whether the server refused a subscription, as far as it has answered."""
        return subject.lower() in self._denied

    async def ask_for_many(self, subject: str, body: bytes, take: Callable[[bytes, bytes], bool]) -> None:
        """Send a request that several messages answer.

        Parameters:
          subject(str): The subject.
          body(bytes): The request.
          take(Callable): Called with each answer's block of headers and body; returns whether it was the last.

        Raises:
          CallTimeout: If no answer comes for as long as the timeout.
          PermissionDenied: If the server does not let this user ask.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heard = [time.monotonic()]

        def on_answer(_: bytes, __: bytes, block: bytes, content: bytes) -> None:
            heard[0] = time.monotonic()
            if done.done():
                return
            try:
                if take(block, content):
                    done.set_result(None)
            except Exception as error:
                done.set_exception(error)

        self.check_inbox()
        inbox, subscription = await self.receive(on_answer)
        try:
            with translated(f"the request to {subject!r}", self.address), self.asking(subject) as failed:
                await self.client.publish(subject, body, inbox)
                waiting: list[asyncio.Future[Any]] = [done, failed]
                while not done.done():
                    left = heard[0] + self.timeout - time.monotonic()
                    if left <= 0:
                        raise CallTimeout(f"the answer to {subject!r} stopped for {self.settings.timeout} ms")
                    await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    if failed.done():
                        raise failed.result()
        finally:
            await self.unsubscribe(subscription, drain=False)
        done.result()

    async def hear(self, subject: str, callback: Callable[[str, bytes], object]) -> Listening:
        """Call back for each message on a subject; return what ends it."""

        def on_message(name: bytes, _: bytes, __: bytes, body: bytes) -> None:
            try:
                callback(name.decode(), body)
            except BaseException:
                # Not only an Exception: sys.exit() in a callback would end the loop.
                self.logger.error(
                    "A callback failed for a message on %r; the subscription to %r goes on.",
                    name.decode("utf-8", "replace"),
                    subject,
                    exc_info=True,
                )

        return await self._subscriptions.add(subject, on_message)

    async def unsubscribe(self, listening: Listening | None, *, drain: bool = True) -> None:
        """End a subscription; by default after the messages already in transit have been handled."""
        if listening is not None:
            await self._subscriptions.remove(listening, drain=drain)

    async def store(self, publication: Publication, *, timeout: float | None = None) -> Receipt:
        """Publish a message and wait until its stream has stored it.

        Parameters:
          publication(Publication): The message.
          timeout(float): The seconds to wait at most.  Defaults to the broker's timeout.

        Raises:
          MessageTooLarge: If the server takes no message of that size.
          StreamNotFound: If no stream listens on its subject.
          ApiError: If the stream refuses it.
          CallTimeout: If there is no answer within the timeout.
        """
        self.check_size(publication)
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not answered.done():
                answered.set_result(outcome)

        token, passing = self.publisher.new_token(), None
        self.submit(publication, done, token)
        try:
            await asyncio.wait([answered], timeout=self.timeout if timeout is None else timeout)
        finally:
            passing = self.publisher.forget(token)
        if not answered.done():
            raise self.unconfirmed(publication, passing)
        outcome = answered.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def submit(self, publication: Publication, done: Callable[[Outcome], object], token: bytes) -> None:
        """Begin to publish a message of a size the server takes, as the publisher does; from any thread."""
        self.check_inbox()
        self.publisher.submit(publication, done, token=token)

    def submit_together(
        self, publications: Sequence[Publication], batch: str, done: Callable[[Outcome], object], token: bytes
    ) -> None:
        """Begin to publish such messages together, as the publisher does; from any thread."""
        self.check_inbox()
        self.publisher.submit_together(publications, batch, done, token=token)

    def unconfirmed(self, publication: Publication, passing: Exception | None = None) -> CallTimeout:
        """What to raise when there is no answer to a publish, or only ones that may pass."""
        last = f" (its last answer: {passing})" if passing else ""
        advice = self.connected.denial or "check that the server is up"
        return CallTimeout(
            f"the server did not confirm a message to {publication.subject!r} within {self.settings.timeout} ms{last}: "
            f"it may or may not be stored; {advice}, and send again if running twice does no harm"
        )

    async def _open(self) -> None:
        await self.connected.connect()
        inbox = f"{self.client.new_inbox()}."
        self._inboxes = inbox[: inbox[:-1].rindex(".") + 1]
        self.publisher = Publisher(self.outbox, inbox, self.address)
        await self._subscriptions.add(f"{inbox}*", self.publisher.on_reply)
        self.supervisor.keep("repetition of unanswered publishes", self.publisher.watch)
        self.supervisor.keep("look at the outbox", self.outbox.look)
        self.supervisor.keep("watch over the connection", self.connected.watch)

    async def _close(self) -> None:
        if not self.client.is_closed:
            await self.outbox.settle()
        with translated("closing", self.address):
            await self.connected.close()

    def _on_back(self) -> None:
        self.denied_inbox = None
        self._denied.clear()
        self.fail(lambda subject: RequestLost(f"the connection broke before the answer to {subject!r} came"))
        if self._subscriptions.are_current:
            self._resume()
        else:
            self.supervisor.keep("renewal of subscriptions", self._renew)

    async def _renew(self) -> None:
        # This comes first: otherwise answers to what is sent again are missed.
        await self._subscriptions.renew()
        self._resume()

    def _resume(self) -> None:
        self.outbox.resume()
        self.publisher.resume()
        for listener in list(self._listeners):
            listener()

    def _on_denied(self, verb: str, subject: str, error: Exception) -> None:
        if verb == "subscription":
            self._denied.add(subject)
        if verb == "subscription" and subject.startswith(self._inboxes.lower()):
            # The rest of it is another one in each process.
            self.denied_inbox = self.denied_inbox or _denied_answers(f"{self._inboxes}>")

        def error_of(published: str) -> PermissionDenied | None:
            if self.denied_inbox is not None:
                return self.denied_inbox
            # The server writes the subject in lower case.
            return _denial("publish", published) if verb == "publish" and published.lower() == subject else None

        self.publisher.fail(error_of)
        self.fail(error_of)

    def _log_fatal(self, reason: str) -> None:
        self.logger.critical("The connection to %s does not work any more: %s.", self.address, reason)


def _denial(verb: str, subject: str) -> PermissionDenied:
    return PermissionDenied(f"this user may not {verb} to {subject!r}: allow it in the server's permissions")


def _denied_answers(subject: str) -> PermissionDenied:
    return PermissionDenied(
        f"this user may not subscribe to {subject!r}, where the server's answers arrive: allow it, or give the "
        "broker the inbox_prefix that the user may subscribe to"
    )
