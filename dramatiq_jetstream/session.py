"""A live client on its loop thread, with what rides on it; nats-py's errors become ours in here."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

import nats.errors
from dramatiq.logging import get_logger
from nats.aio.client import Client
from nats.aio.msg import Msg

from .errors import ApiError, CallTimeout, ConnectionClosed, PermissionDenied, StreamNotFound, UnsupportedServer
from .framing import Receiver
from .link import Link
from .loop_thread import LoopThread
from .outbox import Outbox, Parcel
from .protocol import header_block, publish_command
from .publisher import Outcome, Publisher, Receipt
from .settings import BrokerSettings
from .wire import Publication

T = TypeVar("T")

Listener = Callable[[], object]

#: Seconds without an answer after which a request is repeated.
ASK_AGAIN = 2.0

#: Seconds between attempts to answer a request that nobody listens to, as happens for a moment
#: while a cluster elects a leader.
NO_RESPONDERS_PAUSE = 0.25

#: The server's error numbers for an account, or a server, without JetStream.
_NO_JETSTREAM = frozenset({10039, 10076})

_SPACE = re.compile(r"\s")


#: What befalls a request, instead of an answer, when the connection is lost and found.
_LOST = object()


class RequestLost(nats.errors.Error):
    """Raised when a request may not have arrived, or its answer not have come back."""


class Session:
    """One process's client, its loop thread, and the two lanes that ride on it.

    Methods are coroutines of the loop unless they say otherwise.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.logger = get_logger(__name__, type(self))
        self.settings = settings
        self.timeout = settings.timeout / 1000
        self.api = f"$JS.{settings.domain}.API" if settings.domain else "$JS.API"
        self.thread = LoopThread("dramatiq-jetstream")
        self.link = Link(settings, self._on_back, self._on_denied)
        self.outbox = Outbox(self.thread, self.link)
        self.publisher: Publisher
        self._listeners: set[Listener] = set()
        self._asking: set[tuple[str, asyncio.Future[Any]]] = set()
        self._inboxes = ""
        self._deaf: str | None = None
        self._hearing: Client | None = None

    @property
    def client(self) -> Client:
        """The client; another one after the server closed it for good."""
        return self.link.client

    @property
    def is_open(self) -> bool:
        """Whether the client is connected or about to be again; from any thread."""
        return self.link.is_open

    def open(self) -> None:
        """Connect; from any thread but the loop's.

        Raises:
          ServerUnreachable, AuthenticationFailed, UnsupportedServer: If that is not possible.
        """
        try:
            self.thread.submit(self._open()).result()
        except BaseException:
            self.thread.stop()
            raise

    def close(self) -> None:
        """Hand the server what is still to be sent, disconnect and end the thread."""
        self.link.closing = True
        try:
            self.thread.submit(self._close()).result(self.timeout)
        except (FutureTimeoutError, nats.errors.Error, OSError) as error:
            self.logger.warning("The connection did not close cleanly: %s", str(error) or type(error).__name__)
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
        self.outbox.send(Parcel(publish_command(subject, body), keep=True))

    def listen(self, subject: str, callback: Callable[[str, bytes], object]) -> Subscription:
        """Call back on the loop for each message on a subject; from any thread but the loop's."""

        async def on_message(msg: Msg) -> None:
            callback(msg.subject, msg.data)

        return Subscription(self, self.thread.submit(self.subscribe_to(subject, on_message)).result())

    def check_open(self) -> None:
        """Raise ConnectionClosed if nothing can be sent any more; from any thread."""
        if not self.is_open:
            raise ConnectionClosed(f"the connection to {self.link.address} is closed")

    def check_size(self, publication: Publication) -> None:
        """Raise MessageTooLarge if the server takes no message of that size; it would close the connection."""
        publication.check_size(self.client.max_payload, "the server (max_payload)")

    def check_hears(self) -> None:
        """Raise PermissionDenied if the server's answers cannot arrive; from any thread."""
        if self._deaf is not None:
            raise _denial("subscription", self._deaf)

    def on_reconnect(self, listener: Listener) -> None:
        """Have a listener called on the loop whenever the connection is back."""
        self._listeners.add(listener)

    def forget(self, listener: Listener) -> None:
        """Take a listener back."""
        self._listeners.discard(listener)

    async def receive(self, receiver: Receiver) -> tuple[str, Any]:
        """Subscribe to an inbox of one's own, on the shortest way; return its subject and the subscription."""
        inbox = self.client.new_inbox()
        return inbox, await self._receive(inbox, receiver)

    async def subscribe_to(self, subject: str, callback: Callable[[Msg], Awaitable[None]] | None) -> Any:
        """Subscribe to a subject and return the subscription."""
        try:
            return await self.client.subscribe(subject, cb=callback)
        except nats.errors.BadSubjectError as error:
            raise ValueError(f"{subject!r} is not a subject that can be subscribed to") from error
        except nats.errors.Error as error:
            raise ConnectionClosed(f"the connection to {self.link.address} is closed: {error}") from error

    async def unsubscribe(self, subscription: Any, *, drain: bool = True) -> None:
        """End a subscription; unless told otherwise, once what is already on its way here has been handled."""
        if subscription is None or subscription._conn is not self.client or self.client.is_closed:
            return
        try:
            if drain and self.client.is_connected:
                await subscription.drain()
            else:
                await subscription.unsubscribe()
        except nats.errors.Error as error:
            # The connection broke meanwhile; nats-py would subscribe again once it is back.
            self.logger.debug("Unsubscribing: %s", error)
            subscription._stop_processing()
            self.client._remove_sub(subscription._id)
        if self.link.receivers is not None:
            self.link.receivers.pop(_sid(subscription), None)

    async def request(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        """Send a request and return the answer.

        Raises:
          CallTimeout: If there is none within the timeout.
          PermissionDenied: If the server does not let this user ask.
          UnsupportedServer: If the server has JetStream switched off.
        """
        deadline = asyncio.get_running_loop().time() + self.timeout
        while True:
            left = deadline - asyncio.get_running_loop().time()
            try:
                return await self.ask(subject, body, headers, min(max(left, 0.001), ASK_AGAIN))
            except RequestLost:
                # What is asked here may be asked twice.
                continue
            except CallTimeout:
                # A leader that dies takes its questions along, and the next one answers only new ones.
                if left <= ASK_AGAIN:
                    raise
            except nats.errors.NoRespondersError as error:
                if not self.settings.domain and not self.client._server_info.get("jetstream"):
                    raise UnsupportedServer(
                        f"the server at {self.link.address} has JetStream switched off: start it with 'nats-server "
                        "-js', or add a jetstream block to its configuration"
                    ) from error
                if left <= NO_RESPONDERS_PAUSE:
                    raise CallTimeout(
                        f"nobody answers {subject!r}: there is no leader, the domain is wrong, or JetStream is off"
                    ) from error
                await asyncio.sleep(NO_RESPONDERS_PAUSE)

    async def store(self, publication: Publication) -> Receipt:
        """Publish a message and wait until its stream has stored it.

        Raises:
          MessageTooLarge: If the server takes no message of that size.
          StreamNotFound: If no stream listens on its subject.
          ApiError: If the stream refuses it.
          CallTimeout: If there is no answer within the timeout.
        """
        self.check_size(publication)
        answered: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Exception):
                answered.set_exception(outcome)
            else:
                answered.set_result(outcome)

        token = self.submit(publication, lambda outcome: None if answered.done() else done(outcome))
        try:
            return await asyncio.wait_for(answered, self.timeout)
        except asyncio.TimeoutError as error:
            raise self.unconfirmed(publication) from error
        finally:
            self.publisher.forget(token)

    async def persist(self, step: Callable[[], Awaitable[T]], missing: Callable[[StreamNotFound], object]) -> T:
        """Take a step, and again within the timeout while nobody answers for its stream: it may be without a leader.

        Parameters:
          step(Callable): What needs the stream.
          missing(Callable): Told each time that the stream was not there; it raises to give up.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        while True:
            try:
                return await step()
            except StreamNotFound as error:
                missing(error)
                if loop.time() + NO_RESPONDERS_PAUSE > deadline:
                    raise
            await asyncio.sleep(NO_RESPONDERS_PAUSE)

    def submit(self, publication: Publication, done: Callable[[Outcome], object], *, at_once: bool = False) -> bytes:
        """Begin to publish a message of a size the server takes, as the publisher does; from any thread."""
        self.check_hears()
        return self.publisher.submit(publication, done, at_once=at_once)

    def submit_together(
        self, publications: Sequence[Publication], batch: str, done: Callable[[Outcome], object]
    ) -> bytes:
        """Begin to publish such messages together, as the publisher does; from any thread."""
        self.check_hears()
        return self.publisher.submit_together(publications, batch, done)

    def unconfirmed(self, publication: Publication) -> CallTimeout:
        """What to raise when there is no answer to a publish."""
        return CallTimeout(
            f"the server did not confirm a message to {publication.subject!r} within {self.settings.timeout} ms: "
            "it may or may not be stored; check that the server is up, and send again if running twice does no harm"
        )

    async def probe(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout: float) -> None:
        """Send a request only to learn whether this user may; nobody needs to listen, or to answer in time.

        Raises:
          PermissionDenied: If the server does not let this user ask.
        """
        try:
            await self.ask(subject, body, headers, timeout)
        except (nats.errors.NoRespondersError, CallTimeout) as error:
            self.logger.debug("Probing %r: %s", subject, error)

    @property
    def server_version(self) -> str:
        """The version of the server that this is connected to; from any thread."""
        return str(self.client._server_info.get("version", ""))

    async def call_api(self, operation: str, body: object = None) -> dict[str, Any]:
        """Call JetStream's API.

        Parameters:
          operation(str): What follows the API's prefix, such as ``STREAM.INFO.<stream>``.
          body(object): The request, to be written as JSON.

        Raises:
          ApiError: If the server answers with an error.

        Returns:
          dict: The answer.
        """
        subject = f"{self.api}.{operation}"
        answer = await self.request(subject, b"" if body is None else json.dumps(body).encode())
        fields: dict[str, Any] = json.loads(answer.data)
        error = fields.get("error")
        if error is not None and error.get("err_code") in _NO_JETSTREAM:
            raise UnsupportedServer(
                f"the server at {self.link.address} does not let this account use JetStream: switch it on for the "
                "account ('jetstream: enabled'), or give the broker the credentials of another"
            )
        if error is not None:
            raise ApiError(operation, error["code"], error.get("err_code", 0), error.get("description", ""))
        return fields

    async def ask(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout: float) -> Msg:
        """Send a request once, as :meth:`request` does, and wait so many seconds for the answer.

        Raises:
          NoRespondersError: If nobody listens; nats-py's own.
          RequestLost: If the link broke meanwhile.
        """
        self.check_hears()
        denied: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asking = (subject.lower(), denied)
        self._asking.add(asking)
        answer = asyncio.ensure_future(self.client.request(subject, body, timeout, headers=headers))
        try:
            await asyncio.wait({answer, denied}, return_when=asyncio.FIRST_COMPLETED)
            if denied.done() and not answer.done():
                if denied.result() is _LOST:
                    raise RequestLost
                inbox: str | None = denied.result()
                raise _denial("subscription", inbox) if inbox else _denial("publish", subject)
            return await answer
        except nats.errors.TimeoutError as error:
            raise CallTimeout(f"no answer to {subject!r} within {timeout:.1f} s from {self.link.address}") from error
        except (nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError) as error:
            raise ConnectionClosed(f"the connection to {self.link.address} is closed: {error}") from error
        finally:
            answer.cancel()
            self._asking.discard(asking)

    async def _open(self) -> None:
        await self.link.connect()
        inbox = f"{self.client.new_inbox()}."
        self._inboxes = inbox[: inbox[:-1].rindex(".") + 1]
        self.publisher = Publisher(self.outbox, inbox)
        await self._subscribe_receipts()
        self.publisher.watch()

    async def _close(self) -> None:
        if not self.client.is_closed:
            await self.outbox.settle()
        await self.link.close()

    async def _receive(self, subject: str, receiver: Receiver) -> Any:
        async def on_message(msg: Msg) -> None:
            receiver(msg.subject.encode(), msg.reply.encode(), header_block(msg.headers or {}), msg.data)

        if self.link.receivers is None:
            return await self.subscribe_to(subject, on_message)
        subscription = await self.subscribe_to(subject, None)
        self.link.receivers[_sid(subscription)] = receiver
        return subscription

    async def _subscribe_receipts(self) -> None:
        self._hearing = self.client
        await self._receive(f"{self.publisher.inbox}*", self.publisher.on_reply)

    def _on_back(self) -> None:
        self._deaf = None
        for _, denied in list(self._asking):
            if not denied.done():
                denied.set_result(_LOST)
        if self._hearing is not self.client:
            self._hearing_again = asyncio.ensure_future(self._subscribe_receipts())
        self.outbox.resume()
        self.publisher.resume()
        for listener in list(self._listeners):
            listener()

    def _on_denied(self, verb: str, subject: str, error: Exception) -> None:
        inbox = subject if verb == "subscription" and subject.startswith(self._inboxes.lower()) else None
        self._deaf = self._deaf or inbox

        def concerns(published: str) -> bool:
            return inbox is not None or (verb == "publish" and published.lower() == subject)

        self.publisher.fail(_denial(verb, subject), concerns)
        for asked, denied in list(self._asking):
            if concerns(asked) and not denied.done():
                denied.set_result(inbox)


class Subscription:
    """A subscription that lasts until it is closed; a context manager.

    Parameters:
      session(Session): The session it belongs to.
      subscription(object): The client's subscription.
    """

    def __init__(self, session: Session, subscription: Any) -> None:
        self._session = session
        self._subscription = subscription

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the messages."""
        if self._session.is_open:
            self._session.thread.submit(self._session.unsubscribe(self._subscription)).result()


def _sid(subscription: Any) -> bytes:
    return b"%d" % subscription._id


def _denial(verb: str, subject: str) -> PermissionDenied:
    if verb == "subscription":
        return PermissionDenied(
            f"this user may not subscribe to {subject!r}, where the server's answers arrive: allow it, or give the "
            "broker the inbox_prefix that the user may subscribe to"
        )
    return PermissionDenied(f"this user may not publish to {subject!r}: allow it in the server's permissions")
