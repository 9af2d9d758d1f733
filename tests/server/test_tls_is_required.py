"""Where TLS is asked for, nothing is sent to a server without it: at first, on each reconnect, after a replacement."""

from __future__ import annotations

import logging
import ssl
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from click.testing import CliRunner

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.cli import main
from dramatiq_jetstream.errors import AuthenticationFailed
from tests.support.certificates import Certificates
from tests.support.impostor import Impostor
from tests.support.ports import free_ports
from tests.support.waiting import eventually

SECRET = "hunter2"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secured(certificates: Certificates) -> Iterator[NatsServer]:
    """A server that speaks TLS and asks for a password."""
    config = f"tls {{\n{certificates.config()}}}\nauthorization {{ user: app, password: {SECRET} }}"
    # An outgoing connection, such as the client's own, cannot get this port while the server is away.
    [port] = free_ports(1)
    with NatsServer(port=port, config=config) as server:
        yield server


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def connect(broker: JetStreamBroker) -> None:
    try:
        broker.connection.session()
    finally:
        broker.close()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"tls://app:{SECRET}@127.0.0.1:PORT", {}),
        (f"tls://{SECRET}@127.0.0.1:PORT", {}),
        (f"TLS://app:{SECRET}@127.0.0.1:PORT", {}),
        (f"nats://127.0.0.1:PORT,tls://app:{SECRET}@127.0.0.1:PORT", {}),
        ("tls://127.0.0.1:PORT", {"user": "app", "password": SECRET}),
        ("tls://127.0.0.1:PORT", {"token": SECRET}),
        (f"nats://app:{SECRET}@127.0.0.1:PORT", {"tls": ssl.create_default_context()}),
        ("127.0.0.1:PORT", {"tls": ssl.create_default_context(), "user": "app", "password": SECRET}),
        (f"ws://app:{SECRET}@127.0.0.1:PORT", {"tls": ssl.create_default_context()}),
        ("ws://127.0.0.1:PORT", {"tls": ssl.create_default_context(), "ws_connection_headers": {"X": [SECRET]}}),
        (f"wss://app:{SECRET}@127.0.0.1:PORT", {"connect_timeout": 1}),
        ("tls://127.0.0.1:PORT", {"tls_handshake_first": True, "token": SECRET, "connect_timeout": 1}),
    ],
    ids=lambda value: value.replace(SECRET, "…") if isinstance(value, str) else ", ".join(value),
)
def test_server_without_tls_gets_no_credentials(url: str, options: dict[str, Any]) -> None:
    with Impostor(auth_required=True) as impostor, pytest.raises(dramatiq.ConnectionFailed) as raised:
        connect(JetStreamBroker(url.replace("PORT", str(impostor.port)), timeout=2_000, **options))

    assert SECRET.encode() not in impostor.received
    assert b"CONNECT" not in impostor.received
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_refusal_says_at_once_what_to_do() -> None:
    with Impostor() as impostor, pytest.raises(AuthenticationFailed) as raised:
        connect(JetStreamBroker(f"tls://app:{SECRET}@127.0.0.1:{impostor.port}", timeout=60_000))

    assert str(raised.value) == (
        f"the server at tls://127.0.0.1:{impostor.port} does not speak TLS, but the broker was told to (by the option "
        "tls, or an address with tls:// or wss://): switch TLS on at the server, or ask for a connection without it"
    )


def test_command_line_sends_no_credentials_either() -> None:
    with Impostor() as impostor:
        url = f"127.0.0.1:{impostor.port}"
        arguments = [
            ["--url", f"tls://app:{SECRET}@{url}"],
            ["--url", f"nats://{url}", "--tls", "--user", "app", "--password", SECRET],
        ]
        results = [CliRunner().invoke(main, ["queues", *given]) for given in arguments]

    assert [result.exit_code for result in results] == [3, 3]
    assert all("does not speak TLS" in result.output for result in results)
    assert SECRET not in "".join(result.output for result in results)
    assert not impostor.received


def test_reconnect_does_not_fall_back_to_clear(
    secured: NatsServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    broker = JetStreamBroker(f"nats://app:{SECRET}@127.0.0.1:{secured.port}", tls=certificates.context())
    session = broker.connection.session()
    secured.kill()
    with Impostor(secured.port) as impostor:
        eventually(lambda: impostor.gone >= 3, timeout=20_000)
        assert not impostor.received
    secured.start()

    eventually(lambda: session.client.is_connected, timeout=20_000)
    broker.close()
    said = [record.getMessage() for record in caplog.records if "does not speak TLS" in record.getMessage()]
    assert said
    assert SECRET not in caplog.text


def test_client_that_replaces_a_closed_one_does_not_fall_back_to_clear(
    secured: NatsServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    broker = JetStreamBroker(secured.url, tls=certificates.context(), user="app", password=SECRET, timeout=1_000)
    session = broker.connection.session()
    first = session.client
    secured.kill()
    with Impostor(secured.port) as impostor:
        session.thread.run(first.close)
        eventually(lambda: impostor.gone >= 2 and session.client is not first, timeout=20_000)
        eventually(lambda: "does not speak TLS, but the broker was told to" in caplog.text)
        assert b"CONNECT" not in impostor.received
        assert SECRET.encode() not in impostor.received
    secured.start()

    eventually(lambda: session.client.is_connected, timeout=20_000)
    broker.close()


def test_tls_that_a_server_offers_is_taken_where_it_is_asked_for(certificates: Certificates, namespace: str) -> None:
    with NatsServer(config=f"allow_non_tls: true\ntls {{\n{certificates.config()}}}") as server:
        broker = JetStreamBroker(server.url, namespace=namespace, tls=certificates.context())
        plain = JetStreamBroker(server.url, namespace=namespace)

        assert broker.connection.session().client.is_encrypted
        assert not plain.connection.session().client.is_encrypted
        broker.close()
        plain.close()


def test_tls_address_trusts_the_systems_authorities(
    secured: NatsServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"tls://app:{SECRET}@127.0.0.1:{secured.port}"
    with pytest.raises(AuthenticationFailed, match="certificate verify failed"):
        connect(JetStreamBroker(url, timeout=60_000))

    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    broker = JetStreamBroker(url)
    assert broker.connection.session().client.is_encrypted
    broker.close()


def test_certificate_for_another_name_is_refused(tmp_path: Path, certificates: Certificates) -> None:
    other = Certificates(tmp_path)
    with NatsServer(config=f"tls {{\n{other.config()}}}") as server, pytest.raises(AuthenticationFailed):
        connect(JetStreamBroker(server.url, tls=certificates.context(), timeout=60_000))


def test_errors_hold_no_frames_with_the_password(secured: NatsServer, certificates: Certificates) -> None:
    with pytest.raises(AuthenticationFailed) as raised:
        connect(JetStreamBroker(f"nats://app:{SECRET}x@127.0.0.1:{secured.port}", tls=certificates.context()))

    error: BaseException | None = raised.value
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            values = [value for name, value in frame.f_locals.items() if frame.f_globals.get("__name__") != __name__]
            assert f"{SECRET}x" not in repr(values)
        error = error.__cause__ or error.__context__
