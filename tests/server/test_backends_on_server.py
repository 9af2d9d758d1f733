"""Results and rate limits as the server sees them: time to live, waiting, lost answers, buckets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.rate_limits import Barrier, WindowRateLimiter
from dramatiq.results import ResultFailure, Results, ResultTimeout

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.errors import (
    BrokerConnectionError,
    ConfigMismatch,
    ConnectionClosed,
    MessageTooLarge,
    StreamNotFound,
)
from dramatiq_jetstream.rate_limits import JetStreamBackend as Limits
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from dramatiq_jetstream.streams.key_value import KeyValue
from tests.support.admin import Admin
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker

TTL = 60_000


@pytest.fixture
def results(broker: JetStreamBroker) -> ResultBackend:
    return ResultBackend(broker=broker)


@pytest.fixture
def limits(broker: JetStreamBroker) -> Limits:
    return Limits(broker=broker)


@pytest.fixture
def far(proxy: Proxy, namespace: str) -> Iterator[Limits]:
    """A backend behind a breakable link, in the same bucket as the near one."""
    backend = Limits(url=proxy.url, bucket=f"{namespace}-rate-limits", timeout=20_000)
    yield backend
    backend.close()


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="answer", args=(), kwargs={}, options={})


def test_buckets_bear_the_namespace_of_the_broker(
    broker: JetStreamBroker, results: ResultBackend, limits: Limits, admin: Admin, namespace: str
) -> None:
    results.store_result(message(), 1, TTL)
    limits.add("key", 1, TTL)

    for bucket in ("results", "rate-limits"):
        config = admin.stream(f"KV_{namespace}-{bucket}")["config"]
        assert config["max_msgs_per_subject"] == 1
        assert config["num_replicas"] == 1
        assert config["allow_msg_ttl"]


@pytest.mark.parametrize(("ttl", "kept"), [(1, "1"), (999, "1"), (1_000, "1"), (1_001, "2"), (600_000, "600")])
def test_time_to_live_is_rounded_up_to_whole_seconds(
    results: ResultBackend, limits: Limits, admin: Admin, namespace: str, ttl: int, kept: str
) -> None:
    results.store_result(message(), 1, ttl)
    limits.add("key", 1, ttl)

    for bucket in ("results", "rate-limits"):
        [stored] = admin.stored(f"KV_{namespace}-{bucket}")
        assert stored.headers["Nats-TTL"] == kept


def test_waiting_for_a_result_does_not_poll(results: ResultBackend, admin: Admin, namespace: str) -> None:
    sent = message()
    results.store_result(message(), "makes the bucket", TTL)
    asked = admin.subscribe(f"$JS.API.DIRECT.GET.KV_{namespace}-results.>")
    waiting = in_background(lambda: results.get_result(sent, block=True, timeout=30_000))
    asked.get(timeout=10)
    with pytest.raises(ResultTimeout):
        results.get_result(message(), block=True, timeout=900)
    # Of the two waits there is one question each, and one more when the time of the second was over.
    assert asked.qsize() in (1, 2)

    results.store_result(sent, "here", TTL)
    assert waiting.result(10) == "here"


def usual_delay(results: ResultBackend) -> float:
    """The median of the seconds from storing a result to its return from a wait."""
    delays = []
    for number in range(10):
        sent = message()
        waiting = in_background(lambda sent=sent: (results.get_result(sent, block=True), time.monotonic()))
        results._bucket.values.wait("never stored", 5)
        results.store_result(sent, number, TTL)
        stored_at = time.monotonic()
        value, seen_at = waiting.result(10)
        assert value == number
        delays.append(seen_at - stored_at)

    return sorted(delays)[len(delays) // 2]


def test_result_is_seen_as_soon_as_it_is_stored(results: ResultBackend) -> None:
    # A wait that polls, as dramatiq's do, needs 100 ms and more however idle the machine is.
    eventually(lambda: usual_delay(results) < 0.05, message="a wait that was told")


@pytest.mark.parametrize("timeout", [50, 250, 700])
def test_waiting_takes_as_long_as_it_was_told(results: ResultBackend, timeout: int) -> None:
    results.store_result(message(), "makes the bucket", TTL)
    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        results.get_result(message(), block=True, timeout=timeout)

    assert time.monotonic() - began >= timeout / 1000
    assert time.monotonic() - began < timeout / 1000 + 5


def test_result_stored_while_the_link_of_the_waiter_is_cut_is_seen(
    results: ResultBackend, proxy: Proxy, namespace: str
) -> None:
    far = ResultBackend(url=proxy.url, bucket=f"{namespace}-results")
    sent = message()
    results.store_result(message(), "makes the bucket", TTL)
    waiting = in_background(lambda: far.get_result(sent, block=True, timeout=60_000))
    with pytest.raises(ResultTimeout):
        far.get_result(message(), block=True, timeout=50)
    proxy.cut()
    results.store_result(sent, "meanwhile", TTL)
    proxy.resume()

    assert waiting.result(30) == "meanwhile"
    far.close()


def test_closing_the_connection_ends_a_wait_with_an_error(nats_url: str, namespace: str, admin: Admin) -> None:
    backend = ResultBackend(url=nats_url, bucket=f"{namespace}-results")
    backend.store_result(message(), 1, TTL)
    waiting = in_background(lambda: backend.get_result(message(), block=True, timeout=60_000))
    with pytest.raises(ResultTimeout):
        backend.get_result(message(), block=True, timeout=50)
    backend.close()

    with pytest.raises(ConnectionClosed, match="closed by another thread"):
        waiting.result(10)


def test_result_that_is_too_large_fails_clearly_and_does_not_loop(
    broker: JetStreamBroker, results: ResultBackend, caplog: pytest.LogCaptureFixture
) -> None:
    broker.add_middleware(Results(backend=results))
    runs = []

    @dramatiq.actor(store_results=True, broker=broker)
    def large() -> str:
        runs.append(1)
        return "x" * 2_000_000

    sent = large.send()
    with run_worker(broker), pytest.raises(ResultFailure, match=r"MessageTooLarge: .*max_payload"):
        sent.get_result(backend=results, block=True, timeout=20_000)
    broker.join("default", timeout=10_000)

    assert runs == [1]
    assert broker.get_queue_message_counts("default") == (0, 0, 0)


def test_result_that_is_too_large_raises_where_it_is_stored(results: ResultBackend) -> None:
    with pytest.raises(MessageTooLarge, match="max_payload"):
        results.store_result(message(), "x" * 2_000_000, TTL)


MARKERS = [{"KV-Operation": "DEL"}, {"KV-Operation": "PURGE"}, {"Nats-Marker-Reason": "MaxAge"}]


@pytest.mark.parametrize("headers", MARKERS)
def test_key_that_left_a_marker_can_be_made_anew(
    limits: Limits, results: ResultBackend, admin: Admin, namespace: str, headers: dict[str, str]
) -> None:
    limits.add("key", 5, TTL)
    admin.store(f"$KV.{namespace}-rate-limits.key", headers=headers)

    assert limits.incr("key", 1, 1, TTL)
    assert not limits.add("key", 1, TTL)
    admin.store(f"$KV.{namespace}-rate-limits.key", headers=headers)
    assert limits.add("key", 1, TTL)


def test_result_that_was_deleted_is_missing(results: ResultBackend, admin: Admin, namespace: str) -> None:
    sent = message()
    results.store_result(sent, 1, TTL)
    admin.store(f"$KV.{namespace}-results.{results.build_message_key(sent)}", headers={"KV-Operation": "DEL"})

    with pytest.raises(ResultTimeout):
        results.get_result(sent, block=True, timeout=50)


CHANGES: list[Callable[[Limits], bool]] = [
    lambda backend: backend.add("key", 7, TTL),
    lambda backend: backend.incr("key", 7, 7, TTL),
    lambda backend: backend.incr_and_sum("key", lambda: ["key"], 7, 7, TTL),
]


@pytest.mark.parametrize("change", CHANGES, ids=["add", "incr", "incr_and_sum"])
@pytest.mark.parametrize("cut", [False, True], ids=["answer lost", "link cut"])
@pytest.mark.parametrize("others", [0, 3], ids=["alone", "others wrote since"])
def test_write_that_is_repeated_because_its_answer_was_lost_counts_once(
    limits: Limits,
    far: Limits,
    proxy: Proxy,
    admin: Admin,
    namespace: str,
    change: Callable[[Limits], bool],
    cut: bool,
    others: int,
) -> None:
    far.wait("never", 1)
    written = admin.subscribe(f"$KV.{namespace}-rate-limits.key")
    pause = _pause_before_write(far)
    changing = in_background(lambda: change(far))
    pause.reached.wait(10)
    proxy.drop_replies()
    pause.go_on.set()
    written.get(timeout=10)
    if others:
        assert limits.incr("key", others, 100, TTL)
    if cut:
        proxy.cut()
    proxy.resume()

    assert changing.result(30)
    assert not limits.incr("key", 1, others + 7, TTL)
    assert limits.incr("key", 1, others + 8, TTL)


def test_write_that_is_repeated_because_it_got_lost_is_done_once(limits: Limits, far: Limits, proxy: Proxy) -> None:
    far.wait("never", 1)
    pause = _pause_before_write(far)
    changing = in_background(lambda: far.incr("key", 1, 100, TTL))
    pause.reached.wait(10)
    proxy.black_hole()
    pause.go_on.set()
    assert limits.incr("key", 5, 100, TTL)
    proxy.cut()
    proxy.resume()

    assert changing.result(30)
    assert not limits.incr("key", 1, 6, TTL)


class _Pause:
    """Where a backend stops before its first write."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()


