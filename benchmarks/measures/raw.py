"""The raw bounds: what NATS and the machine themselves allow, without any broker."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType

from ..bench import Bench, Calls, Figures
from ..brokers import delete_streams
from ..loops import run
from ..raw_socket import RawSocket
from ..spinning import spin
from .send import WARM_UP

#: About as long as an encoded dramatiq message without arguments.
BODY = b"x" * 200

#: How many messages the pull loop has asked for at most; it asks again for half of them.
CREDIT = 400


def send(bench: Bench) -> Figures:
    """Publish by a blocking socket and wait for the stream's receipt."""
    run(_make_stream(bench))
    with RawSocket(bench.url) as raw:
        times = []
        for _ in range(WARM_UP + bench.params["count"]):
            began = time.perf_counter()
            raw.publish(_subject(bench).encode(), BODY)
            times.append(time.perf_counter() - began)
    run(delete_streams(bench.url, bench.token))
    timed = times[WARM_UP:]
    return {"p50_us": statistics.median(timed) * 1e6, "one_rate": len(timed) / sum(timed)}


def batch(bench: Bench) -> Figures:
    """Publish without receipts."""
    return run(_publish(bench))


def drain(bench: Bench) -> Figures:
    """Pull and acknowledge messages on the loop that receives them, nothing else."""
    return run(_pull(bench))


def burn(bench: Bench) -> Figures:
    """Do the work of the CPU-bound actor in so many `processes`, without any broker."""
    count, processes = bench.params["count"], bench.params["processes"]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(spin, range(10 * processes), 1)
        began = time.perf_counter()
        pool.map(spin, range(count), count // (10 * processes))
        return {"runs": count / (time.perf_counter() - began)}


async def _make_stream(bench: Bench) -> None:
    async with _stream(bench):
        pass


async def _publish(bench: Bench) -> Figures:
    count = bench.params["count"]
    async with _stream(bench) as client:
        began = time.perf_counter()
        for _ in range(count):
            await client.publish(_subject(bench), BODY)
        await client.flush()
        seconds = time.perf_counter() - began
    await delete_streams(bench.url, bench.token)
    return {"rate": count / seconds}


async def _pull(bench: Bench) -> Figures:
    calls = Calls(bench.params["count"])
    async with _stream(bench) as client:
        with RawSocket(bench.url) as raw:
            raw.publish_all(_subject(bench), [BODY] * calls.total)
        await client.jetstream().add_consumer(bench.token, ConsumerConfig(durable_name="worker", max_ack_pending=-1))
        puller = _Puller(client, bench.token, calls)
        await puller.start()
        await asyncio.get_running_loop().run_in_executor(None, calls.wait)
    await delete_streams(bench.url, bench.token)
    return calls.figures()


class _Puller:
    """Keeps pull requests outstanding from one inbox."""

    def __init__(self, client: Client, stream: str, calls: Calls) -> None:
        self._client, self._calls = client, calls
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.worker"
        self._inbox = client.new_inbox()
        self._received = 0

    async def start(self) -> None:
        await self._client.subscribe(self._inbox, cb=self._receive)
        for _ in range(2):
            await self._ask()

    async def _ask(self) -> None:
        await self._client.publish(self._next, b'{"batch":%d}' % (CREDIT // 2), reply=self._inbox)

    async def _receive(self, message: Any) -> None:
        await self._client.publish(message.reply, b"+ACK")
        self._received += 1
        self._calls.add()
        if self._received % (CREDIT // 2) == 0:
            await self._ask()


@asynccontextmanager
async def _stream(bench: Bench) -> AsyncIterator[Client]:
    """A connection to a server with the measurement's stream."""
    client = await nats.connect(bench.url)
    try:
        await client.jetstream().add_stream(
            name=bench.token,
            subjects=[_subject(bench)],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
        )
        yield client
    finally:
        await client.close()


def _subject(bench: Bench) -> str:
    return f"{bench.token}.work"
