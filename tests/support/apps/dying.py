"""The sudden end of a worker process, at a moment that leaves dramatiq's main process able to notice it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from tests.support.waiting import eventually


def die() -> None:
    """End this process as the kernel would, once dramatiq has booted it.

    A worker process tells the main process through an event that it has booted.  One that is killed while it sets
    that event leaves the event's lock taken, and the main process waits for it for ever.
    """
    booted = _boot_event()
    if booted is not None:
        eventually(booted.is_set, message="the end of the boot")
    os.kill(os.getpid(), signal.SIGKILL)


def _boot_event() -> Any:
    """The event of dramatiq's command line; None in any other process."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "worker_process":
            return frame.f_locals["event"]
        frame = frame.f_back
    return None
