"""How many messages a consumer may hold."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Milliseconds of work to hold in addition to what the threads run: several round trips to the
#: server, and so short that no other worker could have started the work much sooner.
LOOKAHEAD = 50

#: Seconds over which the pace of finished messages is averaged.
PACE_WINDOW = 0.25

#: Seconds after which the server forgets what was asked for beyond one message for each thread.
PASSING = 0.25

#: Seconds after which such a request counts as lost, as the server does not report its end.
LOST = 2.0

#: The most to hold, as a multiple of dramatiq's own prefetch.
MAX_FACTOR = 8


class Prefetch:
    """The rule: one message for each thread, and as many more as finish in 50 ms at the present pace.

    Slow actors thus hold nothing that another worker could start, and short ones do not wait for
    the network.  Streams of others get no lookahead at all, since giving a message back there
    costs one of its attempts.

    Parameters:
      threads(int): How many messages can run at once.
      limit(int): The most to hold.
      lookahead(int): Milliseconds of work to hold beyond that.
      clock(Callable): Gives the time in seconds.
    """

    def __init__(
        self, threads: int, limit: int, lookahead: int = LOOKAHEAD, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.threads = threads
        self.limit = max(limit, threads)
        self.lookahead = lookahead / 1000
        self._clock = clock
        self._pace = 0.0
        self._count = 0
        self._since = self._last = clock()

    @classmethod
    def choose(
        cls,
        prefetch: int,
        threads: int | None,
        *,
        bound: bool,
        chosen: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> Prefetch:
        """The prefetch of a consumer.

        Parameters:
          prefetch(int): What dramatiq asks for.
          threads(int): The worker's threads, if there is a worker.
          bound(bool): Whether the stream is owned by others.
          chosen(bool): Whether a user chose the number, who then gets it.
          clock(Callable): Gives the time in seconds.
        """
        if bound:
            return cls(min(threads or prefetch, prefetch), 0, 0, clock)
        if threads is not None and prefetch == 2 * threads and not chosen:
            return cls(threads, MAX_FACTOR * prefetch, clock=clock)
        return cls(prefetch, 0, 0, clock)

    @property
    def capacity(self) -> int:
        """How many messages may be held right now."""
        now = self._clock()
        passed, idle = now - self._since, now - self._last
        pace = self._pace if passed < PACE_WINDOW else (self._count + 1) / passed
        # A worker that has finished nothing for a while counts as slow.
        pace = min(pace, self.threads / idle) if idle > 0 else pace
        return min(self.threads + int(pace * self.lookahead), self.limit)

    def finished(self, count: int = 1) -> None:
        """Count messages that are done."""
        self._count += count
        self._last = self._clock()
        passed = self._last - self._since
        if passed >= PACE_WINDOW or self._count >= self.limit:
            self._pace = self._count / max(passed, 0.001)
            self._count = 0
            self._since = self._last

    def wanted(self, held: int) -> int:
        """How many more to ask for; 0 until it is worth a request."""
        capacity = self.capacity
        worthwhile = max((capacity - self.threads) // 2, 1)
        missing = capacity - held
        return missing if missing >= worthwhile else 0


class Credit:
    """What was asked of the server and did not arrive yet.

    One message for each thread is requested with a lasting pull.  More are requested only while messages
    are known to wait; the server ends that request when none is left.  Messages after a pause may be
    slow, and should go to a worker with a free thread.

    Parameters:
      prefetch(Prefetch): How much may be held.
      clock(Callable): Gives the time in seconds.
    """

    def __init__(self, prefetch: Prefetch, clock: Callable[[], float] = time.monotonic) -> None:
        self.prefetch = prefetch
        self.lasting = 0
        self.passing = 0
        self._clock = clock
        self._asked_at = 0.0

    def ask(self, held: int, waiting: int) -> tuple[int, int]:
        """How many to ask for now, lastingly and in passing.

        Parameters:
          held(int): How many messages are held.
          waiting(int): How many the server has yet to deliver, as far as it is known.
        """
        now = self._clock()
        if self.passing and now - self._asked_at > LOST:
            self.passing = 0
        lasting = max(self.prefetch.threads - held - self.lasting, 0)
        self.lasting += lasting
        asked = self.lasting + self.passing
        passing = max(min(self.prefetch.wanted(held + asked), waiting - asked), 0) if waiting > asked else 0
        if passing:
            self.passing += passing
            self._asked_at = now
        return lasting, passing

    def arrived(self, *, passing: bool) -> None:
        """Count a message that a request brought."""
        if passing:
            self.passing = max(self.passing - 1, 0)
        else:
            self.lasting = max(self.lasting - 1, 0)

    def ended(self, left: int | None, *, passing: bool) -> None:
        """Count what a request that ended did not bring; None if nothing is left of any of its kind."""
        if passing:
            self.passing = 0 if left is None else max(self.passing - left, 0)
        else:
            self.lasting = 0 if left is None else max(self.lasting - left, 0)

    def forget(self) -> None:
        """Reset: no requested message will arrive."""
        self.lasting = self.passing = 0
