"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters:
      level(str): ``"ok"``, ``"note"``, ``"warning"`` or ``"problem"``; the last two need somebody.
      check(str): What was looked at, such as ``"drift"``.
      subject(str): On which thing.
      text(str): What was found.
      advice(str): What to do about it; None if nothing.
    """

    level: str
    check: str
    subject: str
    text: str
    advice: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether somebody should do something."""
        return self.level in ("warning", "problem")
