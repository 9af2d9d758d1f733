"""The long run: everything at once under random faults, round after round, and the account of each round."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import Any

from dramatiq_jetstream import NatsServer
from tests.support.chaos import FAULTS, Chaos
from tests.support.faults import SOON, Application, Workers
from tests.support.proxy import Proxy
from tests.support.soak_helpers import Operator, ProducerProcess, Starvation
from tests.support.waiting import eventually

#: Milliseconds of the queues' leases: longer than a busy machine keeps a worker from renewing them.
LEASE = 6_000

#: The queues of :mod:`tests.support.apps.soaking`, and their settings.
QUEUES: dict[str, dict[str, Any]] = {
    "default": {"ack_wait": LEASE},
    "once": {"ack_wait": LEASE},
    "endless": {"ack_wait": LEASE},
    "picky": {"ack_wait": LEASE},
    "tight": {"ack_wait": LEASE, "max_deliver": 2},
    "limited": {"ack_wait": LEASE},
    "purged": {"ack_wait": LEASE},
    "bounded": {"ack_wait": LEASE, "max_msgs": 10, "discard": "new"},
}

#: Bytes a second over a slow link.
SLOW = 20_000

LINK_FAULTS = ["cut_links", "silence_links", "slow_links", "lose_replies", "deploy", "deploy"]


class Soak(Chaos):
    """Workers, a producer, operators, links and a server, all of them disturbed; a context manager.

    Parameters:
      server(NatsServer): To be killed, frozen and restarted.
      application(Application): The application :mod:`tests.support.apps.soaking`.
      seed(int): Of all that is random here.
    """

    def __init__(self, server: NatsServer, application: Application, seed: int) -> None:
        super().__init__(server, application, seed)
        self.happened: Counter[str] = Counter()
        self.operator = Operator(application, seed)
        self.producer_link = self._stack.enter_context(Proxy(server.port))
        self.worker_link = self._stack.enter_context(Proxy(server.port))
        self._linked: list[Workers] = []
        self._leaving: list[Workers] = []

    def __enter__(self) -> Soak:
        super().__enter__()
        self.producer = self._stack.enter_context(ProducerProcess(self.application, self.producer_link.url))
        return self

    def play(self, number: int, seconds: float) -> None:
        """Send, disturb and operate for so many seconds, then let everything end."""
        self._staff()
        self.producer.go(number, self.random.random())
        deadline = time.monotonic() + seconds
        with self.operator, Starvation(self.faults):
            while time.monotonic() < deadline:
                self._pause(self.random.uniform(0.5, 4))
                self.disturb(self.random.choice(FAULTS + LINK_FAULTS))
            self._calm()
            self.producer.stop()
        with Starvation(self.faults):
            self.drain()
            self.dismiss()

    def disturb(self, fault: str) -> None:
        self.happened[fault] += 1
        getattr(self, fault)()
        self._staff()

    def dismiss(self) -> None:
        """Have all workers end, as a deployment does; what runs twice after this would be seen in no round."""
        for workers in self._workers:
            workers.signal(signal.SIGTERM)
        self._leaving += self._workers
        self._workers = []
        eventually(lambda: not any(each.is_running for each in self._leaving), SOON, message="the workers' end")
        self._leaving.clear()
        self._linked.clear()

    # The faults of links and deployments.

    def cut_links(self) -> None:
        link = self._any_link()
        with self._noted("its link was cut", self._behind(link)):
            link.cut()
            self._pause(self.random.choice([0, 0.5, 3]))
            link.resume()

    def silence_links(self) -> None:
        link = self._any_link()
        with self._noted("its link was silent", self._behind(link)):
            link.black_hole()
            self._pause(self.random.choice([1, 5, 15]))
            link.resume()

    def lose_replies(self) -> None:
        link = self._any_link()
        with self._noted("its link lost replies", self._behind(link)):
            link.drop_replies()
            self._pause(self.random.choice([0.2, 1, 8]))
            link.resume()

    def slow_links(self) -> None:
        link = self._any_link()
        with self._noted("its link was slow", self._behind(link)):
            link.rate = SLOW
            self._pause(self.random.choice([2, 6]))
            link.rate = None

    def deploy(self) -> None:
        """Start new workers before the old ones stop."""
        old, self._workers = self._workers, []
        self._staff()
        for workers in old:
            workers.signal(signal.SIGTERM)
        self._leaving = [each for each in [*self._leaving, *old] if each.is_running]

    def _any_link(self) -> Proxy:
        return self.random.choice([self.producer_link, self.worker_link])

    def _behind(self, link: Proxy) -> list[Workers]:
        return self._linked if link is self.worker_link else []

    def _calm(self) -> None:
        for link in (self.producer_link, self.worker_link):
            link.resume()

    def _hire(self) -> Workers:
        through = self.random.random() < 0.5
        version = self.random.choice(["old", "new", "new"])
        workers = self._stack.enter_context(
            self.application.workers(
                threads=4, url=self.worker_link.url if through else None, FAULTS_SWEEP="2", FAULTS_VERSION=version
            )
        )
        if through:
            self._linked.append(workers)
        self._workers.append(workers)
        return workers
