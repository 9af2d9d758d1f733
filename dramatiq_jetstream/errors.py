"""The exceptions of this package, each under one of dramatiq's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dramatiq.errors import BrokerError, ConnectionClosed, ConnectionFailed, DramatiqError, QueueNotFound

if TYPE_CHECKING:
    from dramatiq.errors import BrokerConnectionError
else:
    # dramatiq 1 calls it ConnectionError, and asking dramatiq 2 for that name warns.
    BrokerConnectionError = ConnectionFailed.__base__

__all__ = [
    "ApiError",
    "AuthenticationFailed",
    "BrokerConnectionError",
    "BrokerError",
    "CallTimeout",
    "ConfigMismatch",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConsumerNotFound",
    "DelayNotSupported",
    "Difference",
    "EmbeddedServerError",
    "EnqueueRejected",
    "JetStreamError",
    "MessageTooLarge",
    "PermissionDenied",
    "QueueNotFound",
    "ServerUnreachable",
    "StreamNotFound",
    "UnsupportedMessage",
    "UnsupportedServer",
]


class JetStreamError(DramatiqError):
    """Base class of this package's errors."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]  # dramatiq does not type it


class ServerUnreachable(JetStreamError, ConnectionFailed):
    """Raised when no server answers at the configured addresses."""


class AuthenticationFailed(JetStreamError, ConnectionFailed):
    """Raised when the server refuses the credentials, or TLS cannot be agreed on."""


class UnsupportedServer(JetStreamError, ConnectionFailed):
    """Raised when the server is too old or has JetStream switched off."""


class PermissionDenied(JetStreamError, BrokerConnectionError):
    """Raised when the server's permissions do not let this user do what was asked."""


class CallTimeout(JetStreamError, ConnectionClosed):
    """Raised when the server did not answer within the broker's timeout."""


class ApiError(JetStreamError, BrokerError):
    """Raised when the server answers a request with an error that has no class of its own.

    Parameters:
      what(str): What was asked of the server.
      code(int): The server's HTTP-like status.
      err_code(int): The server's own error number.
      description(str): The server's text.
    """

    #: Whether it was asked more than once, so that an earlier copy may have been carried out.
    repeated = False

    def __init__(self, what: str, code: int, err_code: int, description: str) -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        super().__init__(f"{what}: the server answered {description!r} (error {err_code or code})")


class StreamNotFound(JetStreamError, QueueNotFound):
    """Raised when a queue's stream does not exist and may not be made."""


class ConsumerNotFound(JetStreamError, QueueNotFound):
    """Raised when a queue's durable consumer does not exist and may not be made."""


class EnqueueRejected(JetStreamError, BrokerError):
    """Raised when the stream refuses to store a message, for example because it is full."""


class MessageTooLarge(EnqueueRejected):
    """Raised when a message exceeds what the queue's stream or the server takes."""


class UnsupportedMessage(JetStreamError, BrokerError):
    """Raised when a message cannot be expressed in its queue's payload format."""


class DelayNotSupported(JetStreamError, BrokerError):
    """Raised when a delay is asked of a stream that does not allow message schedules."""


class Difference(NamedTuple):
    """One setting that is not on the server as it is declared.

    Parameters:
      field(str): The setting's name in the server's configuration.
      expected(object): What was declared.
      found(object): What the server has.
    """

    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected!r}, found {self.found!r}"


class ConfigMismatch(JetStreamError, BrokerError):
    """Raised when a stream or consumer exists with settings that do not fit the declared ones.

    Parameters:
      what(str): The stream or consumer, as a person would name it.
      differences(Sequence[Difference]): Each setting that does not fit.
      advice(str): What to do about it.
    """

    def __init__(self, what: str, differences: Sequence[Difference], advice: str) -> None:
        self.what = what
        self.differences = tuple(differences)
        self.advice = advice
        listed = "".join(f"\n  {difference}" for difference in self.differences)
        super().__init__(f"{what} exists with other settings:{listed}\n{advice}")


class EmbeddedServerError(JetStreamError):
    """Raised when the embedded nats-server cannot be found or does not start."""
