"""Loggers whose lines hold nothing from outside unescaped, and count what repeats."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable
from typing import Any

from dramatiq.logging import get_logger as get_dramatiq_logger

#: Seconds during which lines for one cause are counted instead of logged.
INTERVAL = 60.0

#: How many lines about single messages are logged within the interval before they are counted.
FIRST_LINES = 200

#: How many causes are remembered: they hold names from outside, of which there is no end.
MAX_CAUSES = 1_024

#: The attribute of a record that names its cause.
CAUSE = "repeated_cause"


def get_logger(module: str, name: object = None) -> logging.Logger:
    """As dramatiq's function of that name; what is logged is escaped, and counted where a cause is given."""
    logger: logging.Logger = get_dramatiq_logger(module, name)
    guard(logger)
    return logger


def guard(logger: logging.Logger) -> None:
    """Have a logger's lines escaped, as those of ours are: dramatiq's also hold what messages do."""
    logger.addFilter(_FILTER)


def repeated(*cause: Hashable | type[Any]) -> dict[str, Any]:
    """The ``extra`` of a line that is logged at most once a minute for a cause, with a count of the others.

    Parameters:
      *cause(Hashable): What the line is about, such as a queue and an actor; the line's text is part of it.
    """
    return {CAUSE: cause}


class FirstLines:
    """Has the first lines within a minute logged one by one, and further ones counted by their cause."""

    def __init__(self) -> None:
        #: When the minute began, and how many lines it had; a lost count does no harm.
        self._told = (-math.inf, 0)

    def extra(self, *cause: Hashable | type[Any]) -> dict[str, Any]:
        """The ``extra`` of a line; see :func:`repeated`."""
        now = time.monotonic()
        since, count = self._told
        self._told = since, count = (since, count + 1) if now - since < INTERVAL else (now, 1)
        return {} if count <= FIRST_LINES else repeated(*cause)


def escaped(text: str, keep: str = "") -> str:
    """Text in which control characters, line feeds and surrogates are shown as Python writes them.

    Parameters:
      text(str): The text.
      keep(str): Characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


class _Argument:
    """An argument of a log line, escaped however it is formatted."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return escaped(str(self._value))

    def __repr__(self) -> str:
        return escaped(repr(self._value))


class _LineFilter(logging.Filter):
    """Escapes a record's arguments and traceback, and drops what its cause has said within the interval."""

    def __init__(self) -> None:
        super().__init__()
        # Without a lock, which an exception thrown into a thread might leave taken: a count may be off by one.
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        cause = getattr(record, CAUSE, None)
        if cause is not None and not self._is_due((record.name, record.msg, cause), record):
            return False
        if isinstance(record.args, tuple):
            record.args = tuple(map(_argument, record.args))
        elif record.args:
            record.args = {name: _argument(value) for name, value in record.args.items()}
        if record.exc_info and not record.exc_text:
            text = logging.Formatter().formatException(record.exc_info)
            # Indented, a line of an exception's text cannot pass for a record of its own.
            record.exc_text = "\n".join(f"  {escaped(line, keep=chr(9))}" for line in text.split("\n"))
        return True

    def _is_due(self, key: Hashable, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        since, count = self._seen.get(key, (now - INTERVAL, 0))
        if now - since < INTERVAL:
            self._seen[key] = since, count + 1
            return False
        if len(self._seen) >= MAX_CAUSES:
            recent = {cause: seen for cause, seen in list(self._seen.items()) if now - seen[0] < INTERVAL}
            self._seen = recent if len(recent) < MAX_CAUSES else {}
        self._seen[key] = now, 0
        if count:
            record.msg = f"{record.msg} ({count} more such lines since the last one)"
        return True


def _argument(value: object) -> object:
    return value if isinstance(value, (int, float, _Argument)) or value is None else _Argument(value)


_FILTER = _LineFilter()
