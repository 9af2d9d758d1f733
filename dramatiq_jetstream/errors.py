"""The exceptions of this package, each a subclass of one of dramatiq's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import BrokerError, ConnectionClosed, ConnectionFailed, DramatiqError, QueueNotFound

if TYPE_CHECKING:
    from dramatiq.errors import BrokerConnectionError
else:
    # dramatiq 1 calls it ConnectionError, and asking dramatiq 2 for that name warns.
    BrokerConnectionError = ConnectionFailed.__base__

__all__ = [
    "ApiError",
    "AuthenticationFailed",
    "BatchFailed",
    "BatchFailure",
    "BatchUnconfirmed",
    "BlockingCallRefused",
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
    "UnexpectedAnswer",
    "UnsupportedMessage",
    "UnsupportedServer",
]


#: How many failed messages of a batch the error's text names.
MAX_LISTED = 5


def text_of(error: BaseException) -> str:
    """An exception's text, whatever its ``__str__`` does."""
    try:
        # The join turns an instance of a subclass of str into a plain str.
        return "".join((str(error), ""))
    except BaseException as failure:
        # This is the application's code: its exceptions must not end the calling thread.
        return f"<its text cannot be had: {type(failure).__name__}>"


def described(error: BaseException) -> str:
    """An exception's class and text, whatever its methods do."""
    return f"{class_of(error)}: {text_of(error)}"


def class_of(error: BaseException) -> str:
    """The name of an exception's class, whatever its metaclass does."""
    try:
        return f"{type(error).__name__}"
    except BaseException:
        return "<a class without a name>"


class JetStreamError(DramatiqError):
    """Base class of this package's errors."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]  # dramatiq does not type it


class ServerUnreachable(JetStreamError, ConnectionFailed):
    """Raised when no server answers at the configured addresses."""


class AuthenticationFailed(JetStreamError, ConnectionFailed):
    """Raised when the server refuses the credentials, or the TLS handshake fails."""


class UnsupportedServer(JetStreamError, ConnectionFailed):
    """Raised when the server is too old or JetStream is disabled."""


class PermissionDenied(JetStreamError, BrokerConnectionError):
    """Raised when the server's permissions do not let this user do what was asked."""


class CallTimeout(JetStreamError, ConnectionClosed):
    """Raised when the server did not answer within the broker's timeout."""


class BlockingCallRefused(JetStreamError, BrokerError, RuntimeError):
    """Raised when a blocking call is made on the connection's own thread, as in a callback of ``broker.subscribe``."""


class ApiError(JetStreamError, BrokerError):
    """Raised when the server answers a request with an error that has no class of its own.

    Parameters:
      what(str): What was requested.
      code(int): The server's HTTP-like status.
      err_code(int): The server's error number.
      description(str): The server's text.
    """

    #: Whether the request was sent more than once; an earlier copy may have been carried out.
    repeated = False

    def __init__(self, what: str, code: int, err_code: int, description: str) -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        super().__init__(f"{what}: the server answered {description!r} (error {err_code or code})")


class UnexpectedAnswer(JetStreamError, BrokerError):
    """Raised when an answer of the server cannot be read."""


class StreamNotFound(JetStreamError, QueueNotFound):
    """Raised when a queue's stream does not exist and may not be created."""

    #: Whether JetStream reports it; otherwise the subject has no responder, as during a leader election.
    confirmed = False
    #: Whether the message was sent more than once; an earlier copy may be stored.
    repeated = False


class ConsumerNotFound(JetStreamError, QueueNotFound):
    """Raised when a queue's durable consumer does not exist and may not be created."""


class EnqueueRejected(JetStreamError, BrokerError):
    """Raised when the stream refuses to store a message, for example because it is full."""


class MessageTooLarge(EnqueueRejected):
    """Raised when a message is larger than the queue's stream or the server accepts."""


class UnsupportedMessage(JetStreamError, BrokerError):
    """Raised when a message cannot be expressed in its queue's payload format."""


class DelayNotSupported(JetStreamError, BrokerError):
    """Raised when a message with a delay is sent to a stream that does not allow message schedules."""


class BatchFailure(NamedTuple):
    """One message of a batch that is not known to be stored.

    Parameters:
      message(Message): The message.
      error(Exception): The error that enqueueing it alone would have raised.
    """

    message: Message[Any]
    error: Exception

    def __str__(self) -> str:
        return f"{self.message.message_id} ({self.message.actor_name} on {self.message.queue_name!r}): {self.error}"


class BatchFailed(JetStreamError, BrokerError):
    """Raised at the end of a batch if some of its messages were not stored.  The others are stored.

    Parameters:
      failures(Sequence[BatchFailure]): Each message that was not stored, and why.
      total(int): How many messages the batch had.
      again(Callable): Enqueues the failed messages again.
    """

    def __init__(self, failures: Sequence[BatchFailure], total: int, again: Callable[[], list[Message[Any]]]) -> None:
        self.failures = tuple(failures)
        self.total = total
        self._again = again
        listed = "".join(f"\n  {failure}" for failure in self.failures[:MAX_LISTED])
        more = f"\n  and {len(failures) - MAX_LISTED} more" if len(failures) > MAX_LISTED else ""
        super().__init__(f"{len(failures)} of {total} messages of a batch were not enqueued:{listed}{more}")

    def retry(self) -> list[Message[Any]]:
        """Enqueue the failed messages again.

        They keep their message ids.  A message whose confirmation was lost is therefore not stored
        twice, provided that this is called within the queue's duplicate window.

        Raises:
          BatchFailed: If some fail again.

        Returns:
          list[Message]: The messages that were enqueued.
        """
        return self._again()


class BatchUnconfirmed(BatchFailed, BrokerConnectionError):
    """Raised at the end of a batch if the failed messages got no answer: each may or may not be stored."""


class Difference(NamedTuple):
    """One setting whose value on the server differs from the declared one.

    Parameters:
      field(str): The setting's name in the server's configuration.
      expected(object): What was declared.
      found(object): The value on the server.
    """

    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected!r}, found {self.found!r}"


class ConfigMismatch(JetStreamError, BrokerError):
    """Raised when a stream or consumer exists with settings other than the declared ones.

    Parameters:
      what(str): A readable name of the stream or consumer.
      differences(Sequence[Difference]): Each setting that differs.
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
