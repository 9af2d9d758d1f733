"""What somebody sees who sets this up for the first time and gets something wrong."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue
from dramatiq_jetstream.errors import (
    AuthenticationFailed,
    BrokerConnectionError,
    PermissionDenied,
    ServerUnreachable,
    StreamNotFound,
    UnsupportedServer,
)
from tests.support.admin import Admin
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import run_worker, threads_alive

USERS = """
authorization {
  users: [
    {user: app, password: secret}
    {user: reader, password: secret, permissions: {publish: "other", subscribe: ">"}}
    {user: mute, password: secret, permissions: {publish: ">", subscribe: "_INBOX_mute.>"}}
  ]
}
"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    """A server that asks for a password."""
    with NatsServer(config=USERS) as server:
        yield server


def message_to(queue_name: str) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="anyone", args=(), kwargs={}, options={})


def send(broker: JetStreamBroker, queue_name: str = "default") -> None:
    try:
        broker.enqueue(message_to(queue_name))
    finally:
        broker.close()


def test_no_server(proxy: Proxy) -> None:
    proxy.cut()

    with pytest.raises(ServerUnreachable) as raised:
        send(JetStreamBroker(proxy.url, timeout=1_000))

    assert str(raised.value).startswith(f"no NATS server answers at {proxy.url}: ")
    assert "is it running, and is this the right address? It is the broker's url, or NATS_URL" in str(raised.value)


def test_no_server_at_any_of_several_addresses(proxy: Proxy) -> None:
    proxy.cut()

    with pytest.raises(ServerUnreachable, match=rf"at {proxy.url}, nats://localhost:{proxy.port}: "):
        send(JetStreamBroker([proxy.url, f"nats://user:pw@localhost:{proxy.port}"], timeout=1_000))


def test_something_else_listens_there() -> None:
    with _speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, pytest.raises(ServerUnreachable, match="right address"):
        send(JetStreamBroker(url, timeout=1_000))


def test_jetstream_is_switched_off() -> None:
    with (
        NatsServer(config="jetstream: disabled") as server,
        pytest.raises(UnsupportedServer, match="JetStream switched off: start it with 'nats-server -js'") as raised,
    ):
        send(JetStreamBroker(server.url))

    assert isinstance(raised.value, BrokerConnectionError)


def test_jetstream_is_switched_off_for_the_account() -> None:
    config = "accounts { NONE: { users: [{user: app, password: secret}] } }"
    with (
        NatsServer(config=config) as server,
        pytest.raises(UnsupportedServer, match="does not let this account use JetStream: switch it on"),
    ):
        send(JetStreamBroker(server.url, user="app", password="secret"))


@pytest.mark.parametrize("credentials", [{}, {"user": "app", "password": "wrong"}, {"token": "wrong"}], ids=str)
def test_wrong_credentials_are_named_at_once(guarded: NatsServer, credentials: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationFailed) as raised:
        send(JetStreamBroker(guarded.url, timeout=60_000, **credentials))

    assert str(raised.value).startswith(f"the server at {guarded.url} does not let us in: ")
    assert "check the user, the credentials file or the TLS settings" in str(raised.value)


def test_credentials_file_that_is_missing(guarded: NatsServer) -> None:
    with pytest.raises(AuthenticationFailed, match="does not let us in: "):
        send(JetStreamBroker(guarded.url, user_credentials="missing.creds"))


def test_passwords_in_the_url_are_not_shown(guarded: NatsServer) -> None:
    with pytest.raises(AuthenticationFailed) as raised:
        send(JetStreamBroker(f"nats://app:hunter2@127.0.0.1:{guarded.port}"))

    assert "hunter2" not in str(raised.value)


def test_no_permission_to_publish(guarded: NatsServer) -> None:
    broker = JetStreamBroker(guarded.url, user="reader", password="secret", declare="never", timeout=60_000)

    with pytest.raises(PermissionDenied, match=r"may not publish to 'dramatiq.work.default.anyone': allow it"):
        send(broker)


def test_no_permission_to_manage(guarded: NatsServer) -> None:
    with pytest.raises(PermissionDenied, match=r"may not publish to '\$JS.API.STREAM.INFO.dramatiq_default'"):
        send(JetStreamBroker(guarded.url, user="reader", password="secret", timeout=60_000))


def test_no_permission_to_hear_the_answers(guarded: NatsServer) -> None:
    broker = JetStreamBroker(guarded.url, user="mute", password="secret", declare="never", timeout=60_000)

    for _ in range(2):
        with pytest.raises(PermissionDenied, match=r"may not subscribe to .* or give the broker the inbox_prefix"):
            broker.enqueue(message_to("default"))
    broker.close()


def test_no_permission_to_hear_the_answers_of_management(guarded: NatsServer) -> None:
    broker = JetStreamBroker(guarded.url, user="mute", password="secret", timeout=60_000)

    for _ in range(2):
        with pytest.raises(PermissionDenied, match=r"may not subscribe to .* or give the broker the inbox_prefix"):
            broker.enqueue(message_to("default"))
    broker.close()


def test_inbox_prefix_that_the_user_may_subscribe_to_helps(guarded: NatsServer) -> None:
    send(JetStreamBroker(guarded.url, user="mute", password="secret", inbox_prefix="_INBOX_mute"))


def test_stream_is_missing_and_may_not_be_made(nats_url: str, namespace: str) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, declare="never", timeout=500)

    with pytest.raises(StreamNotFound) as raised:
        send(broker)

    stream = f"{namespace}_default"
    assert f"queue 'default' (stream '{stream}'): no stream listens on" in str(raised.value)
    assert f"'nats stream add {stream}', or let the broker do it (declare='auto')" in str(raised.value)


def test_worker_without_a_consumer_says_so_and_begins_once_there_is_one(
    broker: JetStreamBroker, nats_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = JetStreamBroker(nats_url, namespace=namespace, declare="never")
    ran: list[int] = []

    @dramatiq.actor(broker=waiting)
    def keep(number: int) -> None:
        ran.append(number)

    broker.enqueue(keep.message(1))
    with run_worker(waiting) as worker:
        eventually(lambda: "no such consumer" in caplog.text)
        broker.declare_queue("default")
        broker.setup()
        eventually(lambda: ran == [1], timeout=20_000)
        assert threads_alive(worker)

    ours = [record for record in caplog.records if record.name.startswith("dramatiq_jetstream.")]
    assert [record.getMessage() for record in ours if record.levelno == logging.CRITICAL] == [
        f"Cannot consume queue 'default' (stream '{namespace}_default'): no such consumer, or it has no leader. Trying "
        "again until it works."
    ]
    waiting.close()


def test_server_without_tls_when_tls_is_asked_for(nats_url: str) -> None:
    with pytest.raises(AuthenticationFailed, match="TLS"):
        send(JetStreamBroker(nats_url, tls=ssl.create_default_context(), timeout=5_000))


@pytest.mark.parametrize(
    "options",
    [{"user": "app", "servers": []}, {"error_cb": print}, {"allow_reconnect": False}],
    ids=lambda options: ", ".join(options),
)
def test_connect_options_of_the_brokers_own_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the broker sets these connect options itself: "):
        JetStreamBroker(**options)


def test_server_is_too_old() -> None:
    # Just enough of an old server's protocol to be asked for its version.
    with _speaking(_information("2.11.11")) as url, pytest.raises(UnsupportedServer) as raised:
        send(JetStreamBroker(url, timeout=5_000))

    assert f"the server at {url} is nats-server 2.11.11, but 2.12 or newer is needed" in str(raised.value)
    assert str(raised.value).endswith("update the server")


def test_settings_that_contradict_each_other_are_refused_where_they_are_written() -> None:
    with pytest.raises(ValueError, match="stream, subject and consumer together"):
        WorkQueue(stream="IMAGES")


def test_queue_that_no_stream_of_others_listens_on_is_reported(nats_url: str, namespace: str, admin: Admin) -> None:
    subject = f"{namespace}.elsewhere"
    admin.api(f"STREAM.CREATE.{namespace}", {"name": namespace, "subjects": [subject], "retention": "workqueue"})
    queue = WorkQueue(stream=namespace, subject=f"{namespace}.here", consumer="C")
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"here": queue})

    with pytest.raises(dramatiq.errors.BrokerError, match=rf"expected .*here.*, found .*{subject}"):
        send(broker, "here")


def _information(version: str) -> bytes:
    fields = {"server_id": "old", "version": version, "headers": True, "max_payload": 2**20, "jetstream": True}
    return b"INFO " + json.dumps(fields).encode() + b"\r\n"


@contextmanager
def _speaking(greeting: bytes) -> Iterator[str]:
    """Something that greets each client so and then answers its pings."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                client, _ = listening.accept()
                with client, suppress(ConnectionError):  # The client may go without a word.
                    client.sendall(greeting)
                    while data := client.recv(4096):
                        if b"PING" in data:
                            client.sendall(b"PONG\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        yield f"nats://127.0.0.1:{port}"
        stopping.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join(5)
