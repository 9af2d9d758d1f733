"""Objects in S3, and in what speaks like it: MinIO, Ceph. The client is obstore, of the extra ``s3``."""

from __future__ import annotations

import mimetypes
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageNotFound, ServiceError, StorageMisconfigured, StorageUnavailable, shown
from ..sources import SourceFile
from .downloads import downloaded, require_size
from .locations import Location
from .outputs import BucketOutput
from .s3_errors import explained

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["S3Storage"]

#: Bytes that are taken from the connection at a time.
CHUNK = 1024 * 1024

#: How often the client asks again what may pass, before the message waits for its next attempt.
RETRIES = 2

#: A key that nobody has: reading it tells whether the bucket is there and the credentials are known.
PROBE = "bw_tasks-looks-whether-the-bucket-is-there"

_ENDPOINT = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?")
#: Any of these says where credentials come from; without them, only a machine of AWS itself has some.
_CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE", "AWS_METADATA_ENDPOINT"),
)


class S3Storage:
    """Reads and writes objects; from any thread. A client for each bucket is made at its first use in a process.

    Parameters:
      timeout(float): The seconds that one object may take.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._stores: dict[tuple[int, str], S3Store] = {}
        self._opening = threading.Lock()

    def open(self, location: Location, directory: str | None, most_bytes: int) -> SourceFile:
        """Download an image; the server tells its size before any of it is read.

        Raises:
          ServiceError: When it cannot be had; the subclass tells the reason.
        """
        obstore, store = self._store(location)
        with self._translated(location, "read"):
            result = obstore.get(store, location.key)
        size = int(result.meta["size"])
        require_size(location, size, most_bytes)
        return downloaded(location, size, self._chunks(location, result))

    def output(self, location: Location) -> S3Output:
        """The prefix to write to."""
        return S3Output(self, location)

    def write(self, location: Location, data: bytes) -> None:
        """Write an object, in one PUT, which is atomic: there is never an upload of several parts to abort.

        Raises:
          ServiceError: When that is not possible; the subclass tells the reason.
        """
        obstore, store = self._store(location)
        kind = mimetypes.guess_type(location.key)[0]
        with self._translated(location, "written"):
            obstore.put(
                store, location.key, data, attributes={"Content-Type": kind} if kind else None, use_multipart=False
            )

    def check_readable(self, location: Location) -> None:
        """Make sure that the bucket is there and knows the credentials, as far as a read can tell.

        Raises:
          ServiceError: If not; the subclass tells the reason.
        """
        probe = location.below(PROBE)
        obstore, store = self._store(probe)
        try:
            with self._translated(location, "used"):
                obstore.get(store, probe.key)
        except ImageNotFound:
            return

    def close(self) -> None:
        """Forget the clients; their connections close with them."""
        self._stores.clear()

    def _store(self, location: Location) -> tuple[Any, S3Store]:
        try:
            import obstore
        except ImportError:
            raise StorageMisconfigured(
                f"{shown(str(location))} needs a client of S3: run pip install 'dramatiq-jetstream[images,s3]'."
            ) from None
        # The client has threads, which a forked process does not inherit.
        key = (os.getpid(), location.bucket)
        with self._opening:
            if key not in self._stores:
                self._stores[key] = self._new_store(location)
        return obstore, self._stores[key]

    def _new_store(self, location: Location) -> S3Store:
        from obstore.store import S3Store

        endpoint = endpoint_url()
        _require_credentials(endpoint)
        seconds = timedelta(seconds=self.timeout)
        options: dict[str, Any] = {
            "timeout": seconds,
            "read_timeout": seconds,
            "connect_timeout": min(seconds, timedelta(seconds=5)),
            "allow_http": endpoint.startswith("http://"),
        }
        if bundle := os.environ.get("AWS_CA_BUNDLE"):
            options["root_certificate"] = _certificates(bundle)
        with self._translated(location, "used"):
            return S3Store(
                location.bucket,
                config={"endpoint": endpoint} if endpoint else None,
                client_options=options,  # type: ignore[arg-type]  # a plain dict
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": seconds / 2,
                    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1)},
                },
            )

    def _chunks(self, location: Location, result: Any) -> Iterator[Any]:
        deadline = time.monotonic() + self.timeout
        with self._translated(location, "read"):
            for chunk in result.stream(min_chunk_size=CHUNK):
                yield chunk
                if time.monotonic() > deadline:
                    raise StorageUnavailable(
                        f"The image {shown(str(location))} cannot be read: the server is slow, and it is not there "
                        f"after {self.timeout:g} s. Raise STORAGE_TIMEOUT where images are large."
                    )

    @contextmanager
    def _translated(self, location: Location, verb: str) -> Iterator[None]:
        try:
            yield
        except (ServiceError, MemoryError, GeneratorExit):
            raise
        except BaseException as error:
            ours = explained(error, location, verb, endpoint_url(), self.timeout)
            if ours is None:
                raise
            raise ours from error


class S3Output(BucketOutput["S3Storage"]):
    """A prefix of a bucket of S3 that images are written to."""

    def try_out(self) -> None:
        """Make sure that the bucket is there and knows the credentials.

        Raises:
          ServiceError: If not; the subclass tells the reason.
        """
        self._storage.check_readable(self._location)


def endpoint_url() -> str:
    """The endpoint that the environment names, as AWS's own tools read it; nothing for AWS itself.

    Raises:
      StorageMisconfigured: If it is no URL, or has credentials in it.
    """
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        url = os.environ.get(variable, "").strip()
        if url and not _ENDPOINT.fullmatch(url):
            # Not quoted: whatever it is, it may hold a password.
            raise StorageMisconfigured(
                f"{variable} is no endpoint. Write http://host:port or https://host, without user, password and query."
            )
        if url:
            return url
    return ""


def _require_credentials(endpoint: str) -> None:
    if endpoint and not any(os.environ.get(name) for name in _CREDENTIALS):
        raise StorageMisconfigured(
            f"There are no credentials for {endpoint}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )


def _certificates(bundle: str) -> bytes:
    try:
        return Path(bundle).read_bytes()
    except OSError as error:
        raise StorageMisconfigured(f"AWS_CA_BUNDLE, {shown(bundle)}, cannot be read: {error.strerror}.") from error
