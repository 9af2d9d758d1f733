"""A nats-server with JetStream as a child process: for demos, tests and development."""

from __future__ import annotations

import atexit
import http.client
import json
import os
import shutil
import signal
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from ..errors import EmbeddedServerError
from .server_process import ServerProcess, find_binary

__all__ = ["NatsServer"]

#: How often, in milliseconds, a starting server is asked whether it is ready.
POLL_INTERVAL = 10


class NatsServer:
    """Runs a nats-server with JetStream on 127.0.0.1, as a context manager or by :meth:`start` and :meth:`stop`.

    The server is stopped when the interpreter exits, and soon after this process ends in any other way. A Ctrl-C
    in the terminal does not reach it. A process forked from this one does not own the server: there, :meth:`stop`
    does nothing. Works on Linux and macOS.

    Parameters:
      port(int): The port to listen on. By default the server picks a free one at its first start and keeps it.
      store(str | PathLike): The folder for streams. By default a temporary one that is removed by :meth:`stop`; a
        given one is kept.
      log(str | PathLike): The file the server's output is added to. By default a temporary one.
      config(str): More of nats-server's configuration: users, limits and the like. What it sets wins over what this
        class sets.
      binary(str | PathLike): The nats-server to run. By default the one that the extra ``server`` installs, then the
        first on PATH.
      timeout(int): How long, in milliseconds, the server may take until JetStream is ready.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        store: str | os.PathLike[str] | None = None,
        log: str | os.PathLike[str] | None = None,
        config: str = "",
        binary: str | os.PathLike[str] | None = None,
        timeout: int = 15_000,
    ) -> None:
        self.config = config
        self.timeout = timeout
        self._binary = binary
        self._given_port = port
        self._given_store = store
        self._given_log = log
        self._held_port: int | None = None
        self._directory: Path | None = None
        self._running: ServerProcess | None = None

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port the server listens on, the same for as long as this object lives."""
        port = self._held_port or self._given_port
        if port is None:
            raise EmbeddedServerError("The embedded nats-server has no port before its first start: call start().")
        return port

    @property
    def url(self) -> str:
        """The URL to connect to."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._process.pid

    @property
    def store_path(self) -> Path:
        """The folder that holds the streams."""
        return Path(self._given_store).absolute() if self._given_store is not None else self._own_path("store")

    @property
    def log_path(self) -> Path:
        """The file that takes the server's output."""
        return Path(self._given_log).absolute() if self._given_log is not None else self._own_path("nats-server.log")

    def start(self) -> None:
        """Start the server and wait until JetStream is ready.

        Raises:
          EmbeddedServerError: When no binary is found, when the server exits or is not ready in time (with the last
            lines of its log), or when it is running already.
        """
        if self._running is not None:
            raise EmbeddedServerError(f"The embedded nats-server is running already, at {self.url}.")
        binary = find_binary(self._binary)
        atexit.register(self.stop)
        try:
            self._prepare()
            self._launch(binary)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, if it runs, and remove temporary files."""
        self._end(signal.SIGTERM)
        if self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory = None
        atexit.unregister(self.stop)

    def wait(self, timeout: int) -> int | None:
        """Wait up to `timeout` milliseconds for the server to exit by itself; its status, or None while it runs."""
        return self._process.wait(timeout)

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a crash would. Its store stays, for :meth:`start` or :meth:`restart`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server, if it runs, and start it on the same port with the same store.

        Raises:
          EmbeddedServerError: As :meth:`start` does.
        """
        self._end(signal.SIGTERM)
        self.start()

    @property
    def _process(self) -> ServerProcess:
        if self._running is None:
            raise EmbeddedServerError("The embedded nats-server is not running: call start().")
        return self._running

    def _own_path(self, name: str) -> Path:
        if self._directory is None:
            raise EmbeddedServerError("The embedded nats-server's temporary files exist only from start() to stop().")
        return self._directory / name

    def _prepare(self) -> None:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="dramatiq-jetstream-"))
        for folder in (self.store_path, self.log_path.parent, self._own_path("ports")):
            folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "host": "127.0.0.1",
            "port": self._held_port or self._given_port or -1,
            "http": "127.0.0.1:-1",
            "ports_file_dir": str(self._own_path("ports")),
            "jetstream": {"store_dir": str(self.store_path)},
        }
        lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.items()]
        self._own_path("nats.conf").write_text("".join(lines) + self.config, encoding="utf-8")

    def _launch(self, binary: Path) -> None:
        deadline = time.monotonic() + self.timeout / 1000
        process = self._spawn(binary)
        while not self._is_ready(process):
            status = process.wait(POLL_INTERVAL)
            late = time.monotonic() >= deadline
            if status is not None and not late and self._lost_its_port(process):
                process = self._spawn(binary)
            elif status is not None:
                raise _failure(f"exited with status {status} before it was ready", process)
            elif late:
                raise _failure(f"was not ready within {self.timeout} ms", process)

    def _spawn(self, binary: Path) -> ServerProcess:
        self._running = ServerProcess(binary, self._own_path("nats.conf"), self.log_path)
        _ever_started.add(self)
        return self._running

    def _lost_its_port(self, process: ServerProcess) -> bool:
        # Between a stop and a start a reconnecting client can hold the port for a moment: its own socket gets that
        # very port as its local one, and connects to itself.
        return self._held_port is not None and any("address already in use" in line for line in process.log_lines())

    def _is_ready(self, process: ServerProcess) -> bool:
        ports = self._announced_ports(process)
        if ports is None or not _is_healthy(ports["monitoring"]):
            return False
        self._held_port = ports["nats"]
        return True

    def _announced_ports(self, process: ServerProcess) -> dict[str, int] | None:
        for path in self._own_path("ports").glob(f"*_{process.pid}.ports"):
            try:
                announced: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:  # The server is writing it.
                return None
            return {name: urlsplit(urls[0]).port or 0 for name, urls in announced.items()}
        return None

    def _end(self, signal_number: signal.Signals) -> None:
        if self._running is not None:
            self._running.end(signal_number)
            self._running = None

    def _leave_to_parent(self) -> None:
        if self._running is not None:
            self._running.disown()
        self._running = self._directory = None
        atexit.unregister(self.stop)


def _is_healthy(monitoring_port: int) -> bool:
    # Asked over HTTP, because that needs no credentials: the configuration may have users or TLS.
    connection = http.client.HTTPConnection("127.0.0.1", monitoring_port, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _failure(what: str, process: ServerProcess) -> EmbeddedServerError:
    lines = "".join(f"\n  {line}" for line in process.log_lines()) or " none."
    return EmbeddedServerError(f"The embedded nats-server {what}. Its last log lines:{lines}")


_ever_started: weakref.WeakSet[NatsServer] = weakref.WeakSet()


def _leave_servers_to_parent() -> None:
    for server in list(_ever_started):
        server._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_servers_to_parent)
