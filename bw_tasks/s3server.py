"""A server of S3 on this machine, for the demo and the tests: moto's, of the extra ``s3server``, in memory."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from importlib.util import find_spec

from .errors import StorageMisconfigured

__all__ = ["S3Server"]

#: Seconds for it to start, and to answer.
TIMEOUT = 60

#: It ends with its parent, which holds the other end of its standard input.
_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class S3Server:
    """The server, in a process of its own; a context manager.

    Raises:
      StorageMisconfigured: On entering, if it is not installed or does not start.
    """

    #: Every user and password is taken; these make the client sign.
    variables = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_REGION": "us-east-1"}  # noqa: RUF012

    def __enter__(self) -> S3Server:
        if not (find_spec("moto") and find_spec("flask_cors")):
            raise StorageMisconfigured(
                "A server of S3 for the demo is not installed: run pip install "
                "'dramatiq-jetstream[images,server,s3,s3server]'."
            )
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            self.__exit__()
            raise StorageMisconfigured("moto's server of S3 does not start: try python -m moto.server.")
        self.port = int(port)
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find it."""
        return {**self.variables, "AWS_ENDPOINT_URL": self.url}

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        self.request("PUT", f"/{name}")

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask it; the path is percent-encoded.

        Raises:
          HTTPError: If it refuses.
        """
        # Not through a proxy that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with opener.open(request, timeout=TIMEOUT) as answer:
            found: bytes = answer.read()
            return found
