"""A nats-server with JetStream as a child process: for demos, tests and development."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from ..errors import EmbeddedServerError
from .server_process import ServerProcess, check_version, find_binary

__all__ = ["NatsServer"]

#: How often, in milliseconds, a starting server is asked whether it is ready.
POLL_INTERVAL = 10

#: Seconds to wait for a server's greeting; one that speaks TLS at once has none.
GREETING_TIMEOUT = 1.0

#: The mode of folders that are made for streams and logs.
FOLDER_MODE = 0o700


class NatsServer:
    """Runs a nats-server with JetStream on 127.0.0.1, as a context manager or by :meth:`start` and :meth:`stop`.

    The server is stopped when the interpreter exits, and soon after this process ends in any other way. A Ctrl-C
    in the terminal does not reach it. A process forked from this one does not own the server: there, :meth:`stop`
    does nothing. Works on Linux and macOS.

    Parameters:
      port(int): The port to listen on. By default the server picks a free one at its first start and keeps it.
      store(str | PathLike): The folder for streams. By default a temporary one that is removed by :meth:`stop`; a
        given one is kept. What is made of it is for this user alone.
      log(str | PathLike): The file the server's output is added to, made for this user alone. By default a temporary
        one.
      config(str): More of nats-server's configuration: users, limits and the like. What it sets wins over what this
        class sets. There is no monitoring port unless it says so, because that asks for no credentials.
      binary(str | PathLike): The nats-server to run, 2.12 or newer. By default the one that the environment variable
        NATS_SERVER_BINARY names, then the one that the extra ``server`` installs, then the first on PATH.
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
          EmbeddedServerError: When no binary is found or it is too old, when the store or the log cannot be used, when
            the port is taken, when the server exits or is not ready in time (with the last lines of its log), or when
            it is running already.
        """
        if self._running is not None:
            raise EmbeddedServerError(f"The embedded nats-server is running already, at {self.url}.")
        binary = find_binary(self._binary)
        check_version(binary, self.timeout)
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
        for what, folder in (("store", self.store_path), ("log's folder", self.log_path.parent)):
            _make_folder(what, folder)
        self._own_path("ports").mkdir(exist_ok=True)
        settings = {
            "host": "127.0.0.1",
            "port": self._held_port or self._given_port or -1,
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
            elif status is not None and _found_port_taken(process):
                raise EmbeddedServerError(
                    f"port {self._held_port or self._given_port} of 127.0.0.1 is taken (address already in use): end "
                    "what listens there, or choose another port; 0 on the command line takes a free one"
                )
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
        return self._held_port is not None and _found_port_taken(process)

    def _is_ready(self, process: ServerProcess) -> bool:
        port = self._announced_port(process)
        if port is None or not _greets(port):
            return False
        self._held_port = port
        return True

    def _announced_port(self, process: ServerProcess) -> int | None:
        # The server writes this when everything listens, which is after JetStream has read its streams.
        for path in self._own_path("ports").glob(f"*_{process.pid}.ports"):
            try:
                announced: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:  # The server is writing it.
                return None
            return urlsplit(announced["nats"][0]).port
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


def _greets(port: int) -> bool:
    """Whether the server speaks to clients; that needs no credentials."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=GREETING_TIMEOUT) as connection:
            return connection.recv(5) == b"INFO "
    except TimeoutError:
        return True
    except OSError:
        return False


def _make_folder(what: str, folder: Path) -> None:
    """Make a folder, and those above it, for this user alone; what exists stays as it is."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir(mode=FOLDER_MODE, exist_ok=True)
        # Raises if it is something else, or may not be looked into.
        with os.scandir(folder):
            pass
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise EmbeddedServerError(
            f"the {what} {folder} cannot be used: {reason}; name a folder that this user may write to"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EmbeddedServerError(f"the {what} {folder} cannot be used: this user may not write to it")


def _found_port_taken(process: ServerProcess) -> bool:
    return any("address already in use" in line for line in process.log_lines())


def _failure(what: str, process: ServerProcess) -> EmbeddedServerError:
    lines = "".join(f"\n  {line}" for line in process.log_lines()) or " none."
    return EmbeddedServerError(f"The embedded nats-server {what}. Its last log lines:{lines}")


_ever_started: weakref.WeakSet[NatsServer] = weakref.WeakSet()


def _leave_servers_to_parent() -> None:
    for server in list(_ever_started):
        server._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_servers_to_parent)
