"""A live client on its loop thread, with what rides on it; nats-py's errors become ours in here."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import nats.errors
from dramatiq.logging import get_logger
from nats.aio.client import Client
from nats.aio.msg import Msg

from .errors import (
    ApiError,
    AuthenticationFailed,
    CallTimeout,
    ConnectionClosed,
    ConnectionFailed,
    PermissionDenied,
    ServerUnreachable,
    UnsupportedServer,
)
from .loop_thread import LoopThread
from .outbox import Outbox, Parcel
from .publisher import Publisher, Receipt
from .settings import BrokerSettings
from .wire import Publication

Listener = Callable[[], object]

MIN_SERVER_VERSION = (2, 12)

#: Connect options that the broker sets for itself.
RESERVED_OPTIONS = frozenset(
    {"servers", "error_cb", "disconnected_cb", "reconnected_cb", "closed_cb", "allow_reconnect"}
)

#: A link that went dead is noticed after three of these seconds, so within the default timeout.
PING_INTERVAL = 2

#: Seconds between attempts to answer a request that nobody listens to, as happens for a moment
#: while a cluster elects a leader.
NO_RESPONDERS_PAUSE = 0.25

#: The server's error numbers for an account, or a server, without JetStream.
_NO_JETSTREAM = frozenset({10039, 10076})

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_SPACE = re.compile(r"\s")
_REFUSED = ("authorization", "authentication", "credentials", "nkey", "jwt")


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
        self.client = Client()
        self.outbox = Outbox(self.thread, lambda: self.client)
        self.publisher: Publisher
        self.closing = False
        self._listeners: set[Listener] = set()
        self._asking: set[tuple[str, asyncio.Future[Any]]] = set()
        self._inboxes = ""
        self._deaf: str | None = None
        self._last_error: Exception | None = None
        self._reopening: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the client is connected or about to be again; from any thread."""
        return not self.closing and not self.client.is_closed

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
        self.closing = True
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
          ConnectionClosed: If the connection is closed.
        """
        if not subject or any(token in ("", "*", ">") or _SPACE.search(token) for token in subject.split(".")):
            raise ValueError(f"{subject!r} is not a subject that can be published to")
        self.check_open()
        self.outbox.send(Parcel(subject, body, keep=True))

    def listen(self, subject: str, callback: Callable[[str, bytes], object]) -> Subscription:
        """Call back on the loop for each message on a subject; from any thread but the loop's."""

        async def on_message(msg: Msg) -> None:
            callback(msg.subject, msg.data)

        return Subscription(self, self.thread.submit(self.subscribe_to(subject, on_message)).result())

    def check_open(self) -> None:
        """Raise ConnectionClosed if nothing can be sent any more; from any thread."""
        if not self.is_open:
            raise ConnectionClosed(f"the connection to {self._address()} is closed")

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

    def socket_descriptor(self) -> int | None:
        """The number of the client's socket, if it has one; from any thread."""
        writer = getattr(self.client._transport, "_bare_io_writer", None)
        sock = writer and writer.get_extra_info("socket")
        return sock.fileno() if sock else None

    async def subscribe(self, callback: Callable[[Msg], Awaitable[None]]) -> tuple[str, Any]:
        """Subscribe to an inbox of one's own and return its subject and the subscription."""
        inbox = self.client.new_inbox()
        return inbox, await self.subscribe_to(inbox, callback)

    async def subscribe_to(self, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> Any:
        """Subscribe to a subject and return the subscription."""
        try:
            return await self.client.subscribe(subject, cb=callback)
        except nats.errors.BadSubjectError as error:
            raise ValueError(f"{subject!r} is not a subject that can be subscribed to") from error
        except nats.errors.Error as error:
            raise ConnectionClosed(f"the connection to {self._address()} is closed: {error}") from error

    async def unsubscribe(self, subscription: Any, *, drain: bool = True) -> None:
        """End a subscription; unless told otherwise, once what is already on its way here has been handled."""
        if subscription is None or subscription._conn is not self.client or not self.client.is_connected:
            return
        try:
            await (subscription.drain() if drain else subscription.unsubscribe())
        except nats.errors.Error as error:
            # The connection broke meanwhile, and the subscription with it.
            self.logger.debug("Unsubscribing: %s", error)

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
                return await self.ask(subject, body, headers, max(left, 0.001))
            except nats.errors.NoRespondersError as error:
                if not self.settings.domain and not self.client._server_info.get("jetstream"):
                    raise UnsupportedServer(
                        f"the server at {self._address()} has JetStream switched off: start it with 'nats-server "
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
        future = self.submit(publication)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.timeout)
        except asyncio.TimeoutError as error:
            raise self.unconfirmed(publication) from error

    def submit(self, publication: Publication) -> Future[Receipt]:
        """Begin to publish a message; from any thread.  Raises MessageTooLarge."""
        self.check_hears()
        publication.check_size(self.client.max_payload, "the server (max_payload)")
        return self.publisher.submit(publication)

    def unconfirmed(self, publication: Publication) -> CallTimeout:
        """What to raise when there is no answer to a publish."""
        return CallTimeout(
            f"the server did not confirm a message to {publication.subject!r} within {self.settings.timeout} ms: "
            "it may or may not be stored; check that the server is up, and send again if running twice does no harm"
        )

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
                f"the server at {self._address()} does not let this account use JetStream: switch it on for the "
                "account ('jetstream: enabled'), or give the broker the credentials of another"
            )
        if error is not None:
            raise ApiError(operation, error["code"], error.get("err_code", 0), error.get("description", ""))
        return fields

    def parse_headers(self, block: bytes) -> dict[str, str]:
        """Read a block of headers as it is stored; from any thread."""
        _, _, lines = block.partition(b"\r\n")
        return Client._parse_header_lines(lines)

    async def ask(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout: float) -> Msg:
        """Send a request once, as :meth:`request` does, and wait so many seconds for the answer.

        Raises:
          NoRespondersError: If nobody listens; nats-py's own.
        """
        self.check_hears()
        denied: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asking = (subject.lower(), denied)
        self._asking.add(asking)
        answer = asyncio.ensure_future(self.client.request(subject, body, timeout, headers=headers))
        try:
            await asyncio.wait({answer, denied}, return_when=asyncio.FIRST_COMPLETED)
            if denied.done() and not answer.done():
                inbox: str | None = denied.result()
                raise _denial("subscription", inbox) if inbox else _denial("publish", subject)
            return await answer
        except nats.errors.TimeoutError as error:
            raise CallTimeout(f"no answer to {subject!r} within {timeout:.1f} s from {self._address()}") from error
        except (nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError) as error:
            raise ConnectionClosed(f"the connection to {self._address()} is closed: {error}") from error
        finally:
            answer.cancel()
            self._asking.discard(asking)

    async def _open(self) -> None:
        await self._connect()
        inbox = f"{self.client.new_inbox()}."
        self._inboxes = inbox[: inbox[:-1].rindex(".") + 1]
        self.publisher = Publisher(self.outbox, inbox)
        await self._subscribe_receipts()
        self.publisher.watch()

    async def _close(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
        if not self.client.is_closed:
            await self.outbox.settle()
            await self.client.close()

    async def _subscribe_receipts(self) -> None:
        await self.client.subscribe(f"{self.publisher.inbox}*", cb=self.publisher.on_reply)

    async def _connect(self) -> None:
        self._refusal: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        opening = asyncio.ensure_future(self.client.connect(**self._connect_options()))
        await asyncio.wait({opening, self._refusal}, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            self._last_error = _failure(opening) or self._last_error
        if self._refusal.done():
            self._last_error = self._refusal.result()
        if not opening.done() or _failure(opening) is not None:
            opening.cancel()
            await self._abandon()
            raise self._connect_error() from self._last_error
        try:
            self._check_tls()
            self._check_version()
        except ConnectionFailed:
            await self._abandon()
            raise

    async def _abandon(self) -> None:
        """Close a client that is of no use, without starting over."""
        self._refusal.cancel()
        # One that failed before its first attempt to connect refuses to be closed.
        if self.client._flush_queue is not None:
            await self.client.close()

    def _connect_options(self) -> dict[str, Any]:
        return {
            "name": f"{os.path.basename(sys.argv[0]) or 'python'} {os.getpid()}",
            "max_reconnect_attempts": -1,
            # Not all at once when a server comes back to many processes.
            "reconnect_time_wait": random.uniform(0.25, 0.75),
            "ping_interval": PING_INTERVAL,
            "max_outstanding_pings": 2,
            **self.settings.connect_options,
            "servers": self.settings.servers(),
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }

    def _connect_error(self) -> Exception:
        where = self._address()
        reason = self._last_error or f"no answer within {self.timeout:.0f} s"
        if self._last_error is not None and _is_refusal(self._last_error):
            return AuthenticationFailed(
                f"the server at {where} does not let us in: {reason}; check the user, the credentials file or the TLS "
                "settings given to the broker"
            )
        return ServerUnreachable(
            f"no NATS server answers at {where}: {reason}; is it running, and is this the right address? It is the "
            "broker's url, or NATS_URL from the environment"
        )

    def _check_tls(self) -> None:
        # nats-py would go on in the clear.
        if self.settings.connect_options.get("tls") and not self.client._server_info.get("tls_required"):
            raise AuthenticationFailed(
                f"the server at {self._address()} does not speak TLS, but the broker was given a TLS context: switch "
                "TLS on at the server, or leave the option tls out"
            )

    def _check_version(self) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER_VERSION:
            found = f"{version.major}.{version.minor}.{version.patch}"
            raise UnsupportedServer(
                f"the server at {self._address()} is nats-server {found}, but 2.12 or newer is needed (message "
                "schedules and per-message TTLs): update the server"
            )

    def _address(self) -> str:
        """The servers' addresses, without passwords."""
        return ", ".join(re.sub(r"//[^@/]*@", "//", server) for server in self.settings.servers())

    async def _on_error(self, error: Exception) -> None:
        denied = _DENIED.search(str(error))
        if denied:
            self._on_denied(denied[1], denied[2], error)
            return
        if not self.client.is_reconnecting and str(error) != str(self._last_error):
            self.logger.warning("NATS at %s: %s", self._address(), str(error) or type(error).__name__)
        self._last_error = error
        if _is_refusal(error) and not self._refusal.done():
            self._refusal.set_result(error)

    def _on_denied(self, verb: str, subject: str, error: Exception) -> None:
        self.logger.error("NATS at %s: %s", self._address(), error)
        inbox = subject if verb == "subscription" and subject.startswith(self._inboxes.lower()) else None
        self._deaf = self._deaf or inbox

        def concerns(published: str) -> bool:
            return inbox is not None or (verb == "publish" and published.lower() == subject)

        self.publisher.fail(_denial(verb, subject), concerns)
        for asked, denied in list(self._asking):
            if concerns(asked) and not denied.done():
                denied.set_result(inbox)

    async def _on_disconnected(self) -> None:
        self._deaf = None
        if not self.closing and not self._refusal.cancelled():
            self.logger.warning("Lost the connection to NATS at %s; reconnecting.", self._address())

    async def _on_reconnected(self) -> None:
        self.logger.info("Connected to NATS at %s again.", self._address())
        self._last_error = None
        self.outbox.resume()
        self.publisher.resume()
        for listener in list(self._listeners):
            listener()

    async def _on_closed(self) -> None:
        """Start over when the client gave up, as it does when the server expires its credentials."""
        if not self.closing and self._refusal.done() is False and self._reopening is None:
            self._reopening = asyncio.ensure_future(self._reopen())

    async def _reopen(self) -> None:
        while not self.closing:
            self.client = Client()
            try:
                await self._connect()
                await self._subscribe_receipts()
            except Exception as error:
                self.logger.error("%s; trying again.", error)
                await asyncio.sleep(self.timeout)
            else:
                break
        self._reopening = None
        await self._on_reconnected()


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


def _failure(opening: asyncio.Future[None]) -> Exception | None:
    error = opening.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


def _is_refusal(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (ssl.SSLError, FileNotFoundError, ImportError)) or any(word in text for word in _REFUSED)


def _denial(verb: str, subject: str) -> PermissionDenied:
    if verb == "subscription":
        return PermissionDenied(
            f"this user may not subscribe to {subject!r}, where the server's answers arrive: allow it, or give the "
            "broker the inbox_prefix that the user may subscribe to"
        )
    return PermissionDenied(f"this user may not publish to {subject!r}: allow it in the server's permissions")
