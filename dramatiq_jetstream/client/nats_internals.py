"""The only module that uses private parts of nats-py; the versions allowed in setup.cfg have them all.

What is used, and why a public way does not do:

- ``Client._transport``: a transport of our own takes messages before nats-py's tasks do, and lets threads write.
- ``TcpTransport._io_writer`` and ``_bare_io_writer``: its socket, which TLS hides behind another writer.
- ``WebSocketTransport._using_tls``: whether a WebSocket is encrypted.
- ``WebSocketTransport._ws`` and aiohttp's ``ClientWebSocketResponse._response``: nobody waits for its socket to close.
- ``Client._pending`` and ``_pending_data_size``: what nats-py waits to write goes out before what we write.
- ``Client._send_ping``: a pong for each question; ``flush()`` gives a late pong up and stops reading when it comes.
- ``Client._process_pong`` and ``_pongs``: a pong that was given up, as nats-py's own ``flush()`` and ``drain()`` do
  when they are interrupted, must not stop the reading.
- ``Client._reading_task``: a client that stopped reading says that it is connected.
- ``Client._server_info``: TLS, JetStream and version of the server, which no property tells.
- ``Client._connect_command``, ``_current_server`` and ``_auth_configured``: the last moment before credentials are
  sent, when a server without TLS can still be refused, and each server given the credentials of its own address.
- ``Client._process_info``: TLS that a server offers but does not require is taken, which nats-py does not do.
- ``Client._status`` and ``_flush_queue``: a client that failed before its first attempt refuses ``close()``.
- ``Client._disconnected_cb`` and ``_closed_cb``: nobody is told of a client that never connected.
- ``Subscription._id``, ``_conn``, ``_stop_processing`` and ``Client._remove_sub``: a subscription that ended while
  the connection was away must not come back with it.

``tests/unit/test_private_parts.py`` asserts each name and signature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.errors import ConnectionReconnectingError

from .framing import InboxFilter, Receivers
from .shared_socket import HIGH_WATER, SharedSocket

#: Seconds to wait for the server's answer to a ping of the outbox.
PONG_TIMEOUT = 5


class TlsInboxFilter(InboxFilter):
    """An inbox filter of a connection that cannot be half open; asyncio warns of who wants that."""

    def eof_received(self) -> None:
        super().eof_received()


class SharedTransport(TcpTransport):
    """nats-py's TCP transport, to which other threads than the loop's may write at once.

    To wake the loop and have it write takes longer than to write.  Under TLS, whose state is the
    loop's, asyncio writes.

    Parameters:
      receivers(Receivers): Who takes messages before nats-py sees them.
    """

    def __init__(self, receivers: Receivers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._receivers = receivers
        #: Where threads write; another one for each connection, so that a thread never writes to the next.
        self._shared: SharedSocket | None = None

    def __bool__(self) -> bool:
        # nats-py replaces a transport that is false, which its own is before it is connected.
        return True

    @property
    def descriptors(self) -> list[int]:
        """The numbers of its open sockets."""
        writer, shared = self._bare_io_writer, self._shared
        own = writer.get_extra_info("socket") if writer else None
        numbers = [own.fileno() if own is not None else -1, shared.descriptor if shared is not None else -1]
        return [number for number in numbers if number >= 0]

    @property
    def unsent(self) -> int:
        """How many bytes wait for the socket."""
        if self._shared is not None:
            return self._shared.unsent
        return self._io_writer.transport.get_write_buffer_size() if self._io_writer else 0

    async def connect(self, uri: Any, buffer_size: int, connect_timeout: int) -> None:
        self._discard()
        await super().connect(uri, buffer_size, connect_timeout)
        self._filter_inboxes()
        transport: Any = self._io_writer and self._io_writer.transport
        self._shared = SharedSocket(self.descriptors[0], transport.abort)

    async def connect_tls(self, uri: Any, ssl_context: Any, buffer_size: int, connect_timeout: int) -> None:
        self._detach()
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        self._filter_inboxes(TlsInboxFilter)

    def write(self, payload: bytes) -> None:
        """Write, or keep what the socket does not take now; on the loop."""
        if self._shared is not None:
            self._shared.write(payload)
        elif self._io_writer is not None and not self._io_writer.transport.is_closing():
            # uvloop's transport raises once it is closed, for example when nats-py still writes to a lost connection.
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: Iterable[bytes]) -> None:
        self.write(b"".join(payload))

    @property
    def shared(self) -> SharedSocket | None:
        """Where threads write; None under TLS, or without a connection."""
        return self._shared

    async def drain(self) -> None:
        """Wait until the socket has taken enough to go on.

        Raises:
          ConnectionResetError: If the connection goes away.
        """
        if self._shared is not None:
            await self._shared.drain()
        else:
            await super().drain()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._detach()
        super().close()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """End the connection at once; unsent data is lost."""
        self._detach()
        for writer in {self._io_writer, self._bare_io_writer} - {None}:
            writer.transport.abort()  # type: ignore[union-attr]

    def _discard(self) -> None:
        """Close the socket of a failed handshake: nats-py reconnects without closing it."""
        self._detach()
        for writer in {self._io_writer, self._bare_io_writer} - {None}:
            writer.close()  # type: ignore[union-attr]

    def _filter_inboxes(self, kind: type[InboxFilter] = InboxFilter) -> None:
        """Have what arrives pass the filter before nats-py sees it."""
        transport: Any = self._io_writer and self._io_writer.transport
        transport.set_protocol(kind(transport.get_protocol(), self._receivers))

    def _detach(self) -> None:
        """Give the socket back to asyncio alone."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()


