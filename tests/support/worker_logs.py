"""The log of a dramatiq, read as records: a line with a time, and what belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: "[2026-11-25 13:00:00,000] [PID 1] [Thread-1] [dramatiq.worker.WorkerThread] [ERROR] …"
_HEAD = re.compile(r"\[[^]]+\] \[PID \d+\] \[[^]]+\] \[(?P<logger>[^]]+)\] \[(?P<level>[A-Z]+)\] (?P<text>.*)")

#: The last line of a traceback: an exception's class, perhaps its text.
_RAISED = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(:|$)")


class Record(NamedTuple):
    """One record of a log.

    Parameters:
      logger(str): Whose.
      level(str): Its level.
      text(str): Its first line.
      rest(list): The lines after it, such as a traceback.
    """

    logger: str
    level: str
    text: str
    rest: list[str]

    @property
    def raised(self) -> str | None:
        """The class of the exception that it ends with, if it has a traceback."""
        if not any(line.startswith("Traceback") for line in (self.text, *self.rest)):
            return None
        names = [match["name"] for line in self.rest if not line.startswith(" ") and (match := _RAISED.match(line))]
        return names[-1].rpartition(".")[2] if names else "?"


def records(path: Path) -> Iterator[Record]:
    """The records of a log; what stands before the first is one as well."""
    record = Record("", "", "", [])
    for line in path.read_text(errors="replace").splitlines():
        head = _HEAD.match(line)
        if head is None:
            record.rest.append(line)
            continue
        if record.text or record.rest:
            yield record
        record = Record(head["logger"], head["level"], head["text"], [])
    yield record


#: Exceptions that actors of the long run, and hooks of dramatiq around them, raise on purpose or because of a fault.
EXPECTED = {
    "RuntimeError",
    "RateLimitExceeded",
    "MemoryError",
    "ActorNotFound",
    "CallTimeout",
    "ServerUnreachable",
    "ConnectionClosed",
    "BrokerConnectionError",
    "MessageTooLarge",
}


def complaints(path: Path) -> Iterator[str]:
    """The records of a log with a traceback that is not an actor's, each as one line."""
    for record in records(path):
        raised = record.raised
        if raised is None or (record.logger.startswith("dramatiq.") and raised in EXPECTED):
            continue
        yield f"{record.logger} {record.level} {record.text[:200]} … {raised}"
