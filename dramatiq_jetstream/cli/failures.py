"""What ends a command with another status than 0."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click
from dramatiq.errors import DramatiqError

from ..errors import CallTimeout, ConnectionClosed, ConnectionFailed
from .terminal import encodable, printable, wrapped

#: Something was found wrong, or could not be done.
WRONG = 1

#: The command was not understood.
USAGE = 2

#: The server cannot be reached, or does not let us in.
UNREACHABLE = 3


class Failure(click.ClickException):
    """Ends a command with a sentence and a status.

    Parameters:
      message(str): What failed, on which thing, and what to do.
      exit_code(int): The status.
    """

    def __init__(self, message: str, exit_code: int = WRONG) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence, wrapped if it goes to a terminal."""
        stream = sys.stderr if file is None else file
        encoding = str(getattr(stream, "encoding", None) or "utf-8")
        width = shutil.get_terminal_size().columns
        for line in encodable(printable(f"Error: {self.format_message()}"), encoding).split("\n"):
            for row in wrapped(line, width) if stream.isatty() else [line]:
                click.echo(row, file=stream)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what a user can fix into a sentence."""
    try:
        yield
    except (ConnectionFailed, CallTimeout, ConnectionClosed) as error:
        raise Failure(str(error), UNREACHABLE) from error
    except DramatiqError as error:
        raise Failure(str(error) or type(error).__name__) from error
