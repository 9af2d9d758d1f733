"""The broker over TLS, mutual TLS and WebSockets: what works in the clear works there too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import dramatiq
import pytest
from dramatiq.results import Results

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.errors import AuthenticationFailed
from dramatiq_jetstream.results import JetStreamBackend
from tests.support.certificates import Certificates
from tests.support.ports import free_ports
from tests.support.waiting import eventually
from tests.support.workers import run_worker

#: nats-py calls aiohttp so.
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")


class Secured(NamedTuple):
    """A server, and how to reach it."""

    server: NatsServer
    url: str
    options: dict[str, Any]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["tls", "handshake first", "mutual tls", "websocket", "websocket over tls"])
def secured(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Secured]:
    """Each kind of server."""
    [port] = free_ports(1)
    websocket = f"websocket {{ port: {port}, host: 127.0.0.1, "
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        "tls": (f"tls {{\n{certificates.config()}}}", "tls", {"tls": certificates.context()}),
        "handshake first": (
            f"tls {{\n{certificates.config(handshake_first=True)}}}",
            "tls",
            {"tls": certificates.context(), "tls_handshake_first": True},
        ),
        "mutual tls": (
            f"tls {{\n{certificates.config(verify=True)}}}",
            "nats",
            {"tls": certificates.context(client=True)},
        ),
        "websocket": (f"{websocket} no_tls: true }}", "ws", {}),
        "websocket over tls": (
            f"{websocket} tls {{\n{certificates.config()}}} }}",
            "wss",
            {"tls": certificates.context()},
        ),
    }
    config, scheme, options = kinds[request.param]
    with NatsServer(config=config) as server:
        yield Secured(server, f"{scheme}://127.0.0.1:{port if scheme.startswith('ws') else server.port}", options)


@pytest.fixture
def broker(secured: Secured, namespace: str) -> Iterator[JetStreamBroker]:
    broker = JetStreamBroker(secured.url, namespace=namespace, **secured.options)
    yield broker
    broker.close()


@pytest.fixture
def results(broker: JetStreamBroker) -> JetStreamBackend:
    backend = JetStreamBackend(broker=broker)
    broker.add_middleware(Results(backend=backend))
    return backend


def test_messages_run_and_results_arrive(broker: JetStreamBroker, results: JetStreamBackend, secured: Secured) -> None:
    @dramatiq.actor(broker=broker, store_results=True)
    def double(number: int, padding: str) -> int:
        return 2 * number

    with run_worker(broker):
        sent = [double.send(number, "x" * 50_000) for number in range(20)]
        doubled = [message.get_result(backend=results, block=True, timeout=20_000) for message in sent]
        late = double.send_with_options(args=(21, ""), delay=1_000)

        assert doubled == [2 * number for number in range(20)]
        assert late.get_result(backend=results, block=True, timeout=20_000) == 42
    assert broker.connection.session().client.is_encrypted == (not secured.url.startswith("ws:"))


def test_batch_is_sent_and_drained(broker: JetStreamBroker) -> None:
    ran: set[int] = set()

    @dramatiq.actor(broker=broker)
    def keep(number: int) -> None:
        ran.add(number)

    broker.enqueue_many([keep.message(number) for number in range(500)])
    with run_worker(broker):
        eventually(lambda: len(ran) == 500, timeout=20_000)


def test_work_goes_on_after_the_server_was_restarted(
    broker: JetStreamBroker, results: JetStreamBackend, secured: Secured
) -> None:
    ran: list[int] = []

    @dramatiq.actor(broker=broker, store_results=True)
    def keep(number: int) -> int:
        ran.append(number)
        return number

    with run_worker(broker):
        keep.send(1)
        eventually(lambda: ran == [1])
        secured.server.kill()
        secured.server.start()
        message = keep.send(2)
        assert message.get_result(backend=results, block=True, timeout=20_000) == 2
    assert ran == [1, 2]


def test_threads_do_not_write_to_a_socket_that_is_not_plain(broker: JetStreamBroker) -> None:
    client = broker.connection.session().client

    assert client.shared_socket is None
    assert client.is_connected


def test_client_without_a_certificate_is_told_so(certificates: Certificates) -> None:
    with NatsServer(config=f"tls {{\n{certificates.config(verify=True)}}}") as server:
        broker = JetStreamBroker(server.url, tls=certificates.context(), timeout=60_000)
        with pytest.raises(AuthenticationFailed, match="TLS settings given to the broker"):
            broker.connection.session()
        broker.close()


def test_users_may_be_told_by_their_certificates(certificates: Certificates, namespace: str) -> None:
    users = 'authorization { users: [{ user: "worker@test" }] }'
    with NatsServer(config=f"tls {{\n{certificates.config(verify_and_map=True)}}}\n{users}") as server:
        broker = JetStreamBroker(server.url, namespace=namespace, tls=certificates.context(client=True))
        broker.declare_queue("default")
        broker.setup()
        broker.close()


def test_websocket_without_aiohttp_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["nats.aio.transport"], "aiohttp", None)
    broker = JetStreamBroker("ws://127.0.0.1:1", timeout=60_000)

    with pytest.raises(AuthenticationFailed, match="install"):
        broker.connection.session()
    broker.close()