def _pause_before_write(backend: Limits) -> _Pause:
    pause, values = _Pause(), backend._values
    write = values.write

    async def paused(*args: Any, **kwargs: Any) -> bool:
        pause.reached.set()
        await asyncio.to_thread(pause.go_on.wait, 20)
        return await write(*args, **kwargs)

    values.write = paused  # type: ignore[method-assign]
    return pause


def test_change_sees_the_keys_besides(limits: Limits) -> None:
    seen: list[bool] = []
    values = limits._values
    values.put("moved", b"x", TTL)

    def change(found: bytes | None, besides: Sequence[bytes | None]) -> None:
        seen.append(list(besides) == [b"x"])

    values.change("key", change, TTL, lambda _: ["moved"])

    assert seen == [True]


def test_barrier_of_others_is_woken_without_polling(limits: Limits, admin: Admin, namespace: str) -> None:
    barrier = Barrier(limits, "barrier")
    barrier.create(parties=2)
    asked = admin.subscribe(f"$JS.API.DIRECT.GET.KV_{namespace}-rate-limits.>")
    waiting = in_background(lambda: barrier.wait(timeout=30_000))
    asked.get(timeout=10)

    assert barrier.wait()
    assert waiting.result(10)
    assert asked.qsize() <= 3


def test_window_rate_limiter_looks_at_all_its_seconds_at_once(limits: Limits) -> None:
    limiter = WindowRateLimiter(limits, "limiter", limit=5, window=60)

    assert [limiter._acquire() for _ in range(6)] == [True] * 5 + [False]


