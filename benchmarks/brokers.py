"""What is measured: our broker, its peers, and the raw bounds beside them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dramatiq import Broker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import dq_name, xq_name

#: Takes where the server is, and a name that keeps what it makes there apart.
Make = Callable[[str, str], Broker]
Clean = Callable[[Any], None]


@dataclass(frozen=True)
class Contender:
    """Something that is measured.

    Parameters:
      title(str): Its name in tables and plots.
      server(str): The kind of server it needs, if any.
      needs(tuple[str, ...]): The programs and packages it needs.
      make(Callable): Makes the dramatiq broker, if it is one.
      clean(Callable): Removes what that made on the server.
      module(str): Of those that are no dramatiq brokers, the module of their measures.
    """

    title: str
    server: str | None = None
    needs: tuple[str, ...] = ()
    make: Make | None = None
    clean: Clean = Broker.close
    module: str | None = None


def _make_stub(url: str, token: str) -> Broker:
    return StubBroker()


def _make_redis(url: str, token: str) -> Broker:
    from dramatiq.brokers.redis import RedisBroker

    return RedisBroker(url=url, namespace=token)


def _make_redis_streams(url: str, token: str) -> Broker:
    from dramatiq_redis_streams import StreamsBroker

    broker: Broker = StreamsBroker(url=url, namespace=token)
    return broker


def _make_rabbitmq(url: str, token: str) -> Broker:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    return RabbitmqBroker(url=url)


def _make_confirmed_rabbitmq(url: str, token: str) -> Broker:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    return RabbitmqBroker(url=url, confirm_delivery=True)


def _make_jetstream(url: str, token: str) -> Broker:
    from dramatiq_jetstream import JetStreamBroker

    return JetStreamBroker(url, namespace=token)


def _clean_redis(broker: Any) -> None:
    for key in broker.client.scan_iter(match=f"{broker.namespace}*", count=1_000):
        broker.client.delete(key)
    broker.close()


def _clean_rabbitmq(broker: Any) -> None:
    for queue in list(broker.queues):
        for name in (queue, dq_name(queue), xq_name(queue)):
            broker.channel.queue_delete(name)
    broker.close()


def _clean_jetstream(broker: Any) -> None:
    broker.close()
    asyncio.run(delete_streams(broker.settings.url, broker.names.namespace))


def forbid_uvloop(name: str) -> None:
    """Have a broker that is measured without uvloop not find it.  To be called before anything else imports it."""
    if name == "jetstream-asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]


async def delete_streams(url: str, token: str) -> None:
    """Delete every stream on a server whose name holds a token."""
    import nats

    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        for info in await jetstream.streams_info():
            if info.config.name and token in info.config.name:
                await jetstream.delete_stream(info.config.name)
    finally:
        await client.close()


_REDIS = ("redis-server", "redis")
_RABBITMQ = ("rabbitmq-server", "epmd", "pika")

CONTENDERS = {
    "jetstream": Contender("JetStreamBroker (uvloop)", "nats", ("uvloop",), _make_jetstream, _clean_jetstream),
    "jetstream-asyncio": Contender("JetStreamBroker (asyncio)", "nats", (), _make_jetstream, _clean_jetstream),
    "stub": Contender("StubBroker (in memory)", make=_make_stub),
    "redis": Contender("RedisBroker", "redis", _REDIS, _make_redis, _clean_redis),
    "redis-streams": Contender(
        "dramatiq-redis-streams", "redis", (*_REDIS, "dramatiq_redis_streams"), _make_redis_streams, _clean_redis
    ),
    "rabbitmq": Contender("RabbitmqBroker (no confirms)", "rabbitmq", _RABBITMQ, _make_rabbitmq, _clean_rabbitmq),
    "rabbitmq-confirms": Contender(
        "RabbitmqBroker (confirms)", "rabbitmq", _RABBITMQ, _make_confirmed_rabbitmq, _clean_rabbitmq
    ),
    "taskiq-nats": Contender("taskiq-nats", "nats", ("taskiq_nats",), module="taskiq"),
    "taskiq-nats-threads": Contender("taskiq-nats (8 threads)", "nats", ("taskiq_nats",), module="taskiq"),
    "raw-socket": Contender("bound: publish by a blocking socket", "nats", module="raw"),
    "raw-core": Contender("bound: core publish, no acks", "nats", module="raw"),
    "raw-pull": Contender("bound: bare pull loop, one inbox", "nats", module="raw"),
    "raw-loop": Contender("bound: the bare loop", module="raw"),
    "bw-tasks": Contender("bw_tasks", "nats"),
    "imagemagick": Contender("convert -monochrome", needs=("convert",)),
}
