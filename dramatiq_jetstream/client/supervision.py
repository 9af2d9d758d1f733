"""Background tasks that cannot die unseen: logged, started again with growing pauses, or the process ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from dramatiq.common import compute_backoff

from ..logs import get_logger

#: Milliseconds before the first restart of a task that failed, doubled each time, and their limit.
MIN_PAUSE = 250
MAX_PAUSE = 10_000

#: How often a task may fail in a row before it is no longer restarted.
MAX_FAILURES = 10

#: Seconds a task must have run before its earlier failures are forgotten.
HEALTHY = 60.0


class Supervisor:
    """Starts the background tasks of one loop.  All of it is called on that loop.

    Parameters:
      on_fatal(Callable): Called with the reason when a task failed ten times in a row and is not restarted.
    """

    def __init__(self, on_fatal: Callable[[str], object]) -> None:
        self.logger = get_logger(__name__, type(self))
        self._on_fatal = on_fatal
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run a task until it returns or is cancelled; start it again when it fails.

        Parameters:
          name(str): What the task does, for the log: a noun.
          work(Callable): Starts the work; called again for each restart.
        """
        return self._start(self._restarted(name, work))

    def once(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task once; an exception is logged with its traceback."""
        return self._start(self._logged(name, work))

    async def stop(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _restarted(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                await work()
            except Exception as error:
                if time.monotonic() - started >= HEALTHY:
                    failures = 0
                if failures + 1 >= MAX_FAILURES:
                    self.logger.critical(
                        "The %s failed %d times in a row: given up.", name, MAX_FAILURES, exc_info=True
                    )
                    self._on_fatal(f"the {name} failed {MAX_FAILURES} times in a row, at last with {error!r}")
                    return
                failures, pause = compute_backoff(failures, factor=MIN_PAUSE, max_backoff=MAX_PAUSE)
                self.logger.critical("The %s failed; it starts again in %.1f s.", name, pause / 1000, exc_info=True)
                await asyncio.sleep(pause / 1000)
            else:
                return

    async def _logged(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            self.logger.critical("The %s failed.", name, exc_info=True)
