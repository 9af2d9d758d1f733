"""Medians, spreads and percentiles."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], rank: int) -> float:
    """The value that so many in a hundred do not exceed."""
    return statistics.quantiles(values, n=100)[rank - 1]


@dataclass(frozen=True)
class Spread:
    """What the rounds of one figure came to."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Figure:
    """How one of a measure's figures is called and written.

    Parameters:
      title(str): What it says, with its unit.
      digits(int): How many digits stand after the point.
    """

    title: str
    digits: int = 0

    def shown(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


FIGURES = {
    "rate": Figure("messages/s"),
    "cpu_us": Figure("CPU a message, µs"),
    "p50_us": Figure("send p50, µs"),
    "one_rate": Figure("sends/s, 1 thread"),
    "eight_rate": Figure("sends/s, 8 threads"),
    "batch_rate": Figure("messages/s by batch()"),
    "p50_ms": Figure("p50, ms", 2),
    "p99_ms": Figure("p99, ms", 2),
    "rss_mb": Figure("RSS, MB", 1),
    "cpu_percent": Figure("CPU, % of a core", 2),
    "cpu_ms": Figure("CPU an image, ms"),
    "wall_ms": Figure("time an image, ms"),
    "runs": Figure("runs/s", 1),
}
