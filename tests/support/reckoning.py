"""The account of one round of the long run, whose messages follow from one another."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from dramatiq_jetstream.dead_letters import DeadLetter
from tests.support.account import Account, Fault, Run, runs_of, suicides
from tests.support.faults import Note

#: The key of a message that cannot be decoded, in its body.
_GARBAGE = re.compile(r"garbage [\d.]+ \d+")

#: Seconds for which the holder of the mutex may be gone: longer than any fault of the long run lasts.
HOLD = 30

#: Seconds after which a holder that has not left was surely killed, and what it held may soon be another's.
GONE = 20

#: What was sent: what came of it, the key, and the id.
Sent = tuple[str, str, str | None]


@dataclass
class Reckoning(Account):
    """What became of the messages of a round.

    Parameters:
      contradicted(list): Keys of messages that ran although their sending was refused.
      overlapping(list): Pairs of keys that held the mutex at once.
      purged(int): Messages whose dead letters were purged before anybody saw them.
      refused(int): Messages that the server refused.
    """

    contradicted: list[str] = field(default_factory=list)
    overlapping: list[tuple[str, str]] = field(default_factory=list)
    purged: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return (
            f"{super().__str__()}; {self.refused} refused, of which ran: {self.contradicted[:20]}; "
            f"{self.purged} purged unseen; held the mutex at once: {self.overlapping[:20]}"
        )


class Books:
    """All that is known at the end of a round.

    Parameters:
      sent(list): What was sent.
      notes(list): What actors noted.
      letters(list): The dead letters.
      faults(list): What was done.
      requeued(set): The ids of messages that an operator put back.
      purged(list): The dead letters that an operator purged.
    """

    def __init__(
        self,
        sent: list[Sent],
        notes: list[Note],
        letters: list[DeadLetter],
        faults: list[Fault],
        requeued: set[str | None],
        purged: list[DeadLetter],
    ) -> None:
        self._sent = sent
        self._notes: dict[str, list[Note]] = defaultdict(list)
        for note in notes:
            self._notes[note.key].append(note)
        self._letters = letters
        self._dead = {letter.message_id or _key_of(letter): letter for letter in [*purged, *letters]}
        self._ids = {key: message_id for _, key, message_id in sent}
        self._requeued = requeued
        self._faults = faults + [each for key, found in self._notes.items() for each in suicides(key, found)]

    def reckon(self) -> Reckoning:
        """Find what became of each message."""
        reckoning = Reckoning(dead=_counted(self._letters))
        for what, key, _ in self._sent:
            if what == "unconfirmed":
                reckoning.unconfirmed += 1
            elif what == "refused":
                reckoning.refused += 1
                reckoning.contradicted += [key] if self._notes[key] else []
            else:
                self._reckon(reckoning, key)
        reckoning.overlapping = list(self._overlapping())
        return reckoning

    def _reckon(self, reckoning: Reckoning, key: str) -> None:
        reckoning.sent += 1
        runs = runs_of(self._notes[key])
        complete = [run for run in runs if run.end < math.inf]
        letter = self._letter(key)
        reckoning.completed += bool(complete)
        if not complete and letter is None:
            self._miss(reckoning, key)
        if complete and key.startswith("parent") and not self._notes[f"child of {key}"]:
            reckoning.lost.append(f"child of {key}")
        if complete and (letter is not None or complete[0] is not runs[-1]):
            self._judge(reckoning, key, runs, letter)

    def _miss(self, reckoning: Reckoning, key: str) -> None:
        if key.startswith("purged"):
            reckoning.purged += 1
        elif not any(self._letter(other) for other in self._before(key)):
            reckoning.lost.append(key)

    def _judge(self, reckoning: Reckoning, key: str, runs: list[Run], letter: DeadLetter | None) -> None:
        what = "" if letter is None else f", then a dead letter ({letter.reason})"
        if self._ids[key] in self._requeued:
            reckoning.duplicates[f"an operator requeued it{what}"] += 1
        elif key.startswith("oversized"):
            # Its result cannot be stored, but it ran.
            reckoning.duplicates[f"its result is too large{what}"] += 1
        elif key.startswith("swollen") and key.endswith("/0"):
            reckoning.duplicates[f"its next step is too large{what}"] += 1
        elif any(len(runs_of(self._notes[other])) > 1 for other in self._before(key)):
            reckoning.duplicates[f"the message before it ran twice{what}"] += 1
        else:
            # Whoever made the letter had the message, too.
            reckoning.judge(self._faults, key, [*runs, *_makings(letter)], what)

    def _letter(self, key: str) -> DeadLetter | None:
        """The dead letter of a message, if there is one."""
        return self._dead.get(self._ids.get(key) or key)

    def _before(self, key: str) -> list[str]:
        """The messages that had to complete for this one to be sent."""
        base, _, place = key.partition("/")
        if base.startswith(("pipeline", "swollen")):
            return [f"{base}/{number}" for number in range(int(place or 0))]
        if place == "complete":
            return [other for other in self._ids if other.startswith(f"{base}/") and other != key]
        return []

    def _overlapping(self) -> Iterator[tuple[str, str]]:
        """Whoever entered where only one may be, while another was there."""
        notes = sorted((note for found in self._notes.values() for note in found), key=lambda note: note.at)
        inside: list[Note] = []
        for note in notes:
            if note.what == "enter":
                yield from ((other.key, note.key) for other in inside if other.at > note.at - GONE)
                inside.append(note)
            elif note.what == "leave":
                inside = [other for other in inside if (other.pid, other.key) != (note.pid, note.key)]


def _key_of(letter: DeadLetter) -> str:
    """The key in the body of a message that could not be decoded."""
    found = _GARBAGE.search(letter.body.decode(errors="replace"))
    return found[0] if found else ""


def _makings(letter: DeadLetter | None) -> list[Run]:
    """The making of a letter, as an incomplete run of the worker that did it."""
    if letter is None or letter.failed_at is None:
        return []
    pid = re.search(r"\d+$", letter.worker or "")
    return [Run(int(pid[0]), letter.failed_at / 1000, math.inf)] if pid else []


def _counted(letters: list[DeadLetter]) -> Counter[str]:
    return Counter(letter.reason for letter in letters)
