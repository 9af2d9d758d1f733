"""Looking after queues with plain functions, on a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue, admin
from dramatiq_jetstream.admin import DeadFilter, Event, Finding
from dramatiq_jetstream.errors import ConsumerNotFound, Difference, QueueNotFound
from tests.support.admin import Admin
from tests.support.operated import fill, imported
from tests.support.waiting import eventually
from tests.support.workers import run_worker

PERMISSIONS = """
accounts {{
    A {{
        jetstream: enabled
        users: [
            {{user: all, password: all}}
            {{user: producer, password: producer, permissions: {{
                publish: ["{n}.work.default.>", "{n}.delayed.default.>"]
                subscribe: "_INBOX.>"
            }}}}
        ]
    }}
}}
"""


@pytest.fixture
def filled(
    nats_url: str, namespace: str, admin_client: Admin, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JetStreamBroker]:
    with imported(namespace, nats_url, monkeypatch) as broker:
        fill(broker)
        yield broker


@pytest.fixture
def admin_client(admin: Admin) -> Admin:
    """The plain client, under a name that leaves the module's alone."""
    return admin


def test_view_tells_messages_in_every_state_apart(filled: JetStreamBroker) -> None:
    views = {view.queue: view for view in admin.views(filled)}

    assert (views["default"].ready, views["default"].dead) == (1, 1)
    assert (views["slow"].retrying, views["slow"].running, views["slow"].delayed) == (1, 0, 1)
    assert (views["images"].exhausted, views["images"].dead) == (1, 1)
    assert views["default"].oldest is not None
    assert views["slow"].active is not None
    assert admin.total(list(views.values()))["dead"] == 2


def test_message_that_runs_is_running(broker: JetStreamBroker) -> None:
    started, go_on = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker)
    def hold() -> None:
        started.set()
        go_on.wait(30)

    hold.send()
    with run_worker(broker):
        started.wait(10)
        view = admin.view(broker, "default")
        go_on.set()

    assert (view.running, view.retrying, view.ready) == (1, 0, 0)


def test_idle_workers_pulls_are_seen(broker: JetStreamBroker) -> None:
    broker.declare_queue("default")
    with run_worker(broker):
        eventually(lambda: admin.view(broker, "default").pulls)


def test_rates_are_what_changed_between_two_looks(broker: JetStreamBroker) -> None:
    broker.declare_queue("default")
    earlier = admin.views(broker)
    broker.enqueue(Message(queue_name="default", actor_name="a", args=(), kwargs={}, options={}))
    [view] = admin.rates(earlier, eventually(lambda: later_than(broker, earlier[0].taken_at)))

    assert view.rate_in is not None
    assert view.rate_in > 0
    assert view.rate_out == 0


def later_than(broker: JetStreamBroker, moment: int) -> list[admin.QueueView]:
    views = admin.views(broker)
    return views if views[0].taken_at > moment else []


def test_server_alone_knows_the_queues(nats_url: str, namespace: str, admin_client: Admin) -> None:
    names = ["default", "a.b c", "ü"]
    broker = JetStreamBroker(nats_url, namespace=namespace)
    for name in names:
        broker.declare_queue(name)
    broker.setup()
    broker.close()

    other = JetStreamBroker(nats_url, namespace=namespace, declare="never")
    assert admin.discover(other) == sorted(names)
    other.close()


def test_paused_queue_delivers_nothing_until_it_is_resumed(broker: JetStreamBroker) -> None:
    done = threading.Event()

    @dramatiq.actor(broker=broker)
    def act() -> None:
        done.set()

    broker.setup()
    admin.pause(broker, "default", 600_000)
    act.send()
    with run_worker(broker):
        eventually(lambda: admin.view(broker, "default").pulls)
        assert admin.view(broker, "default").ready == 1
        assert not done.is_set()
        admin.resume(broker, "default")
        assert done.wait(10)


def test_pause_survives_a_restart_of_the_server(namespace: str) -> None:
    with NatsServer() as server:
        broker = JetStreamBroker(server.url, namespace=namespace)
        broker.declare_queue("default")
        broker.setup()
        admin.pause(broker, "default")
        server.restart()
        view = admin.view(broker, "default")
        broker.setup()
        broker.close()

    assert view.paused
    assert view.paused_for is not None
    assert view.paused_for > admin.FOR_EVER // 2