class NatsClient(Client):
    """nats-py's client, with the few things that it does not offer.

    Parameters:
      websocket(bool): Whether it connects by WebSocket, whose transport is nats-py's own.
      tls(bool): Whether to take TLS where a server offers it without requiring it.
      before_connect(Callable): Called with the server's host and port before credentials are sent, and with
        whether the connection is encrypted.  It returns the connect options that say who we are, or raises
        one of nats-py's errors to refuse the server.
    """

    def __init__(
        self,
        *,
        websocket: bool,
        tls: bool,
        before_connect: Callable[[str | None, int | None, bool], Mapping[str, Any]],
    ) -> None:
        super().__init__()
        #: Who takes messages before nats-py sees them, by subscription; None if nats-py sees all.
        self.receivers: Receivers | None = None if websocket else {}
        self._tls = tls
        self._before_connect = before_connect
        if self.receivers is not None:
            self._transport = SharedTransport(self.receivers)

    @property
    def server_info(self) -> dict[str, Any]:
        """The server's INFO; empty before it arrives."""
        return self._server_info or {}

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS, independent of the server's INFO."""
        transport: Any = self._transport
        if isinstance(transport, WebSocketTransport):
            return bool(transport._using_tls)
        writer = transport and transport._io_writer
        return writer is not None and writer.get_extra_info("sslcontext") is not None

    @property
    def descriptors(self) -> list[int]:
        """The numbers of its open sockets; from any thread."""
        return self._transport.descriptors if isinstance(self._transport, SharedTransport) else []

    def write(self, data: bytes) -> bool:
        """Write to the server, behind what the client itself has to say; False if it must drain first.

        Raises:
          ConnectionResetError: If there is no connection.
        """
        transport = self._transport
        if not transport:
            raise ConnectionResetError
        self._write_pending(transport)
        transport.write(data)
        # A WebSocket sends nothing before drain() is called.
        return isinstance(transport, SharedTransport) and transport.unsent < HIGH_WATER

    @property
    def shared_socket(self) -> SharedSocket | None:
        """What any thread may write to now; None if something else is before it, or only the loop may write."""
        transport = self._transport
        if not self.is_connected or self._pending or not isinstance(transport, SharedTransport):
            return None
        return transport.shared

    async def drain_socket(self) -> None:
        """Wait until the socket has taken enough to go on.  Raises OSError."""
        if self._transport:
            await self._transport.drain()

    async def ping(self) -> None:
        """Wait until the server has seen what was written.

        Raises:
          ConnectionReconnectingError: If the connection is away, or the answer too late.
        """
        if not self.is_connected:
            raise ConnectionReconnectingError
        # Otherwise the ping overtakes commands that nats-py has buffered, such as a subscription.
        self._write_pending(self._transport)
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        await asyncio.wait([pong], timeout=PONG_TIMEOUT)
        if not pong.done():
            raise ConnectionReconnectingError

    @property
    def has_stopped_reading(self) -> bool:
        """Whether it reports to be connected but no longer reads, after an error that nats-py only logs."""
        return self.is_connected and self._reading_task is not None and self._reading_task.done()

    def abort(self) -> None:
        """End the connection at once, in any state."""
        self._status = Client.CLOSED
        if isinstance(self._transport, SharedTransport):
            self._transport.abort()

    async def close(self) -> None:
        """Close the connection, and its socket before the loop ends."""
        sockets = _socket_transport(self._transport)
        await super().close()
        if sockets is not None:
            # The WebSocket is closed; only the end of its TLS connection would be awaited.
            sockets.abort()
            await asyncio.sleep(0)

    def _write_pending(self, transport: Any) -> None:
        if self._pending:
            transport.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0

    async def abandon(self) -> None:
        """Close a client that never connected or is not used; no callback is called."""
        self._disconnected_cb = self._closed_cb = None
        if self._flush_queue is not None:
            await self.close()
        if isinstance(self._transport, SharedTransport):
            self._transport._discard()
        self._status = Client.CLOSED

    def owns(self, subscription: Subscription) -> bool:
        """Whether a subscription is one of this client's."""
        return subscription._conn is self

    def forget(self, subscription: Subscription) -> None:
        """Keep a subscription from coming back with the connection."""
        subscription._stop_processing()
        self._remove_sub(subscription._id)

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            # The waiter of this pong was cancelled.
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    def _connect_command(self) -> bytes:
        assert self._current_server is not None
        uri = self._current_server.uri
        credentials = self._before_connect(uri.hostname, uri.port, self.is_encrypted)
        self.options.update(credentials)
        self._auth_configured = self._auth_configured or bool(credentials)
        return super()._connect_command()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._tls and info.get("tls_available"):
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


def _socket_transport(transport: Any) -> asyncio.Transport | None:
    """asyncio's transport under a WebSocket that is open."""
    if not isinstance(transport, WebSocketTransport) or transport._ws is None:
        return None
    connection = transport._ws._response.connection
    found: asyncio.Transport | None = connection and connection.transport
    return found


def id_of(subscription: Subscription) -> bytes:
    """The id of a subscription, as the server writes it."""
    return b"%d" % subscription._id
