"""A socket to which any thread may write, without a lock that an exception could leave locked.

dramatiq raises exceptions in threads (time limits, shutdowns, aborts).  One that occurs between the acquisition
of a lock and its ``try`` leaves the lock locked for ever.  Here a writer claims the turn with its own token, no
thread waits for a turn, and the loop takes the turn away from a writer that does not release it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

#: Bytes that may wait for the socket before drain() waits.
HIGH_WATER = 1024 * 1024

#: Seconds between two attempts of the loop to write while another thread does.
RETRY_WRITE = 0.001

#: How many such attempts in a row may fail before the thread counts as lost: an exception interrupted it
#: while it held the turn.  They are counted and not timed, because a stopped process has lost no thread.
MAX_RETRIES = 300

_OWNER = "owner"


class SharedSocket:
    """The writing end of one connection.  Methods are the loop's unless they say otherwise.

    Parameters:
      descriptor(int): The connected socket; a duplicate is used, as asyncio allows no other watcher on its own.
      give_up(Callable): Ends the connection, which may hold half a command.
    """

    def __init__(self, descriptor: int, give_up: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._give_up = give_up
        self._turn: dict[str, object] = {}
        #: Whether a writer was interrupted, so that half a command may have been sent.
        self._torn = False
        #: Whether nothing is written any more.
        self._closed = False
        self._unsent = bytearray()
        #: What the loop could not write because it was another thread's turn.
        self._queued: list[bytes] = []
        self._retries = 0
        self._retrying = False
        self._watching = False
        self._room = asyncio.Event()

    @property
    def descriptor(self) -> int:
        """Its number; negative once it is closed; from any thread."""
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """How many bytes wait for the socket; from any thread."""
        return len(self._unsent) + sum(map(len, self._queued))

    def write(self, payload: bytes) -> None:
        """Write, or keep what the socket does not take now."""
        if not self._closed:
            self._queued.append(payload)
            self._flush()

    def write_at_once(self, payload: bytes) -> bool:
        """Write, unless something else is before it, and tell whether that was done; from any thread."""
        token, writing = object(), False
        turn = self._turn
        try:
            if turn.setdefault(_OWNER, token) is not token or self._closed or self._torn:
                return False
            if self._unsent or self._queued:
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
        while self.unsent >= HIGH_WATER:
            self._room.clear()
            await self._room.wait()
            if self._closed:
                raise ConnectionResetError

    def close(self) -> None:
        """Stop writing; the connection itself is left to its owner."""
        if self._closed:
            return
        self._unwatch()
        self._closed = True
        self._unsent, self._queued = bytearray(), []
        if _OWNER in self._turn:
            # A thread may be writing: the number must not be given to another socket meanwhile.
            self._loop.call_later(RETRY_WRITE * MAX_RETRIES, self._socket.close)
        else:
            self._socket.close()
        self._room.set()

    def _send(self, payload: bytes) -> None:
        """Write what the socket accepts and keep the rest; only by the holder of the turn."""
        self._unsent += payload if self._unsent else payload[self._offer(payload) :]

    def _offer(self, payload: bytes) -> int:
        """How many bytes the socket accepts; all if it is closed, as its reader reports the error."""
        try:
            return self._socket.send(payload)
        except BlockingIOError:
            return 0
        except OSError:
            return len(payload)

    def _flush(self) -> None:
        """Write what waits; the loop's own thread is hit by no exception from outside."""
        if self._closed:
            return
        if self._turn.setdefault(_OWNER, self) is not self:
            self._flush_later()
            return
        try:
            self._retries = 0
            if not self._torn:
                self._send_waiting()
        finally:
            self._turn.pop(_OWNER, None)
        if self._torn:
            self._give_up()
        else:
            self._watch()

    def _send_waiting(self) -> None:
        if self._unsent:
            del self._unsent[: self._offer(bytes(self._unsent[:HIGH_WATER]))]
        queued, self._queued = self._queued, []
        if queued:
            self._send(queued[0] if len(queued) == 1 else b"".join(queued))

    def _flush_later(self) -> None:
        if self._retrying:
            return
        self._retries += 1
        if self._retries > MAX_RETRIES:
            self._turn = {}
            self._give_up()
            return
        self._retrying = True
        self._loop.call_later(RETRY_WRITE, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self._flush()

    def _watch(self) -> None:
        if self._unsent and not self._watching:
            self._watching = True
            self._loop.add_writer(self._socket.fileno(), self._flush)
        elif not self._unsent:
            self._unwatch()
        self._room.set()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._socket.fileno())
