"""Work for a processor."""

from __future__ import annotations

#: Turns of a loop that take some 5 ms.
TURNS = 220_000


def spin(*_: object) -> int:
    """Keep a core busy, and the interpreter's lock taken."""
    total = 0
    for number in range(TURNS):
        total += number
    return total
