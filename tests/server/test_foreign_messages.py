"""Messages of somebody else in a queue's stream: shown, skipped by what cannot use them, and removable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, admin
from dramatiq_jetstream.wire import SCHEDULE, SCHEDULE_TARGET
from tests.support.admin import Admin
from tests.support.operated import Shell, imported
from tests.support.waiting import eventually

#: Schedules that this package does not write, all of which the server takes.
FOREIGN = {
    "cron": "0 0 0 1 1 *",
    "named": "@yearly",
    "every": "@every 1h",
    "zone": "@at 2100-01-01T02:00:00+02:00",
    "nanoseconds": "@at 2100-01-01T00:00:00.123456789Z",
    "plain": None,
}

#: Bodies that are no message of dramatiq's.
BODIES = [
    b"",
    b"hello",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"args": {}}',
    b"[" * 100_000,
    b'{"queue_name": 5, "options": 5}',
]


class Foreign:
    """Somebody else's messages on the delayed subjects of the queue "slow"."""

    def __init__(self, broker: JetStreamBroker, client: Admin) -> None:
        self.broker = broker
        self.client = client

    def subject(self, name: str) -> str:
        return self.broker.names.delayed_subject("slow", name, "nonce")

    def store(self, name: str, schedule: str | None, body: bytes = b"hello") -> int:
        target = self.broker.names.work_subject("slow", "later")
        headers = {} if schedule is None else {SCHEDULE: schedule, SCHEDULE_TARGET: target}
        answer = self.client.store(self.subject(name), body, headers)
        assert "error" not in answer, (name, answer)
        return int(answer["seq"])

    def store_all(self) -> dict[str, int]:
        return {name: self.store(name, schedule) for name, schedule in FOREIGN.items()}


@pytest.fixture
def broker(
    nats_url: str, namespace: str, admin_client: Admin, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JetStreamBroker]:
    with imported(namespace, nats_url, monkeypatch) as broker:
        broker.setup()
        yield broker


@pytest.fixture
def admin_client(admin: Admin) -> Admin:
    """The plain client, under a name that leaves the module's alone."""
    return admin


@pytest.fixture
def foreign(broker: JetStreamBroker, admin_client: Admin) -> Foreign:
    return Foreign(broker, admin_client)


@pytest.fixture
def shell(namespace: str, broker: JetStreamBroker) -> Shell:
    return Shell(namespace)


def test_every_schedule_is_listed_beside_our_own(foreign: Foreign, broker: JetStreamBroker) -> None:
    numbers = foreign.store_all()
    message: Message[None] = Message(queue_name="slow", actor_name="later", args=(1,), kwargs={}, options={})
    ours = broker.enqueue(message, delay=600_000)

    held = {waiting.sequence: waiting for waiting in broker.delayed("slow")}
    peeked = {view.sequence: view for view in admin.peek(broker, "slow")}

    assert {name: held[number].schedule for name, number in numbers.items()} == FOREIGN
    assert [name for name, number in numbers.items() if held[number].due] == ["zone", "nanoseconds"]
    assert all(held[number].message is None for number in numbers.values())
    assert {peeked[number].state for number in numbers.values()} == {"delayed"}
    assert [waiting.message.message_id for waiting in held.values() if waiting.message] == [ours.message_id]
    assert len(held) == len(peeked) == len(FOREIGN) + 1


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("schedule", [None, "@every 1h"])
def test_any_body_is_shown(foreign: Foreign, shell: Shell, schedule: str | None, body: bytes) -> None:
    number = foreign.store("any", schedule, body)
    namespace = ("--namespace", shell.namespace)

    assert (schedule or "never") in shell.text("delayed", "list")
    assert (schedule or "never") in shell.text("peek", "slow")
    assert foreign.subject("any") in shell.text("show", "slow", str(number))
    [listed] = shell.records("delayed", "list", *namespace)
    [peeked] = shell.records("peek", "slow", *namespace)
    [shown] = shell.records("show", "slow", str(number), *namespace)
    assert {(view["due"], view["schedule"], view["subject"]) for view in (listed, peeked, shown)} == {
        (None, schedule, foreign.subject("any"))
    }


def test_foreign_messages_are_cancelled_by_subject_and_by_sequence(
    foreign: Foreign, broker: JetStreamBroker, shell: Shell
) -> None:
    numbers = foreign.store_all()

    by_subject = [foreign.subject(name) for name in ("cron", "plain", "zone")]
    shell.text("delayed", "cancel", *by_subject)
    by_sequence = [str(numbers[name]) for name in ("named", "every")]
    assert "is not held back" in shell.text("delayed", "cancel", *by_sequence, status=1)
    shell.text("delayed", "cancel", "--queue", "slow", *by_sequence)
    assert admin.cancel_delayed(broker, "nanoseconds")

    assert "Nothing is delayed." in shell.text("delayed", "list")
    assert "is not held back" in shell.text("delayed", "cancel", "--queue", "slow", by_sequence[0], status=1)


def test_schedule_that_fires_every_second_is_cancelled(foreign: Foreign, broker: JetStreamBroker) -> None:
    number = foreign.store("every", "@every 1s")
    stream = broker.names.stream("slow")
    eventually(lambda: foreign.client.count(stream) > 1, message="a firing")
    [waiting] = broker.delayed("slow")

    assert admin.cancel_delayed(broker, str(waiting.sequence), "slow")
    assert list(broker.delayed("slow")) == []
    assert waiting.sequence >= number


def test_only_what_is_held_back_is_cancelled(foreign: Foreign, broker: JetStreamBroker) -> None:
    message: Message[None] = Message(queue_name="slow", actor_name="later", args=(1,), kwargs={}, options={})
    broker.enqueue(message)
    foreign.store("every", "@every 1h")
    stream = broker.names.stream("slow")

    for name in ("1", "0", "-1", "9" * 400, "²", ">", "*", broker.names.delayed_subject("slow"), "x.y", ""):
        assert not admin.cancel_delayed(broker, name, "slow"), name
    assert not admin.cancel_delayed(broker, foreign.subject("every"), "default")
    assert not admin.cancel_delayed(broker, broker.names.work_subject("slow", "later"))

    assert foreign.client.count(stream) == 2


def test_run_now_leaves_schedules_that_repeat_alone(foreign: Foreign, broker: JetStreamBroker) -> None:
    foreign.store("every", "@every 1h")
    foreign.store("zone", FOREIGN["zone"])

    assert not admin.run_delayed(broker, "every")
    assert admin.run_delayed(broker, "zone")

    eventually(lambda: [waiting.schedule for waiting in broker.delayed("slow")] == ["@every 1h"])
