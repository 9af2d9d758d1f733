"""The only module that owns an asyncio loop; it runs on a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import BlockingCallRefused, ConnectionClosed
from ..logs import get_logger
from .threads import Slot, new_slot, start_thread

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment, unused-ignore]

T = TypeVar("T")

#: Seconds to wait for the thread when the loop is stopped.
STOP_TIMEOUT = 5.0

_CLOSED = "the connection is closed"


#: The loops of this process, and the native ids of the threads that they run on.
_loops: weakref.WeakSet[LoopThread] = weakref.WeakSet()
_idents: set[int] = set()


def check_may_block() -> None:
    """Raise BlockingCallRefused on the thread of a loop, where a blocking call would stop every task."""
    if threading.get_native_id() in _idents:
        raise BlockingCallRefused(
            "a blocking call on the connection's own thread, as in a callback of broker.subscribe(), would wait for "
            "itself: hand the work to another thread; broker.publish() does not block"
        )


def _after_fork_in_child() -> None:
    _idents.clear()
    for loop_thread in list(_loops):
        loop_thread.is_alive = False
        loop_thread.is_inherited = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class LoopThread:
    """An event loop on a daemon thread of its own, started at once.

    Parameters:
      name(str): The thread's name.
      on_death(Callable): Called on that thread with the reason when the loop ends without being stopped.
    """

    def __init__(self, name: str, on_death: Callable[[str], object]) -> None:
        self.logger = get_logger(__name__, type(self))
        self.loop: asyncio.AbstractEventLoop
        self._on_death = on_death
        self._ident: int | None = None
        self._stopping = False
        #: The slots of callers that wait for a coroutine on the loop.
        self._waiting: set[Slot] = set()
        #: Whether the loop runs.
        self.is_alive = False
        #: Whether it runs in the process that this one was forked from.
        self.is_inherited = False
        started = new_slot()
        self._join = start_thread(lambda: self._run(started.put), name)
        error = started.take(None)
        if error is not None:
            raise error

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on the loop's own thread."""
        return threading.get_native_id() == self._ident

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback on the loop; from any thread.

        Raises:
          ConnectionClosed: If the loop is closed.
        """
        if not self.is_alive:
            raise ConnectionClosed(_CLOSED)
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError as error:
            raise ConnectionClosed(_CLOSED) from error

    def run(self, function: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine function on the loop and wait for what it returns; from any other thread.

        Parameters:
          function(Callable): What to run; it is cancelled if the caller is interrupted or its timeout ends.
          timeout(float): The seconds to wait at most; as long as the coroutine takes by default.

        Raises:
          ConnectionClosed: If the loop is, or gets, closed.
          TimeoutError: If it takes longer than the timeout.
          BlockingCallRefused: On the thread of a loop.
        """
        check_may_block()
        outcome, tasks = new_slot(), list[asyncio.Task[T]]()

        def start() -> None:
            task = self.loop.create_task(function())
            tasks.append(task)
            task.add_done_callback(outcome.put)

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        try:
            self._waiting.add(outcome)
            self.call_soon(start)
            task: asyncio.Task[T] | None = outcome.take(timeout)
        except BaseException:
            # A signal, or dramatiq's time limit: the result is no longer needed.
            self.call_soon_if_open(cancel)
            raise
        finally:
            self._waiting.discard(outcome)
        if task is None or task.cancelled():
            raise ConnectionClosed("the connection was closed by another thread before this was done")
        return task.result()

    def stop(self) -> None:
        """Cancel what still runs, close the loop and end the thread."""
        self._stopping = True
        self.call_soon_if_open(self.loop.stop)
        self._join(STOP_TIMEOUT)

    def call_soon_if_open(self, callback: Callable[[], object]) -> None:
        """Run a callback on the loop, unless that is closed; from any thread."""
        try:
            self.call_soon(callback)
        except ConnectionClosed:
            # The loop is closed, so the callback has nothing left to stop.
            return

    def _run(self, started: Callable[[BaseException | None], None]) -> None:
        self._ident = threading.get_native_id()
        try:
            # The loop is created here because it may belong to the thread that creates it.
            self.loop = new_event_loop()
            asyncio.set_event_loop(self.loop)
        except BaseException as error:
            started(error)
            return
        _loops.add(self)
        _idents.add(self._ident)
        self.is_alive = True
        started(None)
        reason = "it was stopped"
        try:
            self.loop.run_forever()
        except BaseException as error:
            self.logger.critical("The event loop of the connection ended; the connection is lost.", exc_info=True)
            reason = repr(error)
        finally:
            self.is_alive = False
            try:
                self._end()
            finally:
                _idents.discard(self._ident)
        if not self._stopping:
            self._on_death(f"the connection's event loop ended: {reason}")

    def _end(self) -> None:
        # Callbacks that were scheduled last create their tasks only now.
        while pending := asyncio.all_tasks(self.loop):
            for task in pending:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(pending, timeout=STOP_TIMEOUT))
            self.loop.run_until_complete(asyncio.sleep(0))
            if all(not task.done() for task in pending):
                break
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        for outcome in list(self._waiting):
            outcome.put(None)
