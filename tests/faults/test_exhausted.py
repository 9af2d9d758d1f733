"""Messages out of attempts without a dead letter: found by advisories and by the sweep, whatever they hold."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from typing import Any, NamedTuple

import pytest
from dramatiq import Message
from nats.aio.msg import Msg

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.client import Session
from dramatiq_jetstream.dead_letters import DeadLetter, DeadLetterStore, Failure, advisories, exhausted, sweeping
from dramatiq_jetstream.dead_letters.sweeping import Sweep
from dramatiq_jetstream.errors import CallTimeout
from dramatiq_jetstream.streams import Route, reading
from tests.support.admin import Admin
from tests.support.faults import SOON, Application
from tests.support.waiting import eventually
from tests.support.workers import run_worker

ADVISORY = advisories.SUBJECT


class Queue:
    """A queue whose deliveries a plain client takes, to leave messages in any state.

    Parameters:
      broker(JetStreamBroker): The broker; each message is delivered twice at most.
      client(Admin): The plain client.
      name(str): The queue's name.
    """

    def __init__(self, broker: JetStreamBroker, client: Admin, name: str) -> None:
        self.broker = broker
        self.client = client
        self.name = name
        self.stream = broker.names.stream(name)
        self.consumer = broker.names.consumer
        self._inbox = f"inbox.{self.stream}"
        self._delivered = client.subscribe(self._inbox)

    def send(self, *, text: str = "x") -> Message[Any]:
        message: Message[Any] = Message(queue_name=self.name, actor_name="act", args=(text,), kwargs={}, options={})
        return self.broker.enqueue(message)

    def store(self, body: bytes, headers: dict[str, str] | None = None) -> int:
        subject = self.broker.names.work_subject(self.name, "act")
        return int(self.client.store(subject, body, headers)["seq"])

    def pull(self, count: int) -> list[Msg]:
        request = json.dumps({"batch": count, "expires": 5_000_000_000}).encode()
        self.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}", request, reply=self._inbox)
        return [self._delivered.get(timeout=SOON / 1000) for _ in range(count)]

    def answer(self, delivery: Msg, answer: bytes) -> None:
        self.client.publish(delivery.reply, answer)

    def give_up(self, deliveries: list[Msg]) -> None:
        """Use up the attempts of messages."""
        stuck = self.info()["num_ack_pending"] - len(deliveries)
        for delivery in deliveries:
            self.answer(delivery, b"-NAK")
        for delivery in self.pull(len(deliveries)):
            self.answer(delivery, b"-NAK")
        request = b'{"batch": 1, "expires": 100000000}'

        def is_over() -> bool:
            # The server gives a message up only when it would deliver it once more.
            self.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}", request, reply="nobody")
            return bool(self.info()["num_ack_pending"] == stuck)

        eventually(is_over, SOON, message="the end of the attempts")

    def park(self, count: int) -> list[str]:
        """Leave so many messages out of attempts, and give their ids."""
        sent = [self.send().message_id for _ in range(count)]
        self.give_up(self.pull(count))
        return sent

    def info(self) -> dict[str, Any]:
        return self.client.consumer(self.stream, self.consumer)

    def left(self) -> int:
        return self.client.count(self.stream)

    def letters(self) -> list[DeadLetter]:
        return list(self.broker.dead_letters.list(self.name))

    def has_letters_of(self, *sequences: int) -> bool:
        return {letter.sequence for letter in self.letters()} == set(sequences)

    def look(self, sweep: Sweep) -> int:
        return self.broker.connection.call(sweep.look).stored


class Bench(NamedTuple):
    broker: JetStreamBroker
    client: Admin
    queue: Queue
    other: Queue

    @property
    def sweep(self) -> Sweep:
        return Sweep(self.broker.queue(self.queue.name), self.broker._parts.exhausted._letters)


@pytest.fixture
def bench(nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Two queues, and a sweep that believes what it sees at once."""
    monkeypatch.setattr(sweeping, "SETTLING", 0.0)
    monkeypatch.setattr(exhausted, "FIRST_SWEEP", 0.1)
    queues = {name: WorkQueue(max_deliver=2, ack_wait=60_000) for name in ("default", "other")}
    broker = JetStreamBroker(nats_url, namespace=namespace, queues=queues)
    for name in queues:
        broker.declare_queue(name)
    broker.setup()
    # No advisory tells of what the tests park.
    admin.api(f"STREAM.DELETE.{broker.names.advisories}")
    yield Bench(broker, admin, Queue(broker, admin, "default"), Queue(broker, admin, "other"))
    broker.close()


