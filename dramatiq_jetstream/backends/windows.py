"""The counts of a window rate limiter, all in one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

#: How many seconds are counted apart.  Of busier windows those beside each other are counted together.
MAX_COUNTS = 512


class WindowCounts(NamedTuple):
    """How often a limiter let somebody in, by the second.

    Parameters:
      kept(int): For how many seconds counts are kept: the longest window of the limiters with this key.
      counts(Mapping): The counts by their UNIX seconds.
    """

    kept: int
    counts: Mapping[int, int]

    @classmethod
    def read(cls, value: bytes | None) -> WindowCounts:
        """Read a stored value; none is an empty window."""
        if value is None:
            return cls(0, {})
        content = json.loads(value)
        return cls(content["kept"], {int(second): count for second, count in content["counts"].items()})

    def write(self) -> bytes:
        """The value to be stored."""
        return json.dumps({"kept": self.kept, "counts": self.counts}, separators=(",", ":")).encode()

    def total(self, now: int, window: int) -> int:
        """The sum of the counts of a window that ends now."""
        return sum(count for second, count in self.counts.items() if second > now - window)

    def added(self, second: int, amount: int, now: int, window: int) -> WindowCounts:
        """The counts with one more, without those that are out of every window."""
        kept = max(self.kept, window)
        counts = {old: count for old, count in self.counts.items() if old > now - kept}
        counts[second] = counts.get(second, 0) + amount
        return WindowCounts(kept, counts if len(counts) <= MAX_COUNTS else _coarser(counts, kept))


def _coarser(counts: Mapping[int, int], kept: int) -> dict[int, int]:
    """Count seconds that are beside each other as the last of them: they leave the window late, never early."""
    step = -(-2 * kept // MAX_COUNTS)
    coarse: dict[int, int] = {}
    for second, count in counts.items():
        last = second + -second % step
        coarse[last] = coarse.get(last, 0) + count
    return coarse