def test_pause_ends_by_itself(broker: JetStreamBroker) -> None:
    broker.declare_queue("default")
    broker.setup()

    admin.pause(broker, "default", 300)

    eventually(lambda: not admin.view(broker, "default").paused)


def test_queue_that_nobody_prepared_cannot_be_paused(broker: JetStreamBroker) -> None:
    broker.declare_queue("default")
    broker.enqueue(Message(queue_name="default", actor_name="a", args=(), kwargs={}, options={}))

    with pytest.raises(ConsumerNotFound, match="prepare it"):
        admin.pause(broker, "default")
    with pytest.raises(QueueNotFound):
        admin.pause(broker, "another")


def test_peek_consumes_nothing(filled: JetStreamBroker) -> None:
    before = admin.view(filled, "slow")
    states = [view.state for view in admin.peek(filled, "slow")]
    after = admin.view(filled, "slow")

    assert states == ["held", "delayed"]
    assert (before.retrying, before.delayed, before.redelivered) == (after.retrying, after.delayed, after.redelivered)


def test_stream_of_somebody_else_can_be_looked_into(filled: JetStreamBroker) -> None:
    [view] = admin.peek(filled, "images")

    assert (view.state, view.actor, view.kwargs) == (
        "exhausted",
        "to_blackandwhite",
        {"id": "broken", "image": "file:///x.jpg"},
    )


def test_undecodable_message_is_shown_with_its_error(broker: JetStreamBroker, admin_client: Admin) -> None:
    broker.declare_queue("default")
    broker.setup()
    admin_client.store(broker.names.work_subject("default", "x"), b"\xff not a message")

    [view] = admin.peek(broker, "default")

    assert view.actor is None
    assert view.error is not None
    assert "not a dramatiq message" in view.error
    assert view.body == b"\xff not a message"


def test_kept_dead_letter_goes_back_into_its_stream_and_leaves_it_once_stored(
    filled: JetStreamBroker, admin_client: Admin
) -> None:
    stream = filled.queue("images").route.stream
    [old] = admin_client.stored(stream)

    [outcome] = admin.requeue_dead(filled, DeadFilter(queue="images"))

    assert outcome.error is None
    [new] = admin_client.stored(stream)
    assert new.sequence > old.sequence
    assert new.body == old.body
    assert list(admin.select_dead(filled, DeadFilter(queue="images"))) == []


def test_dead_letter_of_an_unknown_binding_stays(filled: JetStreamBroker, nats_url: str) -> None:
    stranger = JetStreamBroker(nats_url, namespace=filled.names.namespace, declare="never")
    outcomes = {outcome.letter.queue_name: outcome for outcome in admin.requeue_dead(stranger, DeadFilter())}
    stranger.close()

    assert outcomes["default"].error is None
    assert "name the application" in str(outcomes["images"].error)
    assert [letter.queue_name for letter in filled.dead_letters.list()] == ["images"]


def test_undecodable_dead_letter_stays_and_its_neighbours_go(broker: JetStreamBroker, admin_client: Admin) -> None:
    @dramatiq.actor(broker=broker, max_retries=0)
    def fail() -> None:
        raise ValueError("no")

    broker.setup()
    fail.send()
    admin_client.store(broker.names.work_subject("default", "x"), b"junk")
    fail.send()
    with run_worker(broker):
        eventually(lambda: admin.view(broker, "default").dead == 3)

    outcomes = list(admin.requeue_dead(broker, DeadFilter()))

    assert sorted(outcome.error is None for outcome in outcomes) == [False, True, True]
    assert [letter.reason for letter in broker.dead_letters.list()] == ["undecodable"]
    assert admin.view(broker, "default").ready == 2


def test_requeueing_stops_at_the_number_it_was_told(broker: JetStreamBroker) -> None:
    numbers = bury(broker, 5)

    outcomes = list(admin.requeue_dead(broker, DeadFilter(), until=numbers[2]))

    assert [outcome.letter.number for outcome in outcomes] == numbers[:3]
    assert [letter.number for letter in broker.dead_letters.list()] == numbers[3:]


