"""What the result, rate limiter and abort backends share."""

from __future__ import annotations

from .bucket import Bucket
from .windows import WindowCounts

__all__ = [
    "Bucket",
    "WindowCounts",
]
