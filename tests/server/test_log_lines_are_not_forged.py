"""Whatever a message holds: no line of the log is another's, and none commands the terminal."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import dramatiq
import pytest
from dramatiq import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.logs import get_logger
from tests.support.admin import Admin
from tests.support.raw import publish_raw
from tests.support.waiting import eventually
from tests.support.workers import run_worker

HOSTILE = "no\n[2026-01-01] [CRITICAL] forged\r\x1b[31m\x9b\x00\u2028\u2029\x85\x7f"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def lines(records: list[logging.LogRecord]) -> list[str]:
    """What is printed of records, each line that begins one marked."""
    formatter = logging.Formatter("=%(message)s")
    return [line for record in records for line in formatter.format(record).split("\n")]


def check(records: list[logging.LogRecord]) -> None:
    ours = [record for record in records if record.name.split(".")[0] in ("dramatiq", "dramatiq_jetstream", "bw_tasks")]
    assert ours
    written = lines(ours)
    assert [line for line in written if FORBIDDEN.search(line)] == []
    # What follows a record's first line is its traceback, which is indented.
    assert [line for line in written if not line.startswith(("=", "  "))] == []
    assert sum(line.startswith("=") for line in written) == len(ours)


@pytest.fixture
def failing(broker: JetStreamBroker, admin: Admin, caplog: pytest.LogCaptureFixture) -> Iterator[JetStreamBroker]:
    """A broker whose actor raises what it is given; at the end, its log is looked at."""
    caplog.set_level(logging.DEBUG)

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def fail(*args: Any) -> None:
        raise type(HOSTILE.replace("\x00", ""), (Exception,), {})(*args)

    broker.setup()
    yield broker
    check(caplog.get_records("call"))


def await_letters(broker: JetStreamBroker, count: int) -> None:
    eventually(lambda: len(list(broker.dead_letters.list())) >= count, 30_000, message="the dead letters")


def test_messages_of_hostile_names_and_arguments(failing: JetStreamBroker) -> None:
    messages: list[Message[Any]] = [
        Message("default", "fail", (HOSTILE,), {}, {}),
        Message("default", "fail", (), {HOSTILE: HOSTILE}, {}),
        Message("default", "fail", (HOSTILE,), {}, {HOSTILE: HOSTILE}, message_id=HOSTILE),
        Message("default", HOSTILE, (HOSTILE,), {}, {}),
    ]
    for message in messages:
        subject = failing.names.work_subject("default", "fail")
        failing.connection.session().post(subject, message.encode())
    with run_worker(failing):
        await_letters(failing, 3)


def test_raw_messages_with_hostile_headers_and_bodies(failing: JetStreamBroker, nats_url: str) -> None:
    subject = failing.names.work_subject("default", "fail")
    encoded = quote(HOSTILE).encode()
    named = [b"Dramatiq-Actor: %b", b"Dramatiq-Message-Id: %b", b"Dramatiq-Traceback: %b", b"%b: x", b"Nats-Msg-Id: %b"]
    for header in named:
        publish_raw(nats_url, subject, header % encoded, HOSTILE.encode())
    for value in (b"\x1b[31m\x9b", b"\xff\xfe", b"\xe2\x80\xa8"):
        publish_raw(nats_url, subject, b"Dramatiq-Actor: %b" % value, b"%b" % value)
    for body in (f'"{HOSTILE}', f"{{{HOSTILE}: 1}}", json.dumps({"queue_name": HOSTILE, "actor_name": HOSTILE})):
        publish_raw(nats_url, subject, b"X: y", body.encode())
    with run_worker(failing):
        await_letters(failing, len(named) + 6)


def test_hooks_that_fail_with_hostile_texts(failing: JetStreamBroker) -> None:
    class Hostile(dramatiq.Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
            raise ValueError(HOSTILE)

        after_process_message = after_enqueue = before_process_message  # type: ignore[assignment]

        def __repr__(self) -> str:
            return HOSTILE

    failing.add_middleware(Hostile())
    failing.get_actor("fail").send(HOSTILE)
    with run_worker(failing):
        await_letters(failing, 1)


class Odd:
    """An object that shows itself as a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters()), template=st.sampled_from(["%s", "%r", "%a", "%.20s", "%-9s"]))
def test_any_text_is_one_line(caplog: pytest.LogCaptureFixture, text: str, template: str) -> None:
    caplog.clear()
    logger = get_logger("dramatiq_jetstream.fuzz")
    for value in (text, Odd(text), ValueError(text), [text], {text: text}, text.encode("utf-8", "surrogatepass")):
        try:
            raise RuntimeError(text)
        except RuntimeError:
            logger.warning(f"{template} and {template}", value, text, exc_info=True)
        logger.warning("%(name)s", {"name": value})
    check(caplog.get_records("call"))
