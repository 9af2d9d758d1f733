"""Threads and their queues, which stay real threads even if gevent has replaced them with greenlets.

gevent's patches make a thread a greenlet of the thread that starts it.  An event loop there would stop
whenever an actor computes, leases would end, and uvloop would block every greenlet permanently.
"""

from __future__ import annotations

import sys
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Buffer(Protocol[T]):
    """The methods of :class:`queue.SimpleQueue` that this package uses."""

    def put(self, item: T, /) -> None: ...

    def get(self, *, timeout: float) -> T: ...

    def get_nowait(self) -> T: ...


def is_green() -> bool:
    """Whether gevent has put greenlets in the place of threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def new_buffer() -> Buffer[Any]:
    """A queue that one thread fills while another waits."""
    return _GreenBuffer() if is_green() else SimpleQueue()


class Slot:
    """A value that one thread waits for and another sets, once: a minimal future."""

    __slots__ = ("_content", "_empty", "_full")

    def __init__(self) -> None:
        self._content: Any = None
        self._full = False
        self._empty = allocate_lock()
        self._empty.acquire()

    def put(self, content: Any) -> None:
        """Put it in, and wake who waits; only the first counts.  Always called on the same thread."""
        if not self._full:
            self._full = True
            self._content = content
            self._empty.release()

    def take(self, timeout: float | None) -> Any:
        """Wait for it, so many seconds at most; None for ever.  Raises TimeoutError."""
        if not self._empty.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            raise TimeoutError
        return self._content


def new_slot() -> Slot:
    """A slot that one thread fills while another waits."""
    return _GreenSlot() if is_green() else Slot()


def start_thread(function: Callable[[], object], name: str) -> Callable[[float], object]:
    """Run a function on a thread that ends with the process.

    Parameters:
      function(Callable): What to run.
      name(str): The thread's name.

    Returns:
      Callable: Waits until it has ended, for so many seconds at most.
    """
    if not is_green():
        thread = threading.Thread(target=function, name=name, daemon=True)
        thread.start()
        return thread.join

    # Two threads that make their first gevent hubs at once may wait for each other's imports for ever.
    sys.modules["gevent"].get_hub()
    ended = _GreenFuture()

    def run() -> None:
        try:
            function()
        finally:
            ended.set_result(None)

    _original("_thread", "start_new_thread")(run, ())
    return ended.wait


def _original(module: str, name: str) -> Any:
    return sys.modules["gevent.monkey"].get_original(module, name)


class _Bell:
    """Wakes a greenlet of the thread that made it, from whatever thread; a context manager while one waits.

    It is an async watcher, as gevent's ``run_callback_threadsafe`` counts what it runs without a
    lock, and a hub that has miscounted ends.
    """

    def __init__(self) -> None:
        from gevent import get_hub
        from gevent.event import Event

        self._watcher = get_hub().loop.async_()
        self._event = Event()

    def __enter__(self) -> _Bell:
        self._event.clear()
        self._watcher.start(self._event.set)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watcher.stop()

    def ring(self) -> None:
        self._watcher.send()

    def wait(self, timeout: float | None) -> None:
        self._event.wait(timeout)


class _GreenFuture(Future[Any]):
    """A future that a thread resolves while greenlets of another wait."""

    def __init__(self) -> None:
        super().__init__()
        # gevent's lock belongs to one thread; this one is held only for a few lines.
        self._condition = threading.Condition(_original("_thread", "RLock")())

    def wait(self, timeout: float | None) -> None:
        """Wait until it is done, for so many seconds at most."""
        with _Bell() as bell:
            self.add_done_callback(lambda _: bell.ring())
            bell.wait(timeout)

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self.wait(timeout)
        return super().result(0)


class _GreenSlot(Slot):
    """A slot that a thread fills while a greenlet of another waits."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future = _GreenFuture()

    def put(self, content: Any) -> None:
        if not self._future.done():
            self._future.set_result(content)

    def take(self, timeout: float | None) -> Any:
        try:
            return self._future.result(timeout)
        except FutureTimeoutError as error:
            raise TimeoutError from error


class _GreenBuffer:
    """A queue that a thread fills while a greenlet of another waits."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._bell = _Bell()

    def put(self, item: Any, /) -> None:
        self._items.append(item)
        self._bell.ring()

    def get(self, *, timeout: float) -> Any:
        with self._bell as bell:
            if not self._items:
                bell.wait(timeout)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        try:
            return self._items.popleft()
        except IndexError:
            raise Empty from None
