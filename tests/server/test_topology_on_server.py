"""What stands on the server: made on demand, never changed behind its owner's back."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.errors import ConfigMismatch, PermissionDenied
from tests.support.admin import Admin
from tests.support.images import BLACK_AND_WHITE, make_images
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker

START = """
import sys
from dramatiq_jetstream import JetStreamBroker

broker = JetStreamBroker(sys.argv[1], namespace=sys.argv[2])
broker.declare_queue("default")
sys.stdin.readline()
broker.setup()
broker.close()
"""


def message_to(queue_name: str) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="anyone", args=(), kwargs={}, options={})


def test_stream_and_consumer_are_made_when_needed(broker: JetStreamBroker, admin: Admin) -> None:
    broker.declare_queue("default")
    stream = broker.names.stream("default")
    assert stream not in admin.streams()

    broker.enqueue(message_to("default"))
    config = admin.stream(stream)["config"]
    assert config["retention"] == "workqueue"
    assert config["storage"] == "file"
    assert admin.stream(stream)["state"]["consumer_count"] == 0

    broker.consume("default").close()
    config = admin.consumer(stream, broker.names.consumer)["config"]
    assert config["ack_policy"] == "explicit"
    assert config["ack_wait"] == 30_000_000_000
    assert config["max_ack_pending"] == -1


def test_max_deliver_is_one_more_than_the_most_patient_actors_retries(broker: JetStreamBroker, admin: Admin) -> None:
    @dramatiq.actor(broker=broker, queue_name="few", max_retries=2)
    def few() -> None: ...

    @dramatiq.actor(broker=broker, queue_name="few", max_retries=7)
    def more() -> None: ...

    broker.declare_queue("usual")
    broker.setup()

    def max_deliver(queue_name: str) -> int:
        config = admin.consumer(broker.names.stream(queue_name), broker.names.consumer)["config"]
        return int(config["max_deliver"])

    assert max_deliver("few") == 8
    assert max_deliver("usual") == 21


def test_setup_can_be_repeated(broker: JetStreamBroker, admin: Admin, nats_url: str, namespace: str) -> None:
    broker.declare_queue("default")
    broker.setup()
    stream = admin.stream(broker.names.stream("default"))
    consumer = admin.consumer(broker.names.stream("default"), broker.names.consumer)

    broker.setup()
    another = JetStreamBroker(nats_url, namespace=namespace)
    another.declare_queue("default")
    another.setup()
    another.close()

    assert admin.stream(broker.names.stream("default"))["config"] == stream["config"]
    again = admin.consumer(broker.names.stream("default"), broker.names.consumer)
    assert (again["config"], again["created"]) == (consumer["config"], consumer["created"])


def test_many_threads_with_brokers_of_their_own_start_at_once(nats_url: str, namespace: str, admin: Admin) -> None:
    together = threading.Barrier(8)

    def start() -> None:
        broker = JetStreamBroker(nats_url, namespace=namespace)
        broker.declare_queue("default")
        together.wait()
        broker.setup()
        broker.close()

    for starting in [in_background(start) for _ in range(8)]:
        starting.result(timeout=30)
    assert admin.stream(f"{namespace}_default")["state"]["consumer_count"] == 1


def test_many_processes_start_at_once(nats_url: str, namespace: str, admin: Admin) -> None:
    command = [sys.executable, "-c", START, nats_url, namespace]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]

    outcomes = [in_background(process.communicate, "go\n") for process in processes]

    assert [outcome.result(timeout=60)[1] for outcome in outcomes] == [""] * 8
    assert [process.returncode for process in processes] == [0] * 8
    assert admin.stream(f"{namespace}_default")["state"]["consumer_count"] == 1


def test_larger_max_deliver_on_the_server_stays(broker: JetStreamBroker, admin: Admin) -> None:
    stream, consumer = broker.names.stream("default"), broker.names.consumer
    broker.declare_queue("default")
    broker.setup()
    config = admin.consumer(stream, consumer)["config"] | {"max_deliver": 50}
    admin.api(
        f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}", {"stream_name": stream, "config": config}
    )

    broker.setup()
    broker.consume("default").close()

    assert admin.consumer(stream, consumer)["config"]["max_deliver"] == 50


def test_stream_that_does_not_fit_is_reported_field_by_field_and_not_changed(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace)
    stream = broker.names.stream("default")
    admin.api(
        f"STREAM.CREATE.{stream}",
        {
            "name": stream,
            "subjects": [broker.names.work_subject("default")],
            "retention": "limits",
            "storage": "memory",
            "max_age": 60_000_000_000,
        },
    )
    before = admin.stream(stream)["config"]

    with pytest.raises(ConfigMismatch, match=r"Nothing was changed. Declare the queue") as raised:
        broker.enqueue(message_to("default"))

    assert [each.field for each in raised.value.differences] == [
        "allow_msg_schedules",
        "duplicate_window",
        "max_age",
        "retention",
        "storage",
        "subjects",
    ]
    for line in (
        "max_age: expected 'unlimited', found '60s'",
        "retention: expected 'workqueue', found 'limits'",
        "storage: expected 'file', found 'memory'",
    ):
        assert line in str(raised.value)
    assert admin.stream(stream)["config"] == before
    assert admin.count(stream) == 0
    broker.close()


def test_consumer_that_does_not_fit_is_reported_field_by_field_and_not_changed(
    broker: JetStreamBroker, admin: Admin
) -> None:
    stream, consumer = broker.names.stream("default"), broker.names.consumer
    broker.enqueue(message_to("default"))
    config = {
        "durable_name": consumer,
        "filter_subject": broker.names.work_subject("default"),
        "ack_policy": "explicit",
        "ack_wait": 90_000_000_000,
        "max_deliver": 3,
    }
    admin.api(
        f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}", {"stream_name": stream, "config": config}
    )
    before = admin.consumer(stream, consumer)["config"]

    with pytest.raises(ConfigMismatch) as raised:
        broker.consume("default")

    assert [each.field for each in raised.value.differences] == ["ack_wait", "max_ack_pending", "max_deliver"]
    for line in (
        "ack_wait: expected '30s', found '90s'",
        "max_ack_pending: expected 'unlimited', found 1000",
        "max_deliver: expected 21, found 3",
    ):
        assert line in str(raised.value)
    assert admin.consumer(stream, consumer)["config"] == before


def test_walkthroughs_stream_and_consumer_are_accepted(nats_url: str, namespace: str, admin: Admin) -> None:
    make_images(admin)
    before = admin.stream("IMAGES")["config"], admin.consumer("IMAGES", "BW")["config"]
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"blackandwhite": BLACK_AND_WHITE})
    broker.declare_queue("blackandwhite")

    broker.setup()

    assert (admin.stream("IMAGES")["config"], admin.consumer("IMAGES", "BW")["config"]) == before
    broker.close()


def test_bound_queue_is_made_with_the_walkthroughs_settings_if_it_is_missing(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"blackandwhite": BLACK_AND_WHITE})
    broker.declare_queue("blackandwhite")
    broker.setup()
    ours = admin.stream("IMAGES")["config"], admin.consumer("IMAGES", "BW")["config"]
    admin.api("STREAM.DELETE.IMAGES")

    make_images(admin)

    theirs = admin.stream("IMAGES")["config"], admin.consumer("IMAGES", "BW")["config"]
    assert [_told(config) for config in ours] == [_told(config) for config in theirs]
    broker.close()


def test_bound_queue_with_other_settings_on_the_server_is_reported(nats_url: str, namespace: str, admin: Admin) -> None:
    make_images(admin, stream={"max_msg_size": 128}, consumer={"max_deliver": 2})
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"blackandwhite": BLACK_AND_WHITE})

    with pytest.raises(ConfigMismatch, match=r"stream 'IMAGES'.*\n  max_msg_size: expected 512, found 128\n"):
        broker.enqueue(message_to("blackandwhite"))
    broker.close()


def _told(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what the server adds to it."""
    return {name: value for name, value in config.items() if name != "metadata"}


