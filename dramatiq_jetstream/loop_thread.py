"""The only module that owns an asyncio loop; it runs on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from .threads import new_future, run_on, start_thread

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

T = TypeVar("T")

#: How many seconds a stopping loop gives its thread to end.
STOP_TIMEOUT = 5.0


class LoopThread:
    """An event loop on a daemon thread of its own, started at once.

    Parameters:
      name(str): The thread's name.
    """

    def __init__(self, name: str) -> None:
        started: Future[None] = new_future()
        self.loop: asyncio.AbstractEventLoop
        self._ident: int | None = None
        self._join = start_thread(lambda: self._run(started), name)
        started.result()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on the loop's own thread."""
        return threading.get_native_id() == self._ident

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback on the loop.  Raises RuntimeError if the loop is closed."""
        self.loop.call_soon_threadsafe(callback, *args)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop and return a future for other threads."""
        if self.is_current:
            coroutine.close()
            raise RuntimeError("a call from the loop's own thread would wait for itself for ever")
        return run_on(self.loop, coroutine)

    def stop(self) -> None:
        """Cancel what still runs, close the loop and end the thread."""
        self.call_soon(self.loop.stop)
        self._join(STOP_TIMEOUT)

    def _run(self, started: Future[None]) -> None:
        self._ident = threading.get_native_id()
        try:
            # Here, for it may belong to the thread that makes it.
            self.loop = new_event_loop()
            asyncio.set_event_loop(self.loop)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            self.loop.run_forever()
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