def test_bucket_that_was_deleted_is_made_again(limits: Limits, admin: Admin, namespace: str) -> None:
    limits.add("key", 1, TTL)
    admin.api(f"STREAM.DELETE.KV_{namespace}-rate-limits")

    assert limits.add("key", 1, TTL)
    assert not limits.add("key", 1, TTL)


def test_missing_bucket_is_not_made_if_that_is_not_allowed(nats_url: str, namespace: str, admin: Admin) -> None:
    backend = Limits(url=nats_url, bucket=f"{namespace}-limits", declare="never")
    before = admin.streams()

    with pytest.raises(StreamNotFound, match=r"the bucket .* does not exist, and declare='never'"):
        backend.add("key", 1, TTL)
    assert admin.streams() == before
    backend.close()


def test_write_waits_for_a_bucket_that_nobody_answers_for(nats_url: str, admin: Admin, namespace: str) -> None:
    waiting = ResultBackend(url=nats_url, bucket=f"{namespace}-late", declare="never", timeout=30_000)
    maker = ResultBackend(url=nats_url, bucket=f"{namespace}-late")
    answered, other = message(), message()
    asked = admin.subscribe(f"$KV.{namespace}-late.>")
    writing = in_background(lambda: waiting.store_result(answered, "at last", TTL))
    asked.get(timeout=10)

    maker.store_result(other, 0, TTL)

    assert writing.result(30) is None
    assert maker.get_result(answered) == "at last"
    waiting.close()
    maker.close()


