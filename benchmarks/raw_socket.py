"""NATS over a blocking socket: the least that a confirmed publish can cost, and the fastest way to fill a stream."""

from __future__ import annotations

import itertools
import secrets
import socket
from collections.abc import Iterable
from types import TracebackType
from urllib.parse import urlsplit

#: How many messages are on their way at a time, far below what the server buffers.
WINDOW = 1_000


class RawSocket:
    """A connection with one inbox; a context manager."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port or 4222), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._inbox = f"_INBOX.{secrets.token_hex(8)}".encode()
        self._unread = b""
        self._line()
        self._socket.sendall(b'CONNECT {"verbose":false}\r\nSUB %b 1\r\nPING\r\n' % self._inbox)
        while self._line() != b"PONG":
            pass

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def publish(self, subject: bytes, body: bytes) -> None:
        """Publish a message and wait until the stream has stored it."""
        self._socket.sendall(self._command(subject, body))
        self._await_receipt()

    def publish_all(self, subject: str, bodies: Iterable[bytes]) -> None:
        """Publish messages, many at a time, and wait until the stream has stored them."""
        commands = (self._command(subject.encode(), body) for body in bodies)
        while window := list(itertools.islice(commands, WINDOW)):
            self._socket.sendall(b"".join(window))
            for _ in window:
                self._await_receipt()

    def _command(self, subject: bytes, body: bytes) -> bytes:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, self._inbox, len(body), body)

    def _await_receipt(self) -> None:
        while not (line := self._line()).startswith(b"MSG "):
            if line == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise ConnectionError(line.decode())
        receipt = self._line()
        if b'"error"' in receipt:
            raise RuntimeError(f"the stream refused a message: {receipt.decode()}")

    def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            received = self._socket.recv(262_144)
            if not received:
                raise ConnectionError("the server closed the connection")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line
