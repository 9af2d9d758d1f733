"""The reading end against a stand-in for nats-py's client, which only notes what its parser calls."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import pairwise
from types import FrameType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from dramatiq_jetstream.client.framing import InboxFilter, Receivers

OURS, THEIRS = b"1", b"2"

Call = tuple[object, ...]


class NotingClient:
    """Notes what nats-py's parser, or a receiver, is told."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, header: bytes | None) -> None:
        self.calls.append(("theirs", sid, subject, reply, header or b"", data))

    async def _process_ping(self) -> None:
        self.calls.append(("ping",))

    async def _process_pong(self) -> None:
        self.calls.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.calls.append(("error", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.calls.append(("info", info))

    def receive(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        self.calls.append(("ours", subject, reply, headers, body))


class TheirEnd(asyncio.Protocol):
    """nats-py's end of the stream: its parser, at once instead of in a task."""

    def __init__(self, client: NotingClient) -> None:
        self.parser = Parser(client)

    def data_received(self, data: bytes) -> None:
        parsing = self.parser.parse(data)
        with pytest.raises(StopIteration):
            parsing.send(None)


class Reader:
    """A sieve with a receiver for one of two subscriptions."""

    def __init__(self) -> None:
        self.client = NotingClient()
        self.receivers: Receivers = {OURS: self.client.receive}
        self.sieve = InboxFilter(TheirEnd(self.client), self.receivers)

    def read(self, *chunks: bytes) -> list[Call]:
        """Take chunks, and return what was called so far."""
        for chunk in chunks:
            self.sieve.data_received(chunk)
        return self.client.calls


class Command(NamedTuple):
    """What the server sends, and the call that is to come of it, if one is."""

    wire: bytes
    call: Call | None


def message(
    body: bytes, *, sid: bytes = OURS, subject: bytes = b"a.b", reply: bytes = b"", headers: bytes = b""
) -> Command:
    """A message of a subscription, as MSG, or as HMSG if it has headers."""
    name, sizes = (b"HMSG", [len(headers), len(headers) + len(body)]) if headers else (b"MSG", [len(body)])
    fields = [name, subject, sid, *([reply] if reply else []), *[b"%d" % size for size in sizes]]
    wire = b" ".join(fields) + b"\r\n" + headers + body + b"\r\n"
    if sid == OURS:
        return Command(wire, ("ours", subject, reply, headers, body))
    return Command(wire, ("theirs", int(sid), subject, reply, headers, body))


PING = Command(b"PING\r\n", ("ping",))

BODIES = st.binary() | st.sampled_from([b"\r\n", b"PING\r\n", message(b"inner").wire, b"x" * 5_000])
HEADERS = st.sampled_from([b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0\r\nKey: MSG a 1 5\r\n\r\n"])
COMMANDS = st.lists(
    st.builds(
        message,
        BODIES,
        sid=st.sampled_from([OURS, THEIRS]),
        subject=st.sampled_from([b"a", b"_INBOX.x.17", "grüße".encode()]),
        reply=st.sampled_from([b"", b"$JS.ACK.s.c.1.2.3.4.5"]),
        headers=HEADERS,
    )
    | st.sampled_from(
        [
            PING,
            Command(b"PONG\r\n", ("pong",)),
            Command(b"+OK\r\n", None),
            Command(b'INFO {"max_payload": 5}\r\n', ("info", {"max_payload": 5})),
            Command(b"-ERR 'Permissions Violation'\r\n", ("error", "'permissions violation'")),
        ]
    ),
    max_size=8,
)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Data in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


@given(COMMANDS, st.lists(st.integers(min_value=0), max_size=12))
def test_any_cut_of_the_stream_gives_the_same_calls(commands: list[Command], places: list[int]) -> None:
    data = b"".join(command.wire for command in commands)

    calls = Reader().read(*cut(data, places))

    assert calls == [command.call for command in commands if command.call]


@given(COMMANDS)
def test_stream_may_arrive_byte_by_byte(commands: list[Command]) -> None:
    commands = [command for command in commands if len(command.wire) < 300]
    data = b"".join(command.wire for command in commands)

    calls = Reader().read(*(data[place : place + 1] for place in range(len(data))))

    assert calls == [command.call for command in commands if command.call]


def test_each_command_is_handled_as_soon_as_it_is_complete() -> None:
    reader = Reader()
    first, second = message(b"first"), message(b"second", headers=b"NATS/1.0\r\n\r\n")

    assert reader.read(first.wire + second.wire[:-1]) == [first.call]
    assert reader.read(second.wire[-1:]) == [first.call, second.call]


def test_small_command_is_not_held_back_after_a_large_message_came_in_pieces() -> None:
    reader = Reader()
    large, small = message(b"x" * 100_000), message(b"small")

    reader.read(*cut(large.wire, [50_000]))
    reader.read(*cut(PING.wire, [2]))
    calls = reader.read(*cut(small.wire, [4]))

    assert calls == [large.call, PING.call, small.call]


@pytest.mark.parametrize("sid", [OURS, THEIRS])
def test_large_message_in_small_pieces_is_looked_through_a_few_times_only(sid: bytes) -> None:
    large = message(b"x" * 1_000_000, sid=sid)
    requirements = [large.wire[place : place + 1_000] for place in range(0, len(large.wire), 1_000)]
    reader = Reader()
    searched = 0

    def count(frame: FrameType, event: str, called: Any) -> None:
        nonlocal searched
        if event == "c_call" and isinstance(getattr(called, "__self__", None), (bytes, bytearray)):
            searched += len(called.__self__)

    sys.setprofile(count)
    try:
        calls = reader.read(*requirements)
    finally:
        sys.setprofile(None)

    assert calls == [large.call]
    assert len(large.wire) <= searched <= 5 * len(large.wire)


def test_messages_keep_their_order_whoever_takes_them() -> None:
    commands = [message(b"%d" % number, sid=(OURS, THEIRS)[number % 2]) for number in range(10)]

    calls = Reader().read(b"".join(command.wire for command in commands))

    assert calls == [command.call for command in commands]


def test_message_without_a_receiver_goes_to_nats_pys_parser() -> None:
    reader = Reader()
    del reader.receivers[OURS]

    assert reader.read(message(b"body", reply=b"r").wire) == [("theirs", 1, b"a.b", b"r", b"", b"body")]


def test_receiver_that_raises_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader()
    reader.receivers[b"3"] = lambda *message: 1 / 0
    taken = message(b"taken")

    calls = reader.read(message(b"refused", sid=b"3", subject=b"bad").wire + taken.wire + PING.wire)

    assert calls == [taken.call, PING.call]
    [record] = caplog.records
    assert record.getMessage() == "A message on 'bad' could not be taken."
    assert record.levelname == "CRITICAL"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_receiver_may_end_its_own_subscription() -> None:
    reader = Reader()
    reader.receivers[OURS] = lambda *message: reader.receivers.pop(OURS)

    calls = reader.read(message(b"first").wire + message(b"second").wire)

    assert calls == [("theirs", 1, b"a.b", b"", b"", b"second")]


@pytest.mark.parametrize(
    "wire",
    [
        b"MSG a 1 x\r\n",
        b"MSG a 1 \r\n",
        b"MSG a 1 -4\r\nPING\r\n",
        b"MSG a 1 -100000\r\n",
        b"MSG a 1 1_0\r\n0123456789\r\n",
        b"HMSG a 1 x 5\r\n12345\r\n",
        b"HMSG a 1 -1 5\r\n12345\r\n",
        b"HMSG a 1 6 5\r\n12345\r\n",
        b"HMSG a 1 5\r\n12345\r\n",
        b"MSG 5\r\n12345\r\n",
        b"MSG a 1 r s 5\r\n12345\r\n",
        b"MSG\r\n",
        b"NONSENSE\r\n",
        b"\r\n",
    ],
)
def test_what_is_not_the_servers_language_raises(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        Reader().read(wire)


def test_what_befalls_the_connection_is_passed_on() -> None:
    passed: list[str] = []

    class Inner(asyncio.Protocol):
        def eof_received(self) -> bool:
            passed.append("eof")
            return True

        def connection_lost(self, exc: Exception | None) -> None:
            passed.append(f"lost {exc}")

        def pause_writing(self) -> None:
            passed.append("pause")

        def resume_writing(self) -> None:
            passed.append("resume")

    sieve = InboxFilter(Inner(), {})
    sieve.pause_writing()
    sieve.resume_writing()
    assert sieve.eof_received() is True
    sieve.connection_lost(ConnectionResetError("by peer"))

    assert passed == ["pause", "resume", "eof", "lost by peer"]
