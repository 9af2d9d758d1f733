"""The only module that uses private parts of nats-py; the versions allowed in setup.cfg have them all.

What is used, and why a public way does not do:

- ``Client._transport``: a transport of our own takes messages before nats-py's tasks do, and lets threads write.
- ``TcpTransport._io_writer`` and ``_bare_io_writer``: its socket, which TLS hides behind another writer.
- ``WebSocketTransport._using_tls``: whether a WebSocket is encrypted.
- ``WebSocketTransport._ws`` and aiohttp's ``ClientWebSocketResponse._response``: nobody waits for its socket to close.
- ``Client._pending`` and ``_pending_data_size``: what nats-py waits to write goes out before what we write.
- ``Client._send_ping``: a pong for each question; ``flush()`` gives a late pong up and stops reading when it comes.
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
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.errors import ConnectionReconnectingError

from .framing import InboxFilter, Receivers

#: Bytes that may wait for the socket before more is held back.
HIGH_WATER = 1024 * 1024

#: Seconds to wait for the server's answer to a ping of the outbox.
PONG_TIMEOUT = 5

#: Seconds between two attempts of the loop to write while another thread does.
RETRY_WRITE = 0.0005

#: Seconds after which a thread that still writes is taken for lost: an exception hit it at the worst moment.
WRITE_LIMIT = 1.0

_OWNER = "owner"


class TlsInboxFilter(InboxFilter):
    """An inbox filter of a connection that cannot be half open; asyncio warns of who wants that."""

    def eof_received(self) -> None:
        super().eof_received()


class SharedTransport(TcpTransport):
    """nats-py's TCP transport, to which other threads than the loop's may write at once.

    To wake the loop and have it write takes longer than to write.  Under TLS, whose state is the
    loop's, asyncio writes.

    No lock guards the socket.  dramatiq throws exceptions into threads (time limits, shutdowns), and one
    that hits between the taking of a lock and its ``try`` would leave it taken for ever.  Instead each
    writer claims the turn with a token of its own, nobody waits for a turn on a thread, and the loop takes
    it away from a writer that was lost.  A connection that may hold half a command is given up; all that
    was on its way is sent again over the next one.

    Parameters:
      receivers(Receivers): Who takes messages before nats-py sees them.
    """

    def __init__(self, receivers: Receivers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._receivers = receivers
        self._loop: asyncio.AbstractEventLoop
        self._socket: socket.socket | None = None
        self._turn: dict[str, object] = {}
        self._torn = False
        self._unsent = bytearray()
        #: What the loop could not write because it was another thread's turn.
        self._queued: list[bytes] = []
        self._blocked: tuple[object, float] | None = None
        self._watching = False
        self._room: asyncio.Event

    def __bool__(self) -> bool:
        # nats-py would put a transport of its own in the place of one that is not connected yet.
        return True

    @property
    def descriptors(self) -> list[int]:
        """The numbers of its open sockets."""
        writer = self._bare_io_writer
        sockets = [writer.get_extra_info("socket") if writer else None, self._socket]
        return [found.fileno() for found in sockets if found is not None]

    @property
    def unsent(self) -> int:
        """How many bytes wait for the socket."""
        if self._socket is not None:
            return len(self._unsent) + sum(map(len, self._queued))
        return self._io_writer.transport.get_write_buffer_size() if self._io_writer else 0

    async def connect(self, uri: Any, buffer_size: int, connect_timeout: int) -> None:
        self._discard()
        await super().connect(uri, buffer_size, connect_timeout)
        self._filter_inboxes()
        self._loop, self._room = asyncio.get_running_loop(), asyncio.Event()
        # A descriptor of its own, for asyncio lets nobody else watch the one it reads from.
        self._socket = socket.fromfd(self.descriptors[0], socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)

    async def connect_tls(self, uri: Any, ssl_context: Any, buffer_size: int, connect_timeout: int) -> None:
        self._detach()
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        self._filter_inboxes(TlsInboxFilter)

    def write(self, payload: bytes) -> None:
        """Write, or keep what the socket does not take now; on the loop."""
        if self._socket is None:
            if self._io_writer is not None:
                super().write(payload)  # type: ignore[no-untyped-call]
            return
        self._queued.append(payload)
        self._flush()

    def writelines(self, payload: Iterable[bytes]) -> None:
        self.write(b"".join(payload))

    def write_at_once(self, payload: bytes) -> bool:
        """Write on any thread, unless something else is before it; tell whether that was done."""
        token, writing = object(), False
        turn = self._turn
        try:
            if turn.setdefault(_OWNER, token) is not token or self._torn:
                return False
            if self._socket is None or self._unsent or self._queued:
                return False
            writing = True
            self._send(payload)
            writing = False
            if self._unsent:
                self._loop.call_soon_threadsafe(self._flush)
            return True
        finally:
            if writing:
                self._torn = True
            if turn.get(_OWNER) is token:
                del turn[_OWNER]

    async def drain(self) -> None:
        """Wait until the socket has taken enough to go on.

        Raises:
          ConnectionResetError: If the connection goes away.
        """
        if self._socket is None:
            await super().drain()  # type: ignore[no-untyped-call]
        while self.unsent >= HIGH_WATER:
            self._room.clear()
            await self._room.wait()
            if self._socket is None:
                raise ConnectionResetError

    def close(self) -> None:
        self._detach()
        super().close()  # type: ignore[no-untyped-call]

    def _discard(self) -> None:
        """Close what a handshake that failed left open: nats-py connects anew and forgets it."""
        self._detach()
        for writer in {self._io_writer, self._bare_io_writer} - {None}:
            writer.close()  # type: ignore[union-attr]

    def _filter_inboxes(self, kind: type[InboxFilter] = InboxFilter) -> None:
        """Have what arrives pass the filter before nats-py sees it."""
        transport: Any = self._io_writer and self._io_writer.transport
        transport.set_protocol(kind(transport.get_protocol(), self._receivers))

    def _send(self, payload: bytes) -> None:
        """Hand the socket what it takes, and keep the rest; by whoever has the turn."""
        self._unsent += payload if self._unsent else payload[self._offer(payload) :]

    def _offer(self, payload: bytes) -> int:
        """How many bytes the socket takes; all of them if it is gone, for who reads from it will hear of that."""
        if self._socket is None:
            return len(payload)
        try:
            return self._socket.send(payload)
        except BlockingIOError:
            return 0
        except OSError:
            return len(payload)

    def _flush(self) -> None:
        """Write what waits; on the loop, which no exception from outside hits."""
        if self._socket is None:
            return
        owner = self._turn.setdefault(_OWNER, self)
        if owner is not self:
            self._flush_later(owner)
            return
        try:
            self._blocked = None
            if self._torn:
                self._give_up()
                return
            if self._unsent:
                del self._unsent[: self._offer(bytes(self._unsent[:HIGH_WATER]))]
            queued, self._queued = self._queued, []
            if queued:
                self._send(queued[0] if len(queued) == 1 else b"".join(queued))
        finally:
            self._turn.pop(_OWNER, None)
        self._watch()

    def _flush_later(self, owner: object) -> None:
        now = time.monotonic()
        if self._blocked is None or self._blocked[0] is not owner:
            self._blocked = owner, now
        if now - self._blocked[1] > WRITE_LIMIT:
            self._give_up()
        else:
            self._loop.call_later(RETRY_WRITE, self._flush)

    def _give_up(self) -> None:
        """End a connection that may hold half a command, and what its lost writer had claimed."""
        self._turn, self._torn, self._blocked = {}, False, None
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    def _watch(self) -> None:
        if self._unsent and not self._watching and self._socket is not None:
            self._watching = True
            self._loop.add_writer(self._socket.fileno(), self._flush)
        elif not self._unsent:
            self._unwatch()
        self._room.set()

    def _unwatch(self) -> None:
        if self._watching and self._socket is not None:
            self._watching = False
            self._loop.remove_writer(self._socket.fileno())

    def _detach(self) -> None:
        """Give the socket back to asyncio alone."""
        self._unwatch()
        # A thread that writes at this moment holds the old turn, and sends to a socket that is closed.
        mine, self._socket = self._socket, None
        self._turn, self._torn, self._blocked = {}, False, None
        self._unsent, self._queued = bytearray(), []
        if mine is not None:
            mine.close()
            self._room.set()


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
        """What the server said of itself; empty before it did."""
        return self._server_info or {}

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection speaks TLS, whatever the server says of itself."""
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
        if self._pending:
            transport.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0
        transport.write(data)
        # A WebSocket sends only what it is asked to drain.
        return isinstance(transport, SharedTransport) and transport.unsent < HIGH_WATER

    def write_at_once(self, data: bytes) -> bool:
        """Write to the server on any thread, unless something else is before it; tell whether that was done."""
        transport = self._transport
        if not self.is_connected or self._pending or not isinstance(transport, SharedTransport):
            return False
        return transport.write_at_once(data)

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
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        await asyncio.wait([pong], timeout=PONG_TIMEOUT)
        if not pong.done():
            raise ConnectionReconnectingError

    async def close(self) -> None:
        """Close the connection, and its socket before the loop ends."""
        sockets = _socket_transport(self._transport)
        await super().close()
        if sockets is not None:
            # The WebSocket has said goodbye; what would still be awaited is only the end of its TLS.
            sockets.abort()
            await asyncio.sleep(0)

    async def abandon(self) -> None:
        """Close a client that never connected, or is of no use; nobody is told."""
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