def test_summary_counts_by_queue_actor_and_reason(broker: JetStreamBroker) -> None:
    numbers = bury(broker, 7)

    summary = admin.summarise_dead(broker, DeadFilter())

    assert (summary.count, summary.last) == (7, numbers[-1])
    assert summary.groups == {("default", "fail", "retries exhausted"): 7}


def test_purge_takes_only_what_is_meant(broker: JetStreamBroker) -> None:
    numbers = bury(broker, 4)

    assert admin.purge_dead(broker, DeadFilter(numbers=(numbers[0], 10**6))) == 1
    assert admin.purge_dead(broker, DeadFilter(text="attempt 2")) == 1
    assert admin.purge_dead(broker, DeadFilter(actor="somebody")) == 0
    assert admin.purge_dead(broker, DeadFilter()) == 2


def bury(broker: JetStreamBroker, count: int) -> list[int]:
    """Make so many dead letters, and return their numbers."""

    @dramatiq.actor(broker=broker, max_retries=0)
    def fail(number: int) -> None:
        raise ValueError(f"attempt {number}")

    broker.setup()
    for number in range(count):
        fail.send(number)
    with run_worker(broker, threads=1):
        eventually(lambda: admin.view(broker, "default").dead == count)
    return [letter.number for letter in broker.dead_letters.list()]


def test_delayed_message_runs_now_and_only_once(broker: JetStreamBroker) -> None:
    ran = []

    @dramatiq.actor(broker=broker)
    def act(name: str) -> None:
        ran.append(name)

    message = act.send_with_options(args=("x",), delay=600_000)

    assert admin.run_delayed(broker, message.message_id)
    with run_worker(broker):
        eventually(lambda: ran)
        broker.join("default", timeout=10_000)
    assert ran == ["x"]
    assert not admin.run_delayed(broker, message.message_id)
    assert not admin.cancel_delayed(broker, message.message_id)


def test_delayed_message_is_cancelled_in_whatever_queue_it_is(filled: JetStreamBroker) -> None:
    [waiting] = admin.list_delayed(filled)
    assert waiting.message_id is not None

    assert admin.cancel_delayed(filled, waiting.message_id)

    assert list(admin.list_delayed(filled)) == []


