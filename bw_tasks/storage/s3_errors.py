"""What the S3 client raises, in this service's words: which of it may pass, and what to do about the rest."""

from __future__ import annotations

import re

from ..errors import (
    AccessDenied,
    BucketNotFound,
    ImageNotFound,
    MalformedURI,
    ServiceError,
    StorageMisconfigured,
    StorageUnavailable,
)
from .locations import Location

__all__ = ["explained"]

_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]{1,80})\s*</Code>")
_SYSTEM = re.compile(r'message: "([^"]{1,100})"')

#: S3's codes, by what is wrong.
_CREDENTIALS = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidSecurity", "MissingSecurityHeader", "UnrecognizedClientException", "InvalidClientTokenId"),
    }
)
_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException"}
)
_PASSING = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"})

#: Statuses that stay what they are, though they are a server's.
_FINAL_OF_SERVER = frozenset({501, 505})


def explained(
    error: BaseException, location: Location, verb: str, endpoint: str, timeout: float
) -> ServiceError | None:
    """The error to raise in another's place; None for what is none of the client's.

    Parameters:
      error(BaseException): What the client raised.
      location(Location): The object.
      verb(str): What was to be done: ``read``, ``written`` or ``used``.
      endpoint(str): The endpoint, if it is not AWS's.
      timeout(float): The seconds that the client waited.
    """
    if not _is_the_clients(error):
        return None
    text = str(error)
    kind, reason = _judged(error, text, location, endpoint or "AWS", timeout)
    return kind(f"{location.cannot_be(verb)}: {reason}")


def _is_the_clients(error: BaseException) -> bool:
    # Rust's panics are of a class that cannot be imported.
    return isinstance(error, (FileNotFoundError, ValueError)) or type(error).__module__.startswith(
        ("obstore", "pyo3_runtime")
    )


def _judged(
    error: BaseException, text: str, location: Location, server: str, timeout: float
) -> tuple[type[ServiceError], str]:
    # What the server says follows the status; the key, which a stranger chose, stands before it.
    _, found, answer = text.partition("status code: ")
    status = int(answer[:3]) if found and answer[:3].isdigit() else 0
    code = match[1] if found and (match := _CODE.search(answer)) else ""
    if "169.254.169.254" in text or "latest/api/token" in text:
        return StorageMisconfigured, "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    if status:
        return _of_status(status, code, location, server)
    if "Received redirect without LOCATION" in text:
        return StorageMisconfigured, f"{server} has the bucket in another region: set AWS_REGION."
    if isinstance(error, ValueError):
        return MalformedURI, "the client of S3 does not take its name."
    if type(error).__name__ == "PanicException":
        return StorageMisconfigured, "the client of S3 failed. Check AWS_ENDPOINT_URL and AWS_REGION."
    return _of_connection(text, server, timeout)


def _of_status(status: int, code: str, location: Location, server: str) -> tuple[type[ServiceError], str]:
    says = f"{server} answered {code or status}"
    if code in _CREDENTIALS:
        return StorageMisconfigured, f"{says}. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."
    if code == "RequestTimeTooSkewed":
        return StorageMisconfigured, f"{says}: the clocks of this machine and of the server differ. Set them."
    if code in _REGION or status == 301:
        return StorageMisconfigured, f"{says}. Set AWS_REGION to the region of bucket {location.bucket!r}."
    if code in _PASSING or status in (408, 429) or (status >= 500 and status not in _FINAL_OF_SERVER):
        return StorageUnavailable, f"{says}: it is overloaded or out of order."
    if code == "NoSuchBucket":
        return BucketNotFound, f"{server} has no bucket {location.bucket!r}. Make it, or correct its name."
    if status == 404 and code in ("NoSuchKey", "NoSuchObject"):
        return ImageNotFound, f"there is no object of that name in bucket {location.bucket!r}."
    if status in (401, 403):
        return AccessDenied, (
            f"{says}. Allow this user to read (s3:GetObject) and to write (s3:PutObject) there; without s3:ListBucket, "
            "AWS says the same of an object that does not exist."
        )
    return StorageMisconfigured, f"{says}, which S3 does not say. Check that AWS_ENDPOINT_URL is an endpoint of S3."


def _of_connection(text: str, server: str, timeout: float) -> tuple[type[ServiceError], str]:
    if "kind: Timeout" in text or "TimedOut" in text:
        return StorageUnavailable, f"{server} is slow: no answer within {timeout:g} s, STORAGE_TIMEOUT."
    lowered = text.lower()
    if "certificate" in lowered or "invalidcontenttype" in lowered:
        return StorageMisconfigured, (
            f"no encrypted connection to {server} is possible. Set AWS_CA_BUNDLE to the certificate of its authority, "
            "and check whether AWS_ENDPOINT_URL must begin with http:// or https://."
        )
    if "Parse(" in text or "UnexpectedMessage" in text:
        return StorageMisconfigured, f"{server} does not speak HTTP. Check AWS_ENDPOINT_URL."
    reason = "its name is not known" if "dns error" in text else _system_reason(text)
    if "kind: Connect" in text:
        return StorageUnavailable, f"{server} cannot be reached: {reason}. Check AWS_ENDPOINT_URL, and that it runs."
    return StorageUnavailable, f"the connection to {server} broke: {reason}."


def _system_reason(text: str) -> str:
    found = _SYSTEM.search(text)
    return found[1] if found else "the client gives no reason"