def advise(client: Admin, stream: str, consumer: str, sequence: int = 1, *, at: str | None = None) -> None:
    """Publish an advisory as the server would."""
    moment = at or f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}Z"
    told = {"stream": stream, "consumer": consumer, "stream_seq": sequence, "deliveries": 2, "timestamp": moment}
    client.publish(f"{ADVISORY}.{stream}.{consumer}", json.dumps(told).encode())


def test_hundreds_of_messages_are_found_in_one_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhausted, "SWEEP_INTERVAL", 600.0)
    parked = bench.queue.park(600)

    with run_worker(bench.broker, queues={"other"}):
        eventually(lambda: bench.queue.left() == 0, SOON, message="the end of all 600")

    assert {letter.message_id for letter in bench.queue.letters()} == set(parked)
    assert {(letter.reason, letter.attempts) for letter in bench.queue.letters()} == {("attempts exceeded", 2)}


def test_message_is_found_while_others_run(bench: Bench) -> None:
    queue, sweep = bench.queue, bench.sweep
    queue.park(1)
    for _ in range(2):
        queue.send()
    running = queue.pull(2)
    queue.send()

    def found() -> bool:
        nonlocal running
        queue.send()
        running += queue.pull(1)
        queue.look(sweep)
        queue.look(sweep)
        queue.answer(running.pop(0), b"+ACK")
        assert queue.info()["num_ack_pending"] >= 2
        return bool(queue.letters())

    eventually(found, SOON, message="the dead letter")
    assert [letter.sequence for letter in queue.letters()] == [1]


def test_messages_that_run_or_wait_for_a_retry_are_left_alone(bench: Bench) -> None:
    queue, sweep = bench.queue, bench.sweep
    for _ in range(4):
        queue.send()
    running, waiting, hopeless, late = queue.pull(4)
    queue.answer(waiting, b'-NAK {"delay": 3600000000000}')
    queue.give_up([hopeless])

    for _ in range(10):
        assert queue.look(sweep) == 0
    queue.answer(running, b"+ACK")
    eventually(lambda: queue.left() == 3)
    for _ in range(10):
        assert queue.look(sweep) == 0
    queue.answer(late, b"+ACK")
    for _ in range(10):
        assert queue.look(sweep) == 0
    assert not queue.letters()


def test_keeper_that_removes_other_exhausted_messages_does_not_mislead_the_search(bench: Bench) -> None:
    queue, sweep, letters = bench.queue, bench.sweep, bench.broker._parts.exhausted._letters
    queue.send()
    [running] = queue.pull(1)
    for number in range(10):
        # Advisories tell of these while a search is under way.
        queue.park(2)
        for _ in range(3):
            queue.look(sweep)
        for found in bench.client.stored(queue.stream)[1:]:
            message = bench.broker.connection.call(partial(reading.get, stream=queue.stream, sequence=found.sequence))
            assert message is not None
            declared = bench.broker.queue(queue.name)
            bench.broker.connection.call(partial(letters.store, queue=declared, found=message, deliveries=2))
        assert queue.look(sweep) == 0
        assert len(queue.letters()) == 2 * (number + 1)

    assert queue.left() == 1
    queue.answer(running, b"+ACK")


@pytest.mark.parametrize("seed", range(3))
def test_queue_that_is_never_idle_is_cleaned_and_nothing_that_runs_is_touched(bench: Bench, seed: int) -> None:
    queue, sweep, choose = bench.queue, bench.sweep, random.Random(seed)
    running: list[Msg] = []
    parked: set[int] = set()

    def go_on(hopeless_ones: int) -> None:
        nonlocal running
        for _ in range(5):
            queue.send()
        running += queue.pull(5)
        hopeless = [running.pop() for _ in range(hopeless_ones)]
        parked.update(delivery.metadata.sequence.stream for delivery in hopeless)
        if hopeless:
            queue.give_up(hopeless)
        for _ in range(choose.randint(0, 3)):
            queue.look(sweep)
        choose.shuffle(running)
        while len(running) > 6:
            queue.answer(running.pop(), b"+ACK")
        assert queue.info()["num_ack_pending"] > 0
        assert {letter.sequence for letter in queue.letters()} <= parked

    for _ in range(20):
        go_on(choose.randint(0, 2))

    def cleaned() -> bool:
        go_on(0)
        return {letter.sequence for letter in queue.letters()} == parked

    eventually(cleaned, SOON, message="a dead letter of each parked message")


