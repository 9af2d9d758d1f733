"""dramatiq's Prometheus middleware over redeliveries and the server's delays."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer
from tests.frameworks.conftest import ONE_WORKER, SOON, Start, await_line
from tests.support.ports import free_ports
from tests.support.waiting import eventually


def message(actor_name: str) -> Message[Any]:
    return Message(queue_name="default", actor_name=actor_name, args=(), kwargs={}, options={})


def metrics(port: int) -> dict[str, float]:
    """What Prometheus would read, of each actor's metric."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
    except URLError:  # It is not up yet.
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition('{actor_name="')
        if rest:
            actor = rest.partition('"')[0]
            found[f"{name}:{actor}"] = float(line.rpartition(" ")[2])
    return found


def test_retries_are_counted_and_the_delayed_gauge_returns_to_zero(start: Start, server: NatsServer) -> None:
    [port] = free_ports(1)
    worker = start("dramatiq", "tests.frameworks.apps.measured", *ONE_WORKER, dramatiq_prom_port=str(port))
    await_line(worker, "ready for action")
    broker = JetStreamBroker(server.url)
    broker.enqueue(message("flaky"))
    broker.enqueue(message("broken"))
    broker.enqueue(message("steady"))
    broker.enqueue(message("steady"), delay=100)
    expected = {
        "dramatiq_messages_total:flaky": 3,
        "dramatiq_message_errors_total:flaky": 2,
        "dramatiq_message_retries_total:flaky": 2,
        "dramatiq_delayed_messages_inprogress:flaky": 0,
        "dramatiq_message_rejects_total:broken": 1,
        "dramatiq_messages_total:steady": 2,
        "dramatiq_delayed_messages_inprogress:steady": 0,
        "dramatiq_messages_inprogress:steady": 0,
    }
    last: dict[str, float | None] = {}

    def settled() -> bool:
        found = metrics(port)
        last.update({name: found.get(name) for name in expected})
        return last == expected

    try:
        eventually(settled, SOON, message="the metrics")
    finally:
        broker.close()
        assert last == expected
