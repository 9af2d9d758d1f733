"""An hour of everything at once: `pytest -m soak -n 0 -s`.

SOAK_MINUTES sets its length and SOAK_SEED its seed, which is printed.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from dramatiq_jetstream import NatsServer
from tests.support.account import listed
from tests.support.faults import Application, notes_of
from tests.support.reckoning import Books, Reckoning
from tests.support.soak import QUEUES, Soak
from tests.support.vitals import Vitals, vitals
from tests.support.waiting import eventually
from tests.support.worker_logs import complaints

SOAK_MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
SOAK_SEED = int(os.environ.get("SOAK_SEED", random.randrange(1_000_000)))

#: Seconds of disturbance in each round; what is left then is done undisturbed.
ROUND = 60

#: Bytes by which the memory of a producer may grow once it is warm, and that a server may take at most.
GROWTH, SERVER = 48 * 2**20, 512 * 2**20

#: Milliseconds until the server has forgotten connections, and the consumers of those who waited for something.
FORGOTTEN = 180_000

#: Lines of each log that a failure shows.
TAIL = 40


class Report:
    """What is left after each round, and what was there after the first."""

    def __init__(self, soak: Soak, folder: Path) -> None:
        self.soak = soak
        self.folder = folder
        self.begin = time.monotonic()
        self.rounds = 0
        self.totals = Reckoning()
        self.duplicates: Counter[str] = Counter()
        self.complaints: Counter[str] = Counter()
        self.first: tuple[Vitals, Vitals] | None = None

    def look(self) -> None:
        """Account for a round that has ended, and check that nothing is left of it."""
        soak, application = self.soak, self.soak.application
        letters = list(application.broker.dead_letters.list())
        operator = soak.operator
        books = Books(
            soak.producer.sent(), notes_of(self.folder), letters, soak.faults, operator.requeued, operator.purged
        )
        reckoning = books.reckon()
        found = Counter(line for path in self.folder.glob("*.log") for line in complaints(path))
        self.rounds += 1
        self._add(reckoning, found)
        print(f"round {self.rounds}, {self.minutes:.1f} min: {reckoning}", flush=True)
        self._check(reckoning, found)
        assert application.broker.dead_letters.purge() == len(letters)
        self._check_vitals()
        self._forget()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.begin) / 60

    def _add(self, reckoning: Reckoning, found: Counter[str]) -> None:
        for name in ("sent", "unconfirmed", "completed", "refused", "purged", "dead", "duplicates"):
            setattr(self.totals, name, getattr(self.totals, name) + getattr(reckoning, name))
        self.complaints += found

    def _check(self, reckoning: Reckoning, found: Counter[str]) -> None:
        wrong = {name: getattr(reckoning, name) for name in ("lost", "unexplained", "contradicted", "overlapping")}
        assert not any(wrong.values()), self._evidence(wrong)
        assert self.totals.purged <= self.soak.operator.unseen, self._evidence("dead letters are missing")
        assert not found, self._evidence(dict(found))

    def _evidence(self, wrong: object) -> str:
        """What is wrong, with the last lines of the logs."""
        logs = {path: path.read_text(errors="replace").splitlines()[-TAIL:] for path in self.folder.glob("*.log")}
        tails = "\n".join(
            f"--- {path.name}\n" + "\n".join(lines) for path, lines in logs.items() if "sent" not in path.name
        )
        return f"SOAK_SEED={SOAK_SEED}, round {self.rounds}: {wrong}\n{tails}"

    def _check_vitals(self) -> None:
        soak = self.soak
        if self.first is None:
            self.first = self._vitals()
        producer, _ = self.first
        eventually(lambda: soak.producer.vitals.threads <= producer.threads, FORGOTTEN, message="the end of threads")
        eventually(lambda: soak.producer.vitals.sockets <= producer.sockets, FORGOTTEN, message="the end of sockets")
        eventually(lambda: self._strays() == {}, FORGOTTEN, message="the end of consumers nobody needs")
        now, server = self._vitals()
        print(f"  producer: {now}; server: {server}; streams: {self._streams()}", flush=True)
        assert server.memory < SERVER
        assert now.memory < producer.memory + GROWTH

    def _vitals(self) -> tuple[Vitals, Vitals]:
        return self.soak.producer.vitals, vitals(self.soak.server.pid)

    def _streams(self) -> dict[str, int]:
        admin = self.soak.application.admin
        return {name: admin.count(name) for name in sorted(admin.streams())}

    def _strays(self) -> dict[str, int]:
        """Streams that have more consumers than the one that is theirs."""
        admin = self.soak.application.admin
        counts = {name: admin.stream(name)["state"]["consumer_count"] for name in admin.streams()}
        return {name: count for name, count in counts.items() if count > (not name.startswith("KV_"))}

    def _forget(self) -> None:
        """Remove what was accounted for, so that the next round is as quick as this one."""
        for path in [*self.folder.glob("*.notes"), *self.folder.glob("workers-*.log")]:
            path.unlink()
        self.soak.faults.clear()

    def __str__(self) -> str:
        soak = self.soak
        return (
            f"SOAK_SEED={SOAK_SEED}: {self.rounds} rounds in {self.minutes:.1f} min; {self.totals}\n"
            f"faults: {listed(soak.happened)}\noperator: {listed(soak.operator.done)}\n"
            f"after the first round: {self.first and self.first[0]}; {self.first and self.first[1]}; "
            f"at the end: {soak.producer.vitals}; {vitals(soak.server.pid)}"
        )


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_nothing_is_lost_in_an_hour_of_everything(own_server: NatsServer, namespace: str, tmp_path: Path) -> None:
    print(f"SOAK_SEED={SOAK_SEED} SOAK_MINUTES={SOAK_MINUTES}", flush=True)
    settings = {"queues": QUEUES, "unknown_actor_grace": 3_000}
    with Application(own_server.url, namespace, tmp_path, **settings) as application:
        application.program = "tests.support.apps.soaking"
        with Soak(own_server, application, SOAK_SEED) as soak:
            report = Report(soak, tmp_path)
            while report.minutes < SOAK_MINUTES:
                soak.play(report.rounds + 1, ROUND)
                report.look()
            print(report, flush=True)
