"""The border at which others' errors become ours: nats-py's, the operating system's and JSON's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors

from ..errors import CallTimeout, ConnectionClosed, MessageTooLarge, UnexpectedAnswer


class NoResponders(CallTimeout):
    """Raised when the subject of a request has no responder."""


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
