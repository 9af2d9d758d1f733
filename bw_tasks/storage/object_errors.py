"""What the connection to NATS raises, in this service's words: which of it may pass, and what to do about the rest."""

from __future__ import annotations

from dramatiq_jetstream.errors import (
    ApiError,
    AuthenticationFailed,
    BrokerError,
    MessageTooLarge,
    PermissionDenied,
    StreamNotFound,
    UnsupportedServer,
)

from ..errors import (
    AccessDenied,
    BucketNotFound,
    ServiceError,
    StorageMisconfigured,
    StorageUnavailable,
    UnreadableImage,
    UnwritableOutput,
)
from .locations import Location

__all__ = ["explained"]

#: The server's numbers of what does not pass by itself: the bucket is full, or sealed.
_REFUSED = frozenset({10002, 10023, 10047, 10052, 10054, 10077, 10109, 10110})


def explained(error: Exception, location: Location, verb: str, timeout: float) -> ServiceError | None:
    """The error to raise in another's place; None for what is none of the connection's.

    Parameters:
      error(Exception): What was raised.
      location(Location): The object.
      verb(str): What was to be done: ``read``, ``written`` or ``used``.
      timeout(float): The seconds that it might take.
    """
    found = _judged(error, location.bucket, timeout)
    if found is None:
        return None
    kind, reason = found
    return kind(f"{location.cannot_be(verb)}: {reason}")


def _judged(error: Exception, bucket: str, timeout: float) -> tuple[type[ServiceError], str] | None:
    if isinstance(error, StreamNotFound) and error.confirmed:
        return BucketNotFound, f"there is no object store {bucket!r}. Make it with 'nats object add {bucket}'."
    if isinstance(error, PermissionDenied):
        return AccessDenied, f"{error}."
    if isinstance(error, (AuthenticationFailed, UnsupportedServer)):
        return StorageMisconfigured, f"{error}."
    if isinstance(error, MessageTooLarge):
        return UnwritableOutput, f"the bucket's messages are too small for it: {error}."
    if isinstance(error, ApiError) and error.err_code in _REFUSED:
        return UnwritableOutput, f"{error}."
    if isinstance(error, TimeoutError):
        return StorageUnavailable, f"the server is slow: it took longer than {timeout:g} s, STORAGE_TIMEOUT."
    if isinstance(error, BrokerError) or type(error).__name__ == "ConnectionFailed":
        return StorageUnavailable, f"{error}."
    if isinstance(error, ValueError):
        return UnreadableImage, f"its meta message cannot be read: {error}."
    return None
