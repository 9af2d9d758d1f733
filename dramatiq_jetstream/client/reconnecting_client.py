"""The NATS client of a session: it connects, reports disconnections, and is replaced when it is closed."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import ssl
import sys
from collections.abc import Callable
from typing import Any

from ..addresses import Address, credentials_for
from ..errors import AuthenticationFailed, ConnectionFailed, ServerUnreachable, UnsupportedServer
from ..logs import get_logger
from ..settings import BrokerSettings
from .border import TlsMissing, is_refusal, showable
from .nats_internals import NatsClient
from .supervision import Supervisor

MIN_SERVER_VERSION = (2, 12)

#: Connect options that the broker sets for itself.
RESERVED_OPTIONS = frozenset(
    {"servers", "error_cb", "disconnected_cb", "reconnected_cb", "closed_cb", "allow_reconnect"}
)

#: A connection that went dead is noticed after three of these seconds, so within the default timeout.
PING_INTERVAL = 2

#: How many missing permissions are reported on one connection.
MAX_DENIALS = 1_000

#: Seconds between two looks at whether the client still reads.
LOOK_INTERVAL = 1.0

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)

#: Connect options with credentials; they take precedence over those in an address.
_CREDENTIALS = ("token", "user_credentials", "nkeys_seed", "nkeys_seed_str", "signature_cb")


class ReconnectingClient:
    """Keeps a client connected.  Methods are coroutines of the loop unless they say otherwise.

    Parameters:
      settings(BrokerSettings): Where to connect, and how.
      supervisor(Supervisor): Starts what runs in the background.
      on_back(Callable): Called when the connection is back after it was lost.
      on_denied(Callable): Called with the verb, the lower-case subject and the server's error when a
        permission is missing.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        supervisor: Supervisor,
        on_back: Callable[[], None],
        on_denied: Callable[[str, str, Exception], None],
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.closing = False
        self._settings = settings
        self._supervisor = supervisor
        self._on_back = on_back
        self._on_denied = on_denied
        #: Why the given addresses are invalid.
        self._unreadable = ""
        self._addresses = self._parse_addresses()
        self._tls = bool(settings.options().get("tls")) or bool(self._schemes & {"tls", "wss"})
        #: The current client; it is replaced after the server closed it permanently.
        self.client = self._new_client()
        #: During the first connect: the error that makes further attempts useless.
        self._refusal: asyncio.Future[Any] | None = None
        self._last_error: Exception | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._was_connected = False
        #: The missing permissions that were reported on this connection.
        self._denials: set[tuple[str, str]] = set()
        #: Subjects, in lower case, that this user need not be allowed to use.
        self.optional: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether the client is connected or about to be again; from any thread."""
        # A client that was connected once is replaced when the server closes it.
        return not self.closing and (self._was_connected or not self.client.is_closed)

    @property
    def address(self) -> str:
        """The servers' addresses, without credentials; from any thread."""
        return ", ".join(map(str, self._addresses))

    @property
    def denial(self) -> AuthenticationFailed | None:
        """Why the server does not let this client in again, if that is why it is away; from any thread."""
        error = self._last_error
        away = self._was_connected and not self.client.is_connected
        return self._refused(error) if away and error is not None and is_refusal(error) else None

    async def connect(self) -> None:
        """Connect.

        Raises:
          ServerUnreachable, AuthenticationFailed, UnsupportedServer: If that is not possible.
        """
        self._check_addresses()
        self._refusal = refusal = asyncio.get_running_loop().create_future()
        opening = asyncio.ensure_future(self.client.connect(**self._options()))
        try:
            timeout = self._settings.timeout / 1000
            await asyncio.wait({opening, refusal}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            failure = _failure(opening) if opening.done() else None
            if failure is not None:
                failure = self._showable(failure)
            if refusal.done() or failure is not None or not opening.done():
                self._last_error = refusal.result() if refusal.done() else failure or self._last_error
                raise self._connect_error() from self._last_error
            self._check_version()
            self._was_connected = True
        except ConnectionFailed:
            opening.cancel()
            await self._abandon()
            raise
        finally:
            self._refusal = None

    async def watch(self) -> None:
        """Reconnect a client that stopped reading; runs as long as the loop."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            if self.client.has_stopped_reading:
                self.logger.warning("The client stopped reading from NATS at %s; reconnecting.", self.address)
                await self.client.force_reconnect()

    async def close(self) -> None:
        """Disconnect permanently."""
        self.closing = True
        if self._replacing is not None:
            self._replacing.cancel()
        if not self.client.is_closed:
            await self.client.close()

    @property
    def _schemes(self) -> set[str]:
        return {address.scheme for address in self._addresses}

    def _parse_addresses(self) -> list[Address]:
        try:
            return self._settings.addresses()
        except ValueError as error:
            self._unreadable = str(error)
            return []

    def _check_addresses(self) -> None:
        if not self._addresses:
            reason = self._unreadable or "NATS_URL names no server"
            raise ServerUnreachable(f"{reason}; it is the broker's url, or NATS_URL from the environment")
        # Its headers may hold credentials, and are the first that is sent.
        if self._tls and "ws" in self._schemes:
            raise self._refused(TlsMissing())

    def _new_client(self) -> NatsClient:
        websocket = bool(self._schemes & {"ws", "wss"})
        return NatsClient(websocket=websocket, tls=self._tls, before_connect=self._before_connect)

    def _before_connect(self, host: str | None, port: int | None, encrypted: bool) -> dict[str, Any]:
        if self._tls and not encrypted:
            raise TlsMissing(f"the server at {host}:{port} does not speak TLS; it was sent no credentials")
        given = self._settings.options()
        if any(given.get(name) is not None for name in _CREDENTIALS):
            return {}
        if given.get("user") is not None and given.get("password") is not None:
            return {}
        return credentials_for(self._addresses, host, port)

    def _options(self) -> dict[str, Any]:
        return {
            "name": f"{os.path.basename(sys.argv[0]) or 'python'} {os.getpid()}",
            "max_reconnect_attempts": -1,
            # Not all at once when a server comes back to many processes.
            "reconnect_time_wait": random.uniform(0.25, 0.75),
            "ping_interval": PING_INTERVAL,
            "max_outstanding_pings": 2,
            **({"tls": ssl.create_default_context()} if self._tls else {}),
            **{name: value for name, value in self._settings.options().items() if value or name != "tls"},
            "servers": [address.url for address in self._addresses],
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }

    def _connect_error(self) -> Exception:
        if self._last_error is not None and is_refusal(self._last_error):
            return self._refused(self._last_error)
        reason = self._last_error or f"no answer within {self._settings.timeout} ms"
        return ServerUnreachable(
            f"no NATS server answers at {self.address}: {reason}; is it running, and is this the right address? It is "
            "the broker's url, or NATS_URL from the environment"
        )

    def _refused(self, error: Exception) -> AuthenticationFailed:
        if isinstance(error, TlsMissing):
            return AuthenticationFailed(
                f"the server at {self.address} does not speak TLS, but the broker was told to (by the option tls, or "
                "an address with tls:// or wss://): switch TLS on at the server, or ask for a connection without it"
            )
        return AuthenticationFailed(
            f"the server at {self.address} does not let us in: {error}; check the user, the credentials file or "
            "the TLS settings given to the broker"
        )

    def _check_version(self) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER_VERSION:
            found = f"{version.major}.{version.minor}.{version.patch}"
            raise UnsupportedServer(
                f"the server at {self.address} is nats-server {found}, but 2.12 or newer is needed (message "
                "schedules and per-message TTLs): update the server"
            )

    async def _abandon(self) -> None:
        client, self.client = self.client, self._new_client()
        await client.abandon()
        await self.client.abandon()

    def _showable(self, error: Exception) -> Exception:
        return showable(error, self._settings.secrets() if self._addresses else ())

    async def _on_error(self, given: Exception) -> None:
        denied = _DENIED.search(str(given))
        if denied:
            self._report_denial(denied[1], denied[2], given)
            self._on_denied(denied[1], denied[2], given)
            return
        error = self._showable(given)
        if not self.client.is_reconnecting and str(error) != str(self._last_error):
            self.logger.warning("NATS at %s: %s", self.address, str(error) or type(error).__name__)
        self._last_error = error
        if self._refusal is not None and not self._refusal.done() and is_refusal(error):
            self._refusal.set_result(error)

    def _report_denial(self, verb: str, subject: str, error: Exception) -> None:
        """Log each missing permission once; subjects of one bucket count as the same, as their keys differ."""
        kind = verb, ".".join(subject.split(".")[:2]) if verb == "subscription" else subject
        known = kind in self._denials or subject in self.optional or len(self._denials) >= MAX_DENIALS
        if not known:
            self._denials.add(kind)
        self.logger.log(logging.DEBUG if known else logging.ERROR, "NATS at %s: %s", self.address, error)

    async def _on_disconnected(self) -> None:
        if not self.closing:
            self.logger.warning("Lost the connection to NATS at %s; reconnecting.", self.address)

    async def _on_reconnected(self) -> None:
        self.logger.info("Connected to NATS at %s again.", self.address)
        self._last_error = None
        self._denials.clear()
        self._on_back()

    async def _on_closed(self) -> None:
        """Start over when the client gave up, as it does when the server expires its credentials."""
        if not self.closing and self._replacing is None:
            self._replacing = self._supervisor.keep("replacement of the closed connection", self._replace)

    async def _replace(self) -> None:
        while True:
            self.client = self._new_client()
            try:
                await self.connect()
            except ConnectionFailed as error:
                self.logger.error("%s; trying again.", error)
                await asyncio.sleep(self._settings.timeout / 1000)
            else:
                break
        self._replacing = None
        await self._on_reconnected()


def _failure(opening: asyncio.Future[None]) -> Exception | None:
    error = opening.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error