USERS = """
accounts {{
  APP: {{
    jetstream: enabled
    users: [
      {{user: admin, password: admin}}
      {{user: producer, password: secret, permissions: {{
        publish: ["{namespace}.work.>"]
        subscribe: ["_INBOX_prod.>"]
      }}}}
      {{user: worker, password: secret, permissions: {{
        publish: [
          "$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
          "{info}.{stream}.{consumer}"
          "$JS.ACK.{stream}.{consumer}.>"
          "$JS.ACK.*.*.{stream}.{consumer}.>"
          "{namespace}.work.>"
          "{namespace}.dead.>"
          {more}
        ]
        subscribe: ["_INBOX_work.>"]
      }}}}
    ]
  }}
}}
"""

#: What a worker needs besides for retries to see the options of earlier attempts.
RECORDS = '"$KV.{namespace}-attempts.>", "$JS.API.DIRECT.GET.KV_{namespace}-attempts.>"'


#: Tells a worker how often its consumer delivers a message.
INFO = "$JS.API.CONSUMER.INFO"


class Guarded:
    """A server that lets its users do no more than they need."""

    def __init__(self, server: NatsServer, admin: Admin) -> None:
        self.server = server
        self.admin = admin

    def broker(self, user: str, inbox_prefix: str, **options: Any) -> JetStreamBroker:
        return JetStreamBroker(
            self.server.url,
            namespace="guarded",
            declare="never",
            user=user,
            password="secret",
            inbox_prefix=inbox_prefix,
            **options,
        )