@pytest.mark.parametrize("anew", ["delete", "reset"])
def test_messages_that_a_new_consumer_delivers_again_are_left_alone(bench: Bench, anew: str) -> None:
    queue, sweep = bench.queue, bench.sweep
    queue.park(3)
    assert queue.look(sweep) == 0
    if anew == "delete":
        bench.client.api(f"CONSUMER.DELETE.{queue.stream}.{queue.consumer}")
        bench.broker.setup()
    else:
        bench.client.api(f"CONSUMER.RESET.{queue.stream}.{queue.consumer}", {"seq": 1})

    assert [queue.look(sweep) for _ in range(2)] == [0, 0]
    again = queue.pull(3)
    assert [queue.look(sweep) for _ in range(2)] == [0, 0]
    assert len(again) == queue.left() == 3
    assert not queue.letters()


def test_what_was_acknowledged_a_moment_ago_may_still_be_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SETTLING", 600.0)
    sweep = bench.sweep
    bench.queue.park(1)

    looked = bench.broker.connection.call(sweep.look)

    assert looked.stored == 0
    assert looked.pause == pytest.approx(600, abs=60)
    assert bench.queue.look(sweep) == 0


#: Messages of all sorts that no actor can do anything with.
HOSTILE: dict[str, tuple[bytes, dict[str, str]]] = {
    "nothing": (b"", {}),
    "no text": (b"\xff\xfe\x00", {}),
    "deep": (b"[" * 100_000, {}),
    "options that are a number": (b'{"queue_name": "q", "actor_name": "a", "options": 5}', {}),
    "percent": (b"x", {"Dramatiq-Actor": "%FF", "Dramatiq-Message-Id": "%", "Dramatiq-Attempts": "many"}),
    "escapes": (b"x", {"Dramatiq-Actor": "a%0Ab", "Dramatiq-Foo": "b\x1b[31m", "Dramatiq-Options": "%0D%0A"}),
    "removed options": (
        Message(queue_name="default", actor_name="act", args=(), kwargs={}, options={"removed_options": 5}).encode(),
        {},
    ),
    "expectations": (b"x", {"Nats-Msg-Id": "a", "Status": "409", "Dramatiq-Kept": "1", "Dramatiq-Traceback": "x"}),
    "large": (b"x" * 1_000_000, {"Dramatiq-Foo": "y" * 10_000}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_message_holds_its_neighbours_get_their_dead_letters(bench: Bench, name: str) -> None:
    body, headers = HOSTILE[name]
    queue, sweep = bench.queue, bench.sweep
    queue.store(body, headers)
    queue.send()
    queue.give_up(queue.pull(2))

    queue.look(sweep)
    queue.look(sweep)

    sequences = {
        int(found.headers["Dramatiq-Sequence"]) for found in bench.client.stored(bench.broker.names.dead_letters)
    }
    assert 2 in sequences
    # It has a dead letter, or is still in its stream.
    assert 1 in sequences or queue.left() == 1


class Broken:
    """Dead letters that cannot be stored, for a reason of whatever kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: Callable[[Failure], bool], error: Exception) -> None:
        store = DeadLetterStore.store
        self.tried = 0
        self.active = True

        async def break_it(this: DeadLetterStore, session: Session, route: Route, failure: Failure) -> None:
            if self.active and of(failure):
                self.tried += 1
                raise error
            await store(this, session, route, failure)

        monkeypatch.setattr(DeadLetterStore, "store", break_it)


ERRORS = [CallTimeout("no answer"), ValueError("a line feed"), KeyError("x"), RecursionError(), ZeroDivisionError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_sweep_goes_on_when_one_dead_letter_cannot_be_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(exhausted, "SWEEP_INTERVAL", 0.1)
    monkeypatch.setattr(sweeping, "MIN_DELAY", 200)
    broken = Broken(monkeypatch, lambda failure: failure.delivery.origin.sequence == 1, error)
    for queue in (bench.queue, bench.other):
        queue.park(3)

    with run_worker(bench.broker, queues=set()):
        bench.broker.consume("other")
        for queue in (bench.queue, bench.other):
            eventually(partial(queue.has_letters_of, 2, 3), SOON, message="the neighbours' dead letters")
        eventually(lambda: broken.tried >= 4, SOON, message="another try")
        broken.active = False
        for queue in (bench.queue, bench.other):
            eventually(partial(queue.has_letters_of, 1, 2, 3), SOON, message="the last dead letter")

    warnings = [record for record in caplog.records if "are out of attempts, cannot be stored" in record.getMessage()]
    assert {bool(record.exc_info) for record in warnings} == {not isinstance(error, CallTimeout)}
    assert any("default" in record.getMessage() for record in warnings)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_advisory_whose_dead_letter_cannot_be_stored_comes_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(exhausted, "FIRST_SWEEP", 600.0)
    monkeypatch.setattr(exhausted, "SWEEP_INTERVAL", 600.0)
    monkeypatch.setattr(exhausted, "MIN_DELAY", 50)
    bench.broker.setup()
    broken = Broken(monkeypatch, lambda failure: failure.delivery.origin.sequence == 1, error)
    bench.queue.park(2)

    bench.broker.consume("other")
    eventually(lambda: broken.tried >= 3, SOON, message="another try")
    assert {letter.sequence for letter in bench.queue.letters()} == {2}
    broken.active = False
    eventually(lambda: bench.queue.left() == 0, SOON, message="the dead letter")

    warnings = [
        record for record in caplog.records if "that is out of attempts cannot be stored" in record.getMessage()
    ]
    assert len([record for record in warnings if record.levelname == "WARNING"]) == 1
    eventually(lambda: bench.client.count(bench.broker.names.advisories) == 0, SOON, message="the advisories' end")


def old_layout(bench: Bench) -> None:
    """Make the stream of advisories and its consumer as earlier versions did."""
    names = bench.broker.names
    subject = f"{ADVISORY}.*.{names.consumer}"
    config = {
        "name": names.advisories,
        "subjects": [subject],
        "retention": "workqueue",
        "duplicate_window": 120 * 10**9,
    }
    bench.client.api(f"STREAM.CREATE.{names.advisories}", config)
    consumer = {"durable_name": "keeper", "name": "keeper", "filter_subject": subject, "ack_policy": "explicit"}
    request = {"stream_name": names.advisories, "config": consumer}
    bench.client.api(f"CONSUMER.CREATE.{names.advisories}.keeper.{subject}", request)


@pytest.mark.parametrize("layout", ["new", "old"])
def test_dead_letter_comes_within_seconds_although_1200_advisories_wait_that_nobody_can_handle(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(exhausted, "FIRST_SWEEP", 600.0)
    monkeypatch.setattr(exhausted, "SWEEP_INTERVAL", 600.0)
    names, client = bench.broker.names, bench.client
    if layout == "old":
        old_layout(bench)
    else:
        bench.broker.setup()
    elsewhere, gone = names.stream("elsewhere"), names.stream("gone")
    client.api(f"STREAM.CREATE.{elsewhere}", {"name": elsewhere, "subjects": [elsewhere]})
    for number in range(600):
        advise(client, gone, names.consumer, number + 1)
        advise(client, elsewhere, names.consumer, number + 1)
    eventually(lambda: client.count(names.advisories) == 1_200, SOON, message="the advisories")

    bench.broker.consume("default")
    eventually(lambda: client.consumer(names.advisories, "keeper")["num_pending"] == 0, SOON)
    bench.other.park(1)
    eventually(bench.other.letters, 5_000, message="the dead letter")

    # Those about the stream that is gone are dropped, the others wait for a worker that knows their queue.
    eventually(lambda: client.count(names.advisories) == 600, SOON, message="the end of advisories about nothing")


def test_flood_of_advisories_about_one_queue_leaves_those_about_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisories, "MAX_PER_QUEUE", 10)
    names = bench.broker.names
    bench.broker.setup()
    advise(bench.client, names.stream("quiet"), names.consumer)
    for number in range(50):
        advise(bench.client, names.stream("loud"), names.consumer, number + 1)

    told = [json.loads(found.body) for found in bench.client.stored(names.advisories)]
    assert [advisory["stream"] for advisory in told] == [names.stream("quiet"), *[names.stream("loud")] * 10]


@pytest.mark.parametrize("layout", ["new", "old"])
def test_advisories_are_bounded(bench: Bench, layout: str) -> None:
    if layout == "old":
        old_layout(bench)
    bench.broker.setup()

    names = bench.broker.names
    config = bench.client.stream(names.advisories)["config"]
    assert config["max_age"] == 86_400 * 10**9
    assert (config["max_msgs"], config["max_msgs_per_subject"]) == (100_000, 10_000)
    assert bench.client.consumer(names.advisories, "keeper")["config"]["max_ack_pending"] == -1


def test_bounds_that_an_operator_chose_are_left_alone(bench: Bench) -> None:
    old_layout(bench)
    names, client = bench.broker.names, bench.client
    config = client.stream(names.advisories)["config"] | {"max_age": 3_600 * 10**9, "max_msgs": 5}
    client.api(f"STREAM.UPDATE.{names.advisories}", config)
    bench.broker.setup()

    config = client.stream(names.advisories)["config"]
    assert (config["max_age"], config["max_msgs"], config["max_msgs_per_subject"]) == (3_600 * 10**9, 5, 10_000)


@pytest.mark.parametrize("again", ["stream", "consumer", "nothing"])
def test_advisory_that_no_longer_holds_does_not_end_a_message(bench: Bench, again: str) -> None:
    queue, names = bench.queue, bench.broker.names
    bench.broker.setup()
    queue.send()
    advise(bench.client, queue.stream, queue.consumer)
    if again == "stream":
        bench.client.api(f"STREAM.DELETE.{queue.stream}")
        bench.broker.close()
        queue.send()
    elif again == "consumer":
        bench.client.api(f"CONSUMER.DELETE.{queue.stream}.{queue.consumer}")
    bench.broker.setup()

    bench.broker.consume("other")
    eventually(lambda: bench.client.count(names.advisories) == 0, SOON, message="the end of the advisory")

    assert queue.left() == 1
    assert not queue.letters()


UNREADABLE = [
    *(b"", b"x", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000),
    b'{"stream": 5, "consumer": "c", "stream_seq": 1, "deliveries": 1, "timestamp": "2026-01-01T00:00:00Z"}',
    b'{"stream": "a b", "consumer": "c", "stream_seq": 1, "deliveries": 1, "timestamp": "2026-01-01T00:00:00Z"}',
    b'{"stream": "s", "consumer": "c", "stream_seq": true, "deliveries": 1, "timestamp": "2026-01-01T00:00:00Z"}',
    b'{"stream": "s", "consumer": "c", "stream_seq": 1, "deliveries": -1, "timestamp": "2026-01-01T00:00:00Z"}',
    b'{"stream": "s", "consumer": "c", "stream_seq": 1, "deliveries": 1, "timestamp": "yesterday"}',
    b'{"stream": "s", "consumer": "c", "stream_seq": 1, "deliveries": 1, "timestamp": 5}',
]


def test_advisories_that_cannot_be_read_are_dropped(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    names = bench.broker.names
    bench.broker.setup()
    for body in UNREADABLE:
        bench.client.publish(f"{ADVISORY}.s.{names.consumer}", body)

    bench.broker.consume("default")
    eventually(lambda: bench.client.count(names.advisories) == 0, SOON, message="the end of the advisories")

    [dropped] = [record for record in caplog.records if "cannot be read and is dropped" in record.getMessage()]
    assert dropped.levelname == "ERROR"


def test_dead_letter_of_a_crash_loop_counts_the_attempts_that_were_made(application: Application) -> None:
    message = application.send("crash", "kill", actor="run_tight")
    while not application.dead_letters("tight"):
        with application.workers() as workers:
            workers.wait_until(lambda: bool(application.dead_letters("tight")))

    [letter] = application.dead_letters("tight")
    assert letter.message_id == message.message_id
    assert (letter.reason, letter.attempts) == ("attempts exceeded", len(application.notes("start", "crash")))
