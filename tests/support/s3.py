"""S3 for the tests: a bucket on moto's real server, and an impostor that fails as it is told."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import obstore
from obstore.store import S3Store

from bw_tasks.s3server import S3Server


class Bucket:
    """A bucket on a real server.

    Parameters:
      server(S3Server): The server.
      name(str): The bucket's name; it is made.
    """

    def __init__(self, server: S3Server, name: str) -> None:
        self.server = server
        self.name = name
        server.make_bucket(name)
        self._store = S3Store(
            name,
            config={"endpoint": server.url, "region": "us-east-1", "access_key_id": "t", "secret_access_key": "t"},
            client_options={"allow_http": True},
        )

    def put(self, key: str, data: bytes) -> str:
        """Store an object and return its URI."""
        obstore.put(self._store, key, data, use_multipart=False)
        return f"s3://{self.name}/{quote(key)}"

    def get(self, key: str) -> bytes | None:
        """An object's bytes, or None if there is none."""
        return bytes(obstore.get(self._store, key).bytes()) if key in self.keys() else None

    def keys(self) -> list[str]:
        listed = self.server.request("GET", f"/{self.name}?list-type=2").decode()
        return re.findall(r"<Key>([^<]*)</Key>", listed)

    def has_unfinished_uploads(self) -> bool:
        return b"<UploadId>" in self.server.request("GET", f"/{self.name}?uploads")


class Impostor:
    """Answers like S3, for one bucket of any name, and fails as it is told; a context manager.

    :attr:`answers` are given first, one a request: a status and a code, ``"cut"`` for half an answer, ``"silence"``
    for none.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.answers: list[tuple[int, str] | str] = []
        self.requests: list[str] = []
        self.released = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, impostor: Impostor) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.impostor = impostor


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        data = self._impostor.objects.get(self._key)
        if self._failed(data or b""):
            return
        if data is None:
            self._refuse(404, "NoSuchKey")
            return
        start = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self._finish(data[start:])

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._failed(b""):
            return
        self._impostor.objects[self._key] = data
        self.send_response(200)
        self._finish(b"")

    @property
    def _impostor(self) -> Impostor:
        assert isinstance(self.server, _Server)
        return self.server.impostor

    @property
    def _key(self) -> str:
        return unquote(self.path).split("/", 2)[2]

    def _failed(self, data: bytes) -> bool:
        self._impostor.requests.append(self.command)
        answer = self._impostor.answers.pop(0) if self._impostor.answers else None
        if isinstance(answer, tuple):
            self._refuse(*answer)
        elif answer == "cut":
            self.send_response(200)
            self._finish(data, data[: len(data) // 2])
            self.close_connection = True
        elif answer == "silence":
            self._impostor.released.wait(60)
            self.close_connection = True
        return answer is not None

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self._finish(f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode() if code else b"no")

    def _finish(self, data: bytes, sent: bytes | None = None) -> None:
        for name, value in {
            "Content-Length": str(len(data)),
            "ETag": '"one"',
            "Last-Modified": "Wed, 25 Nov 2026 12:00:00 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data if sent is None else sent)

    def log_message(self, *_: Any) -> None:
        return
