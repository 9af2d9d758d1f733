"""What is said of a bucket's keys to those who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from .bucket_access import Entry

#: Seconds after which a waiter looks again, should it have missed the change while reconnecting.
LOOK_AGAIN = 2.0

#: Seconds that storing a value may take after the word of it.
STORING = 0.002

#: Marks a value that takes the place of one that the bucket refused.  Waiters take it from the publish itself, for
#: the bucket may refuse it too.
STAND_IN = "Dramatiq-Stand-In"


class Words:
    """What is said of the keys that somebody waits for.

    Parameters:
      keys(Mapping): The keys by their subjects.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = keys
        self._changed = asyncio.Event()
        #: What was offered in place of a value that the bucket refused.
        self.stand_in: tuple[str, Entry] | None = None

    def take(self, subject: bytes, _: bytes, headers: bytes, body: bytes) -> None:
        """Take a message on one of the subjects."""
        key = self._keys.get(subject.decode())
        if key is None:
            return
        if STAND_IN.encode() in headers:
            self.stand_in = key, Entry(body)
        self._changed.set()

    async def wait(self, seconds: float, look_again: float) -> float:
        """Wait for a message; return after how many seconds to look again without one."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except asyncio.TimeoutError:
            return min(look_again * 2, LOOK_AGAIN)
        self._changed.clear()
        # The word of a write travels beside the write itself, and may be ahead of it.
        return STORING
