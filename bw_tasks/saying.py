"""What the command line prints: nothing in it commands the terminal, and no terminal is too poor for it."""

from __future__ import annotations

import io
import sys
from typing import IO, Any

import click

from dramatiq_jetstream.logs import escaped

__all__ = ["Refusal", "say"]


class Refusal(click.ClickException):
    """Ends a command with a sentence."""

    def show(self, file: IO[Any] | None = None) -> None:
        say(f"Error: {self.format_message()}", err=True, keep="\n")


def say(text: str, *, err: bool = False, end: str = "\n", keep: str = "") -> None:
    """Print text; a character that the terminal does not have is shown by its number.

    Parameters:
      text(str): The text.
      err(bool): Whether it is for stderr.
      end(str): What follows it.
      keep(str): The control characters that are meant.
    """
    stream = sys.stderr if err else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        # click's own printing takes ASCII for a mistake, and writes UTF-8 instead.
        stream.reconfigure(errors="backslashreplace")
    print(escaped(text, keep), end=end, file=stream, flush=True)
