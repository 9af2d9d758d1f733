"""The border at which others' errors become ours: nats-py's, the operating system's and JSON's."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import nats.errors

from ..errors import CallTimeout, ConnectionClosed, MessageTooLarge, UnexpectedAnswer, described
from ..hidden import redacted

#: Words in the text of an error that says that we are not let in.
_REFUSALS = ("authorization", "authentication", "credentials", "nkey", "jwt")


class NoResponders(CallTimeout):
    """Raised when the subject of a request has no responder."""


class TlsMissing(nats.errors.Error):
    """Raised before credentials are sent to a server that does not speak TLS though it should."""


class Refused(nats.errors.Error):
    """Stands for a refusal whose own error shows a secret."""


@contextmanager
def translated(what: str, address: str) -> Iterator[None]:
    """Turn others' errors into this package's.

    Parameters:
      what(str): What is being done, such as ``"the request to '$JS.API.INFO'"``.
      address(str): The servers' addresses.
    """
    try:
        yield
    except nats.errors.NoRespondersError as error:
        raise NoResponders(f"{what}: nobody listens to it at {address}") from error
    except nats.errors.MaxPayloadError as error:
        raise MessageTooLarge(f"{what}: it is larger than the server takes (max_payload)") from error
    except nats.errors.BadSubjectError as error:
        raise ValueError(f"{what}: this is not a subject") from error
    except nats.errors.TimeoutError as error:
        raise CallTimeout(f"{what}: no answer in time from {address}") from error
    except (nats.errors.Error, OSError) as error:
        reason = str(error) or type(error).__name__
        raise ConnectionClosed(f"{what}: the connection to {address} is closed: {reason}") from error


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn the errors of reading an answer of the server into this package's."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnexpectedAnswer(
            f"{what}: the server's answer cannot be read: {type(error).__name__}: {error}"
        ) from error


def is_refusal(error: BaseException) -> bool:
    """Whether connecting again would fail in the same way."""
    text = str(error).lower()
    return isinstance(error, (TlsMissing, Refused, ssl.SSLError, FileNotFoundError, ImportError)) or any(
        word in text for word in _REFUSALS
    )


def showable(error: Exception, secrets: Iterable[str]) -> Exception:
    """An error without frames, whose variables hold credentials; one that shows a secret is replaced.

    Parameters:
      error(Exception): The error of an attempt to connect.
      secrets(Iterable[str]): What it must not show.
    """
    chain = list(_chain(error))
    shown = "\n".join(f"{one}\n{one!r}\n{vars(one)}" for one in chain)
    if redacted(shown, secrets) != shown:
        return (Refused if is_refusal(error) else nats.errors.Error)(redacted(described(error), secrets))
    for one in chain:
        one.__traceback__ = None
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and all that led to it."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and not any(one is known for known in seen):
            seen.append(one)
            left += [one.__cause__, one.__context__]
            yield one
