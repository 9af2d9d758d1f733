"""The servers that brokers are measured on: on free ports of the loopback, and ended by their process ids."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from dramatiq_jetstream import NatsServer

from .children import last_words, process
from .needs import find_program, missing

#: Seconds that a server may take until it answers.
START_TIMEOUT = 60


@contextmanager
def running(kinds: Iterable[str]) -> Iterator[dict[str, str]]:
    """Run the servers of so many kinds; where each is found."""
    with ExitStack() as servers:
        yield {kind: servers.enter_context(SERVERS[kind]()) for kind in sorted(set(kinds))}


@contextmanager
def nats_server() -> Iterator[str]:
    """A nats-server with JetStream on file storage."""
    with NatsServer() as server:
        yield server.url


@contextmanager
def redis_server() -> Iterator[str]:
    """A redis-server without persistence."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="benchmarks-redis-") as folder:
        settings = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with process([program("redis-server"), *options], Path(folder, "log"), apart=True) as redis:
            await_port(port, redis, Path(folder, "log"))
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def rabbitmq_server() -> Iterator[str]:
    """A RabbitMQ node with a port mapper and a cookie of its own, so that no other node is met."""
    mapper, distribution, port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="benchmarks-rabbitmq-") as name, ExitStack() as processes:
        folder = Path(name)
        environment = {
            **os.environ,
            "HOME": name,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": f"benchmarks-{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }
        (folder / "rabbitmq.conf").write_text("log.file.level = warning\n", encoding="utf-8")
        (folder / "plugins").write_text("[].\n", encoding="utf-8")
        names = [program("epmd"), "-port", str(mapper), "-address", "127.0.0.1"]
        epmd = processes.enter_context(process(names, folder / "epmd.log", apart=True))
        await_port(mapper, epmd, folder / "epmd.log")
        node = processes.enter_context(process([program("rabbitmq-server")], folder / "log", environment, apart=True))
        await_port(port, node, folder / "log")
        yield f"amqp://127.0.0.1:{port}"


SERVERS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "nats": nats_server,
    "redis": redis_server,
    "rabbitmq": rabbitmq_server,
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def program(name: str) -> str:
    """The path of a program; the end of this one, with what to install, if it is missing."""
    return find_program(name) or sys.exit(str(missing([name])))


def await_port(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a process listens on a port; the end of this one if that does not happen."""
    deadline = time.monotonic() + START_TIMEOUT
    while child.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    sys.exit(f"{child.args!r} does not listen on port {port}. Its last words:\n{last_words(log)}")
