"""What ends a command with another status than 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from dramatiq.errors import DramatiqError

from ..errors import CallTimeout, ConnectionClosed, ConnectionFailed

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


@contextmanager
def explained() -> Iterator[None]:
    """Turn what a user can fix into a sentence."""
    try:
        yield
    except (ConnectionFailed, CallTimeout, ConnectionClosed) as error:
        raise Failure(str(error), UNREACHABLE) from error
    except DramatiqError as error:
        raise Failure(str(error) or type(error).__name__) from error
