"""What is measured on whom: the cases of every target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

OURS = ("jetstream", "jetstream-asyncio")
REDIS = ("redis", "redis-streams")
DRAMATIQ = ("stub", *REDIS, "rabbitmq")


@dataclass(frozen=True)
class Series:
    """One measure with its amounts, taken of several brokers by turns.

    Parameters:
      name(str): What its figures are listed under.
      title(str): What is measured, for a reader.
      targets(tuple[str, ...]): The targets it is taken for.
      measure(str): The measure's name.
      brokers(tuple[str, ...]): Whom it is taken of.
      params(Mapping[str, int]): How much of everything.
      quick(Mapping[str, int]): What is less in a quick run.
      slow(Mapping[str, Mapping[str, int]]): What is less for a broker that would take long.
      lengthy(bool): Whether it takes so long that there are fewer rounds of it.
    """

    name: str
    title: str
    targets: tuple[str, ...]
    measure: str
    brokers: tuple[str, ...]
    params: Mapping[str, int]
    quick: Mapping[str, int] = field(default_factory=dict)
    slow: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    lengthy: bool = False

    def amounts(self, broker: str, *, quick: bool) -> dict[str, int]:
        """How much of everything a broker is given."""
        amounts = {**self.params, **(self.quick if quick else {})}
        less = self.slow.get(broker, {})
        return {name: min(amount, less.get(name, amount)) for name, amount in amounts.items()}


def _less(amount: int, *brokers: str) -> dict[str, dict[str, int]]:
    return {broker: {"count": amount} for broker in brokers}


_QUEUED = {"count": 20_000}
_FEWER = {"count": 6_000}

SERIES = (
    Series(
        "drain",
        "messages drained by one worker process, 8 threads",
        ("P1", "P9"),
        "drain",
        (*OURS, *DRAMATIQ, "taskiq-nats", "taskiq-nats-threads", "raw-pull"),
        _QUEUED,
        _FEWER,
        _less(4_000, *REDIS, "rabbitmq"),
    ),
    Series(
        "send",
        "send(), stored when it returns",
        ("P2",),
        "send",
        (*OURS, *DRAMATIQ, "rabbitmq-confirms", "taskiq-nats", "raw-socket"),
        {"count": 2_000},
        {"count": 1_000},
    ),
    Series(
        "batch",
        "batch enqueue, all stored (peers: one send() after the other)",
        ("P3",),
        "batch",
        (*OURS, *DRAMATIQ, "rabbitmq-confirms", "taskiq-nats", "raw-core"),
        {"count": 50_000},
        {"count": 20_000},
        _less(5_000, *DRAMATIQ, "taskiq-nats") | _less(2_000, "rabbitmq-confirms"),
    ),
    Series(
        "latency",
        "idle: send() in one process to the actor's start in another",
        ("P4",),
        "latency",
        (*OURS, *DRAMATIQ, "taskiq-nats"),
        {"count": 300},
        {"count": 100},
    ),
    Series(
        "memory, none delayed",
        "a worker's memory, no message delayed",
        ("P5",),
        "delayed",
        (*OURS, *REDIS, "rabbitmq"),
        {"delayed": 0},
        lengthy=True,
    ),
    Series(
        "memory, delayed",
        "a worker's memory with 100,000 delayed messages (quick: 20,000)",
        ("P5",),
        "delayed",
        (*OURS, *REDIS, "rabbitmq"),
        {"delayed": 100_000},
        {"delayed": 20_000},
        lengthy=True,
    ),
    Series(
        "behind, few",
        "drained with 10,000 waiting behind",
        ("P6",),
        "drain",
        OURS,
        {**_QUEUED, "behind": 10_000},
        _FEWER,
        lengthy=True,
    ),
    Series(
        "behind, many",
        "drained with 1,000,000 waiting behind (quick: 100,000)",
        ("P6",),
        "drain",
        OURS,
        {**_QUEUED, "behind": 1_000_000},
        {**_FEWER, "behind": 100_000},
        lengthy=True,
    ),
    Series(
        "convert",
        "a 12-megapixel JPEG to black and white",
        ("P7",),
        "convert",
        ("bw-tasks", "imagemagick"),
        {"count": 10},
        {"count": 3},
        {"imagemagick": {"count": 2}},
    ),
    Series(
        "images, one process",
        "images/s of `dramatiq bw_tasks --processes 1 --threads 1`",
        ("P7",),
        "convert_workers",
        ("bw-tasks",),
        {"count": 60, "processes": 1},
        {"count": 20},
    ),
    Series(
        "images, two processes",
        "images/s of `dramatiq bw_tasks --processes 2 --threads 1`",
        ("P7",),
        "convert_workers",
        ("bw-tasks",),
        {"count": 60, "processes": 2},
        {"count": 20},
    ),
    Series(
        "idle",
        "an idle worker with 50 queues",
        ("P8",),
        "idle",
        (*OURS, *DRAMATIQ),
        {"queues": 50, "seconds": 20},
        {"seconds": 8},
        lengthy=True,
    ),
    Series(
        "burn, one process",
        "CPU-bound actor (5 ms), `dramatiq --processes 1`",
        ("P10",),
        "burn",
        (*OURS, *REDIS, "rabbitmq", "raw-loop"),
        {"count": 1_500, "processes": 1},
        {"count": 600},
    ),
    Series(
        "burn, two processes",
        "CPU-bound actor (5 ms), `dramatiq --processes 2`",
        ("P10",),
        "burn",
        (*OURS, *REDIS, "rabbitmq", "raw-loop"),
        {"count": 1_500, "processes": 2},
        {"count": 600},
    ),
    Series(
        "retries, none",
        "drained with no retries waiting",
        ("P11",),
        "drain",
        OURS,
        {**_QUEUED, "failing": 0},
        _FEWER,
        lengthy=True,
    ),
    Series(
        "retries, many",
        "drained with 100,000 retries waiting (quick: 10,000)",
        ("P11",),
        "drain",
        OURS,
        {**_QUEUED, "failing": 100_000},
        {**_FEWER, "failing": 10_000},
        lengthy=True,
    ),
)


@dataclass(frozen=True)
class Case:
    """One measurement of one round."""

    series: Series
    broker: str


def chosen(only: Iterable[str]) -> list[Series]:
    """The series that some targets need; all if none is named."""
    names = set(only)
    return [series for series in SERIES if not names or names & set(series.targets)]


def rounds(series: Iterable[Series], brokers: Iterable[str], *, count: int) -> Iterator[tuple[int, Case]]:
    """Every case, round by round, the brokers of a series by turns, so that whatever else the machine does hits all."""
    wanted = set(brokers)
    for number in range(count):
        for one in series:
            if not one.lengthy or number < max(count - 2, 1):
                for broker in one.brokers:
                    if not wanted or broker in wanted:
                        yield number, Case(one, broker)
