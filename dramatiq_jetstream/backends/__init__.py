"""What the result, rate limiter and abort backends share."""

from __future__ import annotations

from .bucket import Bucket

__all__ = [
    "Bucket",
]
