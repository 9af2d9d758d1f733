"""Something in a NATS server's place that does not speak TLS, and keeps every byte that it gets."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from types import TracebackType


class Impostor:
    """Greets each client as a server without TLS does; a context manager.

    Parameters:
      port(int): Where to listen; a free port by default.
      **information: What it says of itself besides.
    """

    def __init__(self, port: int = 0, **information: object) -> None:
        fields = {"server_id": "X", "version": "2.12.0", "headers": True, "max_payload": 2**20, "jetstream": True}
        self._greeting = b"INFO " + json.dumps(fields | information).encode() + b"\r\n"
        self._listening = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._stopping = threading.Event()
        self.port: int = self._listening.getsockname()[1]
        #: What its clients have sent so far.
        self.received = bytearray()
        #: How many clients came, and went again after the greeting.
        self.gone = 0

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        self._thread.join(10)
        self._listening.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            client, _ = self._listening.accept()
            with client, suppress(OSError):  # The client may go without a word.
                client.settimeout(10)
                client.sendall(self._greeting)
                while data := client.recv(65536):
                    self.received += data
                    if b"PING" in data:
                        client.sendall(b"PONG\r\n")
            self.gone += 1
