"""The image service, killed when it has written its first image and not told anyone: `dramatiq` with this module."""

from __future__ import annotations

import os
import signal
from typing import Any

from bw_tasks import broker, to_blackandwhite

__all__ = ["broker", "to_blackandwhite"]


def publish(*_: Any) -> None:
    """End this worker, and the process that would replace it, as a machine's loss does."""
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


broker.publish = publish  # type: ignore[method-assign,assignment]
