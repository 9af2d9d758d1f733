"""What became of each message, from what actors noted and what is among the dead letters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.faults import Note

#: Seconds before its end during which a killed server may forget an acknowledgement: it writes
#: consumers' state about ten times a second, more rarely when busy.
FORGETFUL = 2.0

#: Seconds from the end of an actor to the moment when its acknowledgement is surely on its way.
MOMENT = 2.0

#: Seconds after which a worker is surely connected to a server that came back.
RECONNECT = 2.0

#: Seconds after which a worker that was frozen has surely begun all that it held meanwhile.
BACKLOG = 2.0

#: Kinds of messages that kill their worker, as their keys begin.
DEADLY = ("deadly", "hungry")


class Fault(NamedTuple):
    """Something that was done to a process, from when to when, in seconds of UNIX time.

    Parameters:
      kind(str): What was done.
      pids(frozenset): To which worker processes; none means the server.
      begin(float): When it began.
      end(float): When it was over.
    """

    kind: str
    pids: frozenset[int]
    begin: float
    end: float


class Run(NamedTuple):
    """One attempt of a message; its end is infinite if it did not complete."""

    pid: int
    start: float
    end: float


@dataclass
class Account:
    """What became of the messages whose sending was confirmed."""

    sent: int = 0
    unconfirmed: int = 0
    completed: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.sent} sent ({self.unconfirmed} more were not confirmed), {self.completed} completed, "
            f"dead letters: {listed(self.dead)}; lost: {len(self.lost)} {self.lost[:20]}; "
            f"completed twice: {listed(self.duplicates)}; unexplained: {len(self.unexplained)} {self.unexplained[:20]}"
        )

    def judge(self, faults: Sequence[Fault], key: str, runs: Sequence[Run], what: str = "") -> None:
        """Count a message that went on after a complete run, under its reason if there is one.

        The reason is what kept the acknowledgement of its first complete run from being made, or a worker that was
        away while others had the message, and had it still.
        """
        first = next(run for run in runs if run.end < math.inf)
        reasons = [fault.kind for fault in faults if explains(fault, first)]
        reasons += [
            fault.kind for fault in faults for run in runs if is_of_absent_worker(fault) and explains(fault, run)
        ]
        if reasons:
            self.duplicates[f"{reasons[0]}{what}"] += 1
        else:
            near = [fault for fault in faults if fault.begin - 5 < first.end < fault.end + 5]
            self.unexplained.append(f"{key}: {runs}{what}; near it: {near}")


def listed(counts: Counter[str]) -> str:
    """Counts as a phrase."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none"


def runs_of(notes: Sequence[Note]) -> list[Run]:
    """The attempts of a message, the complete ones with their end."""
    starts = [note for note in notes if note.what == "start"]
    ends = {note.pid: note.at for note in notes if note.what == "end"}
    last = {note.pid: note.at for note in starts}
    return [
        Run(note.pid, note.at, ends.get(note.pid, math.inf) if last[note.pid] == note.at else math.inf)
        for note in starts
    ]


def suicides(key: str, notes: Sequence[Note]) -> list[Fault]:
    """The ends of the worker processes that a message killed."""
    deaths = [run for run in runs_of(notes) if key.startswith(DEADLY) and run.end == math.inf]
    return [
        Fault("its worker was killed by another message", frozenset([run.pid]), run.start, run.start + MOMENT)
        for run in deaths
    ]


def is_of_absent_worker(fault: Fault) -> bool:
    """Whether workers were frozen or cut off, and came back."""
    return bool(fault.pids) and "killed" not in fault.kind


def explains(fault: Fault, run: Run) -> bool:
    """Whether a fault kept the acknowledgement of a complete run from being made, or the lease from being renewed.

    The messages of a worker that is frozen or cut off go elsewhere when their leases end, and it begins those it had
    prefetched once it is back.
    """
    if fault.pids and run.pid not in fault.pids:
        return False
    if is_of_absent_worker(fault):
        return fault.begin <= run.end + MOMENT and fault.end + BACKLOG >= run.start
    if fault.pids:
        return run.end <= fault.end and fault.begin <= run.end + MOMENT
    return run.start <= fault.end + RECONNECT and fault.begin <= run.end + FORGETFUL