def test_setup_makes_all_that_workers_make_later(
    nats_url: str, namespace: str, admin_client: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with imported(namespace, nats_url, monkeypatch) as broker:
        list(admin.make(broker, admin.check(broker)))
        before = {name: admin_client.stream(name)["state"]["consumer_count"] for name in admin_client.streams()}
        fill(broker)
        after = {name: admin_client.stream(name)["state"]["consumer_count"] for name in admin_client.streams()}

        assert after == before
        assert {part.state for part in admin.check(broker)} == {"fits"}


def test_drift_is_told_field_by_field_and_changed_only_there(
    nats_url: str, namespace: str, admin_client: Admin
) -> None:
    lax = JetStreamBroker(nats_url, namespace=namespace, queues={"default": WorkQueue(ack_wait=90_000)})
    lax.declare_queue("default")
    lax.setup()
    lax.close()
    strict = JetStreamBroker(
        nats_url, namespace=namespace, queues={"default": WorkQueue(ack_wait=20_000, max_deliver=50)}
    )
    strict.declare_queue("default")

    [part] = [part for part in admin.check(strict) if part.state == "differs"]
    assert [difference.field for difference in part.differences] == ["ack_wait", "max_deliver"]
    assert part.changeable
    before = admin_client.consumer(part.requirement.stream, str(part.requirement.consumer))["config"]

    assert admin.update(strict, part).state == "fits"

    after = admin_client.consumer(part.requirement.stream, str(part.requirement.consumer))["config"]
    assert after == {**before, "ack_wait": 20_000_000_000, "max_deliver": 50}
    strict.close()


def test_subjects_are_added_to_a_stream_of_somebody_else(broker: JetStreamBroker, admin_client: Admin) -> None:
    stream = f"S-{broker.names.namespace}"
    settings = WorkQueue(stream=stream, subject=f"{stream}.b", consumer="C")
    admin_client.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.a"], "retention": "workqueue"})
    bound = JetStreamBroker(broker.settings.url, namespace=broker.names.namespace, queues={"b": settings})
    bound.declare_queue("b")

    [part] = [part for part in admin.check(bound) if part.state == "differs"]
    after = admin.update(bound, part)
    bound.close()

    assert after.state == "fits"
    assert admin_client.stream(stream)["config"]["subjects"] == [f"{stream}.a", f"{stream}.b"]


def test_storage_and_retention_cannot_be_changed(broker: JetStreamBroker, admin_client: Admin) -> None:
    broker.declare_queue("default")
    stream = broker.names.stream("default")
    subjects = [broker.names.work_subject("default"), broker.names.delayed_subject("default")]
    request = {"name": stream, "subjects": subjects, "storage": "memory", "allow_msg_schedules": True}
    admin_client.api(f"STREAM.CREATE.{stream}", {**request, "retention": "workqueue"})

    [part] = [part for part in admin.check(broker) if part.state == "differs"]

    assert not part.changeable
    assert [difference.field for difference in part.differences] == ["storage"]


def test_update_warns_of_what_waits_for_a_retry(filled: JetStreamBroker, nats_url: str) -> None:
    queues = {"slow": WorkQueue(ack_wait=5_000, max_deliver=4, max_msg_size=None)}
    other = JetStreamBroker(nats_url, namespace=filled.names.namespace, queues=queues)
    other.declare_queue("slow")
    [stream, consumer] = [part for part in admin.check(other) if part.requirement.stream.endswith("_slow")]
    changed = admin.Checked(stream.requirement, stream.found, (Difference("duplicate_window", 1, 2),))

    dangers = [warned.danger for warned in admin.warnings(other, changed)]
    other.close()

    assert consumer.state == "differs"
    assert len(dangers) == 1
    assert "nats-server#5526" in dangers[0]
    assert "ack_wait" in [warned.field for warned in admin.warnings(filled, consumer)]


def test_doctor_finds_nothing_wrong_after_setup(broker: JetStreamBroker) -> None:
    broker.declare_queue("default")
    list(admin.make(broker, admin.check(broker)))

    findings = list(admin.examine(broker, admin.ROLES))

    assert [finding for finding in findings if finding.wrong] == []
    assert {"server", "limits", "clock", "permissions", "drift", "queues", "replicas"} <= {
        finding.check for finding in findings
    }


def test_doctor_finds_messages_that_nobody_asks_for_and_exhausted_ones(filled: JetStreamBroker, nats_url: str) -> None:
    fresh = JetStreamBroker(nats_url, namespace=f"{filled.names.namespace}-2")
    fresh.declare_queue("default")
    fresh.setup()
    fresh.enqueue(Message(queue_name="default", actor_name="a", args=(), kwargs={}, options={}))

    idle = [finding for finding in admin.examine(fresh) if finding.check == "pulls"]
    exhausted = [finding for finding in admin.examine(filled) if finding.check == "exhausted"]
    fresh.close()

    assert [(finding.level, finding.subject) for finding in idle] == [("problem", "default")]
    assert [(finding.level, finding.subject) for finding in exhausted] == [("warning", "images")]
    assert all(finding.advice for finding in [*idle, *exhausted])


def test_probing_permissions_changes_nothing(filled: JetStreamBroker, admin_client: Admin) -> None:
    admin.pause(filled, "slow", 600_000)

    def state() -> list[tuple[object, ...]]:
        views = admin.views(filled)
        streams = [(name, admin_client.stream(name)["state"]["last_seq"]) for name in sorted(admin_client.streams())]
        counts = [(view.ready, view.running, view.retrying, view.delayed, view.exhausted, view.dead) for view in views]
        return [*streams, *counts, *((view.paused, view.redelivered) for view in views)]

    before = state()
    probes = list(admin.probe(filled))

    assert all(probed.allowed for probed in probes)
    assert state() == before


def test_doctor_names_the_permission_that_a_role_lacks(namespace: str) -> None:
    with NatsServer(config=PERMISSIONS.format(n=namespace)) as server:
        made = JetStreamBroker(server.url, namespace=namespace, user="all", password="all")
        made.declare_queue("default")
        made.setup()
        made.close()
        producer = JetStreamBroker(
            server.url, namespace=namespace, declare="never", user="producer", password="producer"
        )
        producer.declare_queue("default")
        allowed = [probed.allowed for probed in admin.probe(producer, ["producer"])]
        denied = [probed.subject for probed in admin.probe(producer, ["worker"]) if not probed.allowed]
        findings = list(admin.examine(producer, ["producer", "worker"]))
        producer.close()

    assert allowed == [True, True]
    assert f"$JS.API.CONSUMER.MSG.NEXT.{namespace}_default.{namespace}" in denied
    assert f"{namespace}.work.default.probe" not in denied
    assert any(finding.wrong and finding.subject == "worker" for finding in findings)
    assert not any(finding.wrong and finding.subject == "producer" for finding in findings)


def test_events_tell_of_pauses_and_exceeded_attempts(filled: JetStreamBroker, admin_client: Admin) -> None:
    heard: list[Event] = []
    with admin.follow_events(filled, heard.append):
        admin.pause(filled, "default", 60_000)
        admin.resume(filled, "default")
        eventually(lambda: len(heard) >= 2)

    assert [(event.kind, event.queue) for event in heard[:2]] == [
        ("consumer paused", "default"),
        ("consumer resumed", "default"),
    ]
    assert heard[0].until is not None


def findings_of(broker: JetStreamBroker, check: str, *, drift: bool = True) -> list[Finding]:
    return [finding for finding in admin.examine(broker, drift=drift) if finding.check == check]


@pytest.mark.parametrize(("held", "level"), [(1_000, "warning"), (-1, "note")])
def test_doctor_warns_of_a_bound_consumer_that_delivers_without_end(
    filled: JetStreamBroker, admin_client: Admin, held: int, level: str
) -> None:
    route = filled.queue("images").route
    found = admin_client.consumer(route.stream, route.consumer)["config"]
    config = {**found, "max_deliver": -1, "max_ack_pending": held}
    path = f"{route.stream}.{route.consumer}.{route.filter}"
    before = findings_of(filled, "attempts")
    admin_client.api(f"CONSUMER.CREATE.{path}", {"stream_name": route.stream, "config": config, "action": "update"})

    [finding] = findings_of(filled, "attempts")

    assert before == []
    assert (finding.level, finding.subject) == (level, "images")
    assert "'BW' has no max_deliver" in finding.text
    assert ("places of max_ack_pending" in finding.text) is (held > 0)
    assert f"nats consumer edit {route.stream} BW --max-deliver" in (finding.advice or "")


def test_doctor_says_what_to_do_where_schedules_cannot_be_switched_off(nats_url: str, namespace: str) -> None:
    with closing(JetStreamBroker(nats_url, namespace=namespace)) as before:
        before.declare_queue("default")
        before.setup()
    limited = {"default": WorkQueue(discard="new", max_msgs=10)}
    with closing(JetStreamBroker(nats_url, namespace=namespace, queues=limited, declare="never")) as after:
        after.declare_queue("default")
        findings = [finding for finding in findings_of(after, "drift") if "discard" in finding.text]
        [part] = [part for part in admin.check(after) if part.differences]

    assert [finding.level for finding in findings] == ["problem"]
    assert "the server cannot switch message schedules off" in (findings[0].advice or "")
    assert "leave discard out of the queue's WorkQueue" in (findings[0].advice or "")
    assert f"nats stream rm {namespace}_default" in (findings[0].advice or "")
    assert not part.changeable


def test_doctor_tells_what_the_server_has_outside_of_the_queues(
    filled: JetStreamBroker, nats_url: str, namespace: str
) -> None:
    with closing(JetStreamBroker(nats_url, namespace=namespace, declare="never")) as outsider:
        admin.discover(outsider)
        [finding] = findings_of(outsider, "not looked at", drift=False)

    assert (finding.level, finding.subject) == ("note", "images")
    assert finding.text == "1 dead letter of queue 'images', in no stream of ours"
    assert "--app" in (finding.advice or "")
