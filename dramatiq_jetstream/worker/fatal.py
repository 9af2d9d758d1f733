"""The end of a worker process that cannot go on."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from ..logs import get_logger

#: The exit status of a worker process that could not go on: EX_SOFTWARE of sysexits.h.
EXIT_STATUS = 70

#: Seconds that a worker gets to finish what it runs.
GRACE = 30.0

_ending = threading.Event()


def end_process(reason: str) -> None:
    """End this worker process; its messages are delivered again.

    It receives the stop signal, and is killed after 30 seconds if it has not stopped.  Its exit status is not
    zero in both cases, so that dramatiq's main process stops too and its supervisor can restart it.

    Parameters:
      reason(str): Why, for the log.
    """
    if _ending.is_set():
        return
    _ending.set()
    get_logger(__name__).critical(
        "This worker process cannot go on and ends with status %d: %s. What it holds is delivered again.",
        EXIT_STATUS,
        reason,
    )
    timer = threading.Timer(GRACE, _exit_at_once)
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)


def exit_if_ending() -> None:
    """Exit with the status once the worker has shut down.  Raises SystemExit."""
    if _ending.is_set():
        sys.exit(EXIT_STATUS)


def _exit_at_once() -> None:
    logging.shutdown()
    os._exit(EXIT_STATUS)