def test_existing_bucket_is_used_without_management_calls(nats_url: str, limits: Limits, namespace: str) -> None:
    limits.add("key", 1, TTL)
    backend = Limits(url=nats_url, bucket=f"{namespace}-rate-limits", declare="never")

    assert not backend.add("key", 1, TTL)
    assert backend.incr("key", 1, 2, TTL)
    backend.close()


def test_bucket_without_times_to_live_is_refused(nats_url: str, namespace: str, admin: Admin) -> None:
    admin.api(f"STREAM.CREATE.KV_{namespace}-x", {"name": f"KV_{namespace}-x", "subjects": [f"$KV.{namespace}-x.>"]})
    backend = Limits(url=nats_url, bucket=f"{namespace}-x")

    with pytest.raises(ConfigMismatch, match="allow_msg_ttl"):
        backend.add("key", 1, TTL)
    backend.close()


def test_backend_with_a_broker_shares_its_connection(broker: JetStreamBroker, results: ResultBackend) -> None:
    results.store_result(message(), 1, TTL)
    session = broker.connection.current()
    results.close()

    assert session is not None
    assert session.is_open
    assert results._bucket.values._connection is broker.connection


def test_backend_without_a_broker_opens_and_closes_its_own(nats_url: str, namespace: str, admin: Admin) -> None:
    backend = ResultBackend(url=nats_url, bucket=f"{namespace}-results")
    connection = backend._bucket.values._connection
    assert connection.current() is None
    backend.store_result(message(), 1, TTL)
    session = connection.current()
    backend.close()

    assert session is not None
    assert not session.is_open
    assert connection.current() is None


def test_backend_takes_a_broker_or_settings_but_not_both(broker: JetStreamBroker) -> None:
    for options in ({"url": "nats://127.0.0.1:1"}, {"timeout": 1}, {"token": "x"}):
        with pytest.raises(ValueError, match="not both"):
            Limits(broker=broker, **options)


def test_backend_refuses_connect_options_that_it_sets_itself() -> None:
    with pytest.raises(ValueError, match="error_cb"):
        Limits(error_cb=None)


def test_backend_says_so_when_no_server_answers() -> None:
    backend = Limits(url="nats://127.0.0.1:1", timeout=500)

    with pytest.raises(BrokerConnectionError, match="no NATS server answers"):
        backend.add("key", 1, TTL)


def test_backends_work_through_a_domain(tmp_path: Path) -> None:
    with NatsServer(config=f'jetstream {{ domain: hub, store_dir: "{tmp_path}" }}') as server:
        limits = Limits(url=server.url, domain="hub")
        results = ResultBackend(url=server.url, domain="hub")
        sent = message()
        results.store_result(sent, "through", TTL)

        assert limits.add("key", 1, TTL)
        assert not limits.incr("key", 1, 1, TTL)
        assert results.get_result(sent, block=True, timeout=1_000) == "through"
        limits.close()
        results.close()


def test_values_are_json_that_others_can_read(limits: Limits, admin: Admin, namespace: str) -> None:
    limits.add("key", 3, TTL)

    [stored] = admin.stored(f"KV_{namespace}-rate-limits")
    assert json.loads(stored.body) == 3


def test_key_that_is_too_busy_is_named(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    async def beaten(*args: Any, **kwargs: Any) -> bool:
        return False

    limits.add("makes the bucket", 1, TTL)
    session = limits._values._connection.session()
    monkeypatch.setattr(session, "timeout", 2)
    monkeypatch.setattr(KeyValue, "write", beaten)

    with pytest.raises(BrokerConnectionError, match=r"the key 'key' of bucket .* is so busy"):
        limits.add("key", 1, TTL)
