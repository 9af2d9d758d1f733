"""How long a message takes from send() in one process to its actor's start in another that is idle."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from ..bench import TIMEOUT, Bench, Figures, finish, working
from ..figures import percentile

#: Messages before any is timed.
WARM_UP = 10

#: Milliseconds between sends: about 50, never in step with anybody's polling.
PAUSES = (25, 75)


class Arrivals:
    """Notes how long each message took.

    Parameters:
      total(int): How many there will be, beside those that warm up.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._seconds: list[float] = []
        self._done = threading.Event()

    def arrive(self, sent: float) -> None:
        """Note the arrival of a message.  The clock is the same in all processes of the machine."""
        self._seconds.append(time.monotonic() - sent)
        if len(self._seconds) == self.total + WARM_UP:
            self._done.set()

    def figures(self) -> Figures:
        if not self._done.wait(TIMEOUT):
            raise RuntimeError(f"{len(self._seconds)} of {self.total + WARM_UP} messages arrived")
        timed = self._seconds[WARM_UP:]
        return {"p50_ms": percentile(timed, 50) * 1000, "p99_ms": percentile(timed, 99) * 1000}


def latency(bench: Bench) -> Figures:
    """The median and the 99th percentile of `count` messages that come one at a time."""
    arrivals = Arrivals(bench.params["count"])
    with bench.broker() as broker:
        actor = bench.actor(broker, arrivals.arrive, actor_name="arrive")
        with working(broker):
            if bench.contender.server is None:
                send_paced(actor.send, arrivals.total)
            else:
                finish(bench.child("pace", count=arrivals.total))
            return arrivals.figures()


def pace(bench: Bench) -> Figures:
    """Send `count` messages to a worker in another process, one at a time."""
    broker = bench.make_broker()
    actor = bench.actor(broker, Arrivals(0).arrive, actor_name="arrive")
    send_paced(actor.send, bench.params["count"])
    broker.close()
    return {}


def send_paced(send: Callable[[float], object], count: int) -> None:
    """Send messages that carry their time of departure."""
    for pause in pauses(count):
        time.sleep(pause)
        send(time.monotonic())


def pauses(count: int) -> list[float]:
    """The seconds before each message, those that warm up included."""
    return [random.uniform(*PAUSES) / 1000 for _ in range(count + WARM_UP)]
