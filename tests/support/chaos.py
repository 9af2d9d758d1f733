"""Random faults by a seed, and the account of every message afterwards."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.errors import BrokerConnectionError
from tests.support.account import Account, Fault, runs_of, suicides
from tests.support.faults import Application, Workers, notes_of
from tests.support.waiting import eventually

#: Milliseconds until everything must be done once the faults have ended.
DRAIN_TIMEOUT = 240_000

#: Kinds of messages: the actor, the steps, and the share of each among all.
KINDS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "plain": ("run", (), 40),
    "slow": ("run", ("block:150",), 10),
    "failing": ("run", ("fail:2",), 10),
    "hopeless": ("run", ("fail",), 4),
    "once": ("run_once", (), 10),
    "tight": ("run_tight", ("fail:4",), 5),
    "endless": ("run_endless", ("fail:3",), 5),
    "picky": ("run_picky", ("fail:3",), 3),
    "delayed": ("run", (), 10),
    "deadly": ("run", ("kill:1",), 1),
}


class Chaos:
    """Workers and a server under random faults; a context manager.

    Parameters:
      server(NatsServer): To be killed, frozen and restarted.
      application(Application): Whose messages are sent and whose workers run.
      seed(int): Of all that is random here.
      places(int): How many workers run at once.
    """

    def __init__(self, server: NatsServer, application: Application, seed: int, places: int = 2) -> None:
        self.server = server
        self.application = application
        self.random = random.Random(seed)
        self.faults: list[Fault] = []
        self.confirmed: dict[str, str] = {}
        self.unconfirmed = 0
        self.lease = application.settings["queues"]["default"]["ack_wait"] / 1000
        self._places = places
        self._stack = ExitStack()
        self._workers: list[Workers] = []
        self._sending = threading.Event()
        self._numbers = 0

    def __enter__(self) -> Chaos:
        self._staff()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sending.clear()
        self._stack.close()

    def round(self, faults: int, kinds: list[str] | None = None) -> None:
        """Send messages while so many faults happen, one after the other."""
        senders = [threading.Thread(target=self._send_on, args=(self.random.random(),)) for _ in range(2)]
        self._sending.set()
        for sender in senders:
            sender.start()
        for _ in range(faults):
            self._pause(self.random.uniform(0.1, 0.8))
            fault = getattr(self, self.random.choice(kinds or FAULTS))
            fault()
            self._staff()
        self._pause(0.2)
        self._sending.clear()
        for sender in senders:
            sender.join()

    def drain(self) -> None:
        """Let workers run undisturbed until no message waits any more."""
        names = list(self.application.settings["queues"])

        def empty() -> bool:
            self._staff()
            return not any(self.application.stored(name) for name in names)

        try:
            eventually(empty, DRAIN_TIMEOUT)
        except AssertionError:
            left = {name: self.application.broker.get_queue_message_counts(name) for name in names}
            raise AssertionError(f"messages wait for ever: {left} (ready, delayed, dead)") from None

    # The faults.

    def kill_worker(self) -> None:
        workers = self._any_worker()
        with self._noted("its worker was killed", [workers]):
            workers.kill()

    def terminate_worker(self) -> None:
        workers = self._any_worker()
        workers.signal(signal.SIGTERM)

    def freeze_worker(self) -> None:
        self._freeze(self._any_worker(), self.lease * self.random.uniform(0.07, 0.33))

    def freeze_worker_beyond_its_lease(self) -> None:
        self._freeze(self._any_worker(), self.lease * self.random.uniform(1.2, 2))

    def kill_server(self) -> None:
        with self._noted("the server was killed", None):
            self.server.kill()
            self._pause(self.random.choice([0, 0, 0.5, 2]))
            self.server.start()

    def restart_server(self) -> None:
        begin = time.time()
        self.server.restart()
        # Nothing runs twice for it unless leases end meanwhile: they are renewed three times in their length.
        if time.time() - begin > self.lease / 2:
            self.faults.append(Fault("the server was away for long", frozenset(), begin, time.time()))

    def freeze_server(self) -> None:
        with self._noted("the server was frozen", None):
            os.kill(self.server.pid, signal.SIGSTOP)
            self._pause(self.random.choice([0.3, 1, 3]))
            os.kill(self.server.pid, signal.SIGCONT)

    def _freeze(self, workers: Workers, seconds: float) -> None:
        with self._noted("its worker was frozen", [workers]):
            os.killpg(workers.process.pid, signal.SIGSTOP)
            self._pause(seconds)
            os.killpg(workers.process.pid, signal.SIGCONT)

    def _noted(self, kind: str, workers: Sequence[Workers] | None) -> _Noting:
        return _Noting(self.faults, kind, workers)

    def _any_worker(self) -> Workers:
        return self.random.choice(self._workers)

    def _staff(self) -> None:
        """Replace workers that have ended."""
        for workers in [each for each in self._workers if not each.is_running]:
            self._workers.remove(workers)
        while len(self._workers) < self._places:
            self._hire()

    def _hire(self) -> Workers:
        workers = self._stack.enter_context(self.application.workers(threads=4, FAULTS_SWEEP="2"))
        self._workers.append(workers)
        return workers

    def _pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _send_on(self, seed: float) -> None:
        choice = random.Random(seed)
        kinds, weights = list(KINDS), [share for _, _, share in KINDS.values()]
        while self._sending.is_set():
            kind = choice.choices(kinds, weights)[0]
            self._numbers += 1
            key = f"{kind} {self._numbers} {seed}"
            actor, steps, _ = KINDS[kind]
            delay = choice.randrange(50, 1500) if kind == "delayed" else None
            try:
                message = self.application.send(key, *steps, actor=actor, delay=delay)
                self.confirmed[key] = message.message_id
            except BrokerConnectionError:
                self.unconfirmed += 1
            self._pause(choice.expovariate(200))

    def account(self) -> Account:
        """Find what became of each message."""
        notes = defaultdict(list)
        for note in notes_of(self.application.folder):
            notes[note.key].append(note)
        excuses = self.faults + [fault for key in notes for fault in suicides(key, notes[key])]
        dead = {letter.message_id: letter.reason for letter in self.application.broker.dead_letters.list()}
        account = Account(sent=len(self.confirmed), unconfirmed=self.unconfirmed, dead=Counter(dead.values()))
        for key, message_id in self.confirmed.items():
            runs = runs_of(notes[key])
            complete = [run for run in runs if run.end < math.inf]
            account.completed += bool(complete)
            if not complete and message_id not in dead:
                account.lost.append(key)
            if complete and (message_id in dead or complete[0] is not runs[-1]):
                what = f", then a dead letter ({dead[message_id]})" if message_id in dead else ""
                account.judge(excuses, key, runs, what)
        return account


class _Noting:
    """Notes a fault of some workers, or of the server, from the start to the end of a with block."""

    def __init__(self, faults: list[Fault], kind: str, workers: Sequence[Workers] | None) -> None:
        self._faults = faults
        self._kind = kind
        self._workers = None if workers is None else list(workers)
        self._pids: set[int] = set()

    def __enter__(self) -> None:
        self._begin = time.time()
        self._look()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._look()
        self._faults.append(Fault(self._kind, frozenset(self._pids), self._begin, time.time()))

    def _look(self) -> None:
        if self._workers is not None:
            # Nobody has the number 0: a fault of no workers is not the server's.
            self._pids |= {0, *(pid for workers in self._workers for pid in workers.pids)}


FAULTS = [
    "kill_worker",
    "kill_worker",
    "terminate_worker",
    "freeze_worker",
    "freeze_worker_beyond_its_lease",
    "kill_server",
    "kill_server",
    "restart_server",
    "freeze_server",
]
