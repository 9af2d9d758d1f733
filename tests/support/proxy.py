"""A TCP proxy on loopback that can break the link it carries."""

from __future__ import annotations

import asyncio
import enum
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any

CALL_TIMEOUT = 5


class _Mode(enum.Enum):
    OPEN = enum.auto()
    CUT = enum.auto()
    BLACK_HOLE = enum.auto()
    REPLIES_DROPPED = enum.auto()


class Proxy:
    """Forwards connections on a port of its own to a port of this host, on a thread of its own.

    Parameters:
      target_port(int): The port on 127.0.0.1 to forward to.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        # Bound for as long as the proxy lives but never listening: it keeps the port ours while the link is cut.
        self._reservation = _bound_socket(0)
        self.port: int = self._reservation.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._mode = _Mode.OPEN
        #: Bytes a second that go to the server at most, if there is a limit.
        self.rate: float | None = None
        #: Bytes that came from clients.
        self.received = 0
        self._links: set[_Link] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self.resume()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL that leads through the proxy."""
        return f"nats://127.0.0.1:{self.port}"

    def resume(self) -> None:
        """Let everything through again; connections that lost bytes to :meth:`drop_replies` are closed."""
        self._call(self._resume())

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        self._call(self._cut())

    def black_hole(self) -> None:
        """Keep connections open and take new ones, but let nothing through until :meth:`resume`."""
        self._call(self._set_mode(_Mode.BLACK_HOLE))

    def drop_replies(self) -> None:
        """Let bytes through to the server only; what it answers is discarded."""
        self._call(self._set_mode(_Mode.REPLIES_DROPPED))

    def stop(self) -> None:
        """Close everything, and end the thread."""
        if self._thread.is_alive():
            self._call(self._cut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CALL_TIMEOUT)
            self._loop.close()
            self._reservation.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_TIMEOUT)

    async def _resume(self) -> None:
        for link in self._links:
            if link.has_lost_bytes:
                link.abort()
        if self._listening is None:
            self._listening = _bound_socket(self.port)
            self._listening.listen()
            self._loop.add_reader(self._listening, self._accept, self._listening)
        await self._set_mode(_Mode.OPEN)

    async def _cut(self) -> None:
        await self._set_mode(_Mode.CUT)
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for link in self._links:
            link.abort()
        if self._handlers:
            await asyncio.wait(self._handlers)

    async def _set_mode(self, mode: _Mode) -> None:
        self._mode = mode
        if mode is _Mode.BLACK_HOLE:
            self._flowing.clear()
        else:
            self._flowing.set()

    def _accept(self, listening: socket.socket) -> None:
        # Not left to asyncio.Server, which loses a connection that comes in while it is being closed.
        with suppress(BlockingIOError, ConnectionError):  # The client has gone again.
            accepted, _ = listening.accept()
            handler = self._loop.create_task(self._carry(accepted))
            self._handlers.add(handler)
            handler.add_done_callback(self._handlers.discard)

    async def _carry(self, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted)
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._flowing.wait()
            if self._mode is _Mode.CUT:
                link.abort()
            else:
                await self._forward(link, reader, writer)
        except ConnectionRefusedError:
            link.abort()  # The target is down: its client sees a closed connection, as it would without the proxy.
        finally:
            await link.close()
            self._links.discard(link)

    async def _forward(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        link.writers.append(target_writer)
        await _until_one_ends(self._pump(reader, target_writer), self._pump(target_reader, writer, link))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies_of: _Link | None = None
    ) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if replies_of is None:
                self.received += len(data)
                if self.rate is not None:
                    await asyncio.sleep(len(data) / self.rate)
            if replies_of is not None and self._mode is _Mode.REPLIES_DROPPED:
                replies_of.has_lost_bytes = True
            else:
                writer.write(data)
                await writer.drain()


class _Link:
    """One carried connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.has_lost_bytes = False

    def abort(self) -> None:
        """Close at once; what is still to be sent is lost."""
        for writer in self.writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Close after sending what is still to be sent."""
        for writer in self.writers:
            writer.close()
            with suppress(ConnectionError):  # The other end may be gone already.
                await writer.wait_closed()


async def _until_one_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
            raise outcome


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