@contextmanager
def guarded_server(more: str = "", info: str = INFO) -> Iterator[Guarded]:
    """Queues that somebody with more rights prepared."""
    config = USERS.format(namespace="guarded", stream="guarded_default", consumer="guarded", more=more, info=info)
    with NatsServer(config=config) as server, Admin(server.url, user="admin", password="admin") as admin:
        provisioner = JetStreamBroker(server.url, namespace="guarded", user="admin", password="admin")
        provisioner.declare_queue("default")
        provisioner.setup()
        provisioner.close()
        yield Guarded(server, admin)


@pytest.fixture(params=["", RECORDS], ids=["without records", "with records"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    with guarded_server(request.param.format(namespace="guarded")) as guarded:
        yield guarded


def test_work_flows_without_management_calls(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    producer, consumer = guarded.broker("producer", "_INBOX_prod"), guarded.broker("worker", "_INBOX_work")
    ran: list[int] = []

    @dramatiq.actor(broker=consumer, max_retries=1, min_backoff=1)
    def fragile(number: int) -> None:
        ran.append(number)
        if number < 0:
            raise ValueError(number)

    for number in (1, 2, -1, 3):
        producer.enqueue(fragile.message(number))
    with run_worker(consumer):
        eventually(lambda: sorted(ran) == [-1, -1, 1, 2, 3])

    eventually(lambda: guarded.admin.count("guarded_default") == 0)
    assert guarded.admin.count(consumer.names.dead_letters) == 1
    producer.close()
    consumer.close()
    denied = [line for line in caplog.messages if "permissions violation" in line]
    assert not [line for line in denied if "$js.api.stream" in line or "$js.api.consumer" in line]


def test_calls_that_need_management_say_which_permission_is_missing(guarded: Guarded) -> None:
    broker = guarded.broker("worker", "_INBOX_work")
    broker.declare_queue("default")

    with pytest.raises(PermissionDenied, match=r"may not publish to '\$JS.API.STREAM.INFO.guarded_default'"):
        broker.get_queue_message_counts("default")
    broker.close()


def test_worker_goes_on_where_only_its_actors_became_more_patient(broker: JetStreamBroker, nats_url: str) -> None:
    broker.declare_queue("default")
    broker.setup()
    with closing(JetStreamBroker(nats_url, namespace=broker.names.namespace)) as patient:
        dramatiq.actor(broker=patient, actor_name="wait", max_retries=50)(print)

        with pytest.raises(ConfigMismatch, match="max_deliver: expected 51, found 21"):
            patient.setup()
        patient.consume("default")


@pytest.mark.parametrize("max_retries", [8, None, math.inf])
def test_worker_that_makes_nothing_goes_by_what_its_consumer_delivers(
    broker: JetStreamBroker, nats_url: str, namespace: str, admin: Admin, max_retries: Any
) -> None:
    dramatiq.actor(broker=broker, actor_name="fail", max_retries=3)(lambda number: None)
    broker.setup()
    assert admin.consumer(broker.names.stream("default"), broker.names.consumer)["config"]["max_deliver"] == 4
    more_patient = JetStreamBroker(nats_url, namespace=namespace, declare="never")
    ran: list[int] = []

    @dramatiq.actor(broker=more_patient, max_retries=max_retries, min_backoff=1, max_backoff=1)
    def fail(number: int) -> None:
        ran.append(number)
        if max_retries == 8 or ran.count(number) < 9:
            raise ValueError(number)

    for number in range(3):
        fail.send(number)
    with run_worker(more_patient):
        eventually(lambda: [ran.count(number) for number in range(3)] == [9, 9, 9])
        dead = 3 if max_retries == 8 else 0
        eventually(lambda: broker.get_queue_message_counts("default") == (0, 0, dead))
        # An acknowledgement is sent without waiting.
        eventually(lambda: admin.count(broker.names.stream("default")) == 0)
    more_patient.close()


def test_worker_that_may_not_ask_for_its_consumer_says_so_once_and_works(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []
    with guarded_server(info="nothing") as guarded, closing(guarded.broker("worker", "_INBOX_work")) as worker:

        @dramatiq.actor(broker=worker, max_retries=2, min_backoff=1)
        def fragile(number: int) -> None:
            ran.append(number)
            if ran.count(number) == 1:
                raise ValueError(number)

        fragile.send(1)
        with run_worker(worker):
            eventually(lambda: ran == [1, 1])
            guarded.server.kill()
            guarded.server.start()
            fragile.send(2)
            eventually(lambda: ran == [1, 1, 2, 2])

    [warning] = [line for line in caplog.messages if "assumes that it delivers a message 3 times" in line]
    assert f"may not publish to '{INFO}.guarded_default.guarded': allow it" in warning
    assert "queue 'default' (stream 'guarded_default')" in warning
