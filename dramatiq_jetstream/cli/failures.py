"""What ends a command with another status than 0."""

from __future__ import annotations

import difflib
import shutil
import sys
from collections.abc import Collection, Iterator
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

#: How many names a sentence lists.
LISTED = 20


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


def unknown(what: str, name: str, known: Collection[str], more: str = "", exit_code: int = USAGE) -> Failure:
    """A name that nothing has, with those that there are, and the one that is probably meant.

    Parameters:
      what(str): Of which kind of thing it is the name.
      name(str): The name.
      known(Collection[str]): Those there are.
      more(str): What else to say.
      exit_code(int): The status.
    """
    return Failure(f"there is no {what} {name!r}; {those_there_are(name, known)}{more}", exit_code)


def those_there_are(name: str, known: Collection[str]) -> str:
    """Say which names there are, and which is probably meant by one that is not among them."""
    ordered = sorted(known)
    rest = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    close = difflib.get_close_matches(name, ordered, 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"there is: {', '.join(ordered[:LISTED]) or 'none'}{rest}{meant}"
