"""The socket that any thread may write to, over a pair of sockets: order, full buffers, writers that are lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from dramatiq_jetstream.client import shared_socket
from dramatiq_jetstream.client.shared_socket import HIGH_WATER, SharedSocket
from tests.support.interrupts import interrupt_at


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, other = socket.socketpair()
    other.setblocking(False)
    with mine, other:
        yield mine, other


def received(other: socket.socket) -> bytes:
    """What has arrived by now."""
    found = b""
    try:
        while data := other.recv(65_536):
            found += data
    except BlockingIOError:
        pass
    return found


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the condition did not come true")


def run(pair: tuple[socket.socket, socket.socket], work: Callable[[SharedSocket, list[str]], Awaitable[None]]) -> None:
    """Run a coroutine with a shared socket, and a list that says whether its connection was given up."""

    async def main() -> None:
        given_up: list[str] = []
        shared = SharedSocket(pair[0].fileno(), lambda: given_up.append("given up"))
        try:
            await work(shared, given_up)
        finally:
            shared.close()

    asyncio.run(main())


def test_bytes_arrive_in_order_from_the_loop_and_from_threads(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work(shared: SharedSocket, given_up: list[str]) -> None:
        shared.write(b"1")
        assert await asyncio.to_thread(shared.write_at_once, b"2")
        shared.write(b"3")
        assert received(pair[1]) == b"123"
        assert not given_up

    run(pair, work)


def test_full_socket_keeps_the_rest_and_refuses_to_write_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work(shared: SharedSocket, given_up: list[str]) -> None:
        payload = bytes(range(256)) * (4 * HIGH_WATER // 256)
        assert shared.write_at_once(payload)
        assert shared.unsent >= HIGH_WATER
        assert not shared.write_at_once(b"end")
        shared.write(b"end")
        arrived = bytearray()

        def read_all() -> bool:
            arrived.extend(received(pair[1]))
            return len(arrived) == len(payload) + 3

        await until(read_all)
        await shared.drain()
        assert arrived == payload + b"end"
        assert not given_up

    run(pair, work)


def test_writer_that_is_lost_loses_its_turn(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_socket, "MAX_RETRIES", 20)

    async def work(shared: SharedSocket, given_up: list[str]) -> None:
        shared._turn["owner"] = object()
        assert not shared.write_at_once(b"1")
        shared.write(b"2")
        await until(lambda: bool(given_up))
        assert received(pair[1]) == b""

    run(pair, work)


def test_connection_is_given_up_after_half_a_command(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work(shared: SharedSocket, given_up: list[str]) -> None:
        shared._torn = True
        assert not shared.write_at_once(b"1")
        shared.write(b"2")
        assert given_up
        assert received(pair[1]) == b""

    run(pair, work)


def test_exception_anywhere_in_a_write_leaves_it_whole_or_the_connection_given_up(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_socket, "MAX_RETRIES", 20)
    outcomes: set[str] = set()

    async def hit(shared: SharedSocket, given_up: list[str], line: int) -> str | None:
        place = interrupt_at(line, lambda: shared.write_at_once(b"[half]"), "client/shared_socket.py")
        shared.write(b"[whole]")
        await until(lambda: bool(given_up) or shared.unsent == 0)
        found = received(pair[1])
        assert given_up or found in (b"[whole]", b"[half][whole]")
        outcomes.add("given up" if given_up else found.decode())
        return place

    for line in range(100):
        places: list[str | None] = []

        async def work(shared: SharedSocket, given_up: list[str], line: int = line) -> None:
            places.append(await hit(shared, given_up, line))  # noqa: B023

        run(pair, work)
        if places == [None]:
            break
    assert outcomes == {"given up", "[whole]", "[half][whole]"}


def test_nothing_is_written_once_it_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work(shared: SharedSocket, given_up: list[str]) -> None:
        shared.close()
        shared.write(b"1")
        assert not shared.write_at_once(b"2")
        assert shared.descriptor == -1
        assert received(pair[1]) == b""

    run(pair, work)
