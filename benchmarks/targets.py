"""The targets: ratios inside one run, differences, and a few plain figures."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .figures import Figure, Spread
from .results import Reference, Results

Relation = Literal["≥", "≤"]

_RELATIONS: dict[Relation, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le}
_RATIO = Figure("x", 2)
_COMBINATIONS: dict[str, Callable[[float, float], float]] = {"÷": operator.truediv, "-": operator.sub}


@dataclass(frozen=True)
class Target:
    """Something that shall be so.

    Parameters:
      id(str): Its number.
      title(str): What is compared with what.
      relation(str): Whether more is better.
      limit(float): The value to reach.
      value(Reference): The figure.
      other(Reference): What it is compared with, round by round, if anything.
      combination(str): How they are compared.
      unit(Figure): How the outcome is written.
    """

    id: str
    title: str
    relation: Relation
    limit: float
    value: Reference
    other: Reference | None = None
    combination: str = "÷"
    unit: Figure = _RATIO

    @property
    def wanted(self) -> str:
        limit = f"{self.limit:,.0f}" if self.limit >= 1_000 else f"{self.limit:.3g}"
        return f"{self.relation} {limit} {self.unit.title}"

    def outcome(self, results: Results) -> Spread | None:
        """What the rounds came to; None if something is missing."""
        values, others = results.of(self.value), results.of(self.other) if self.other else None
        if others is not None:
            combine = _COMBINATIONS[self.combination]
            values = {number: combine(value, others[number]) for number, value in values.items() if number in others}
        return Spread.of(list(values.values())) if values else None

    def met(self, outcome: Spread) -> bool:
        return _RELATIONS[self.relation](outcome.median, self.limit)


def _ours(series: str, figure: str) -> Reference:
    return Reference(series, "jetstream", figure)


def _ratio(id: str, title: str, relation: Relation, limit: float, value: Reference, broker: str) -> Target:
    return Target(id, title, relation, limit, value, Reference(value.series, broker, value.figure))


def _between(id: str, title: str, limit: float, series: tuple[str, str], figure: str, broker: str) -> Target:
    after, before = (Reference(name, broker, figure) for name in series)
    return Target(id, title, "≥", limit, after, before)


_SEND, _DRAIN, _P50 = _ours("send", "p50_us"), _ours("drain", "rate"), _ours("latency", "p50_ms")
_CPU, _BURN = _ours("drain", "cpu_us"), ("burn, two processes", "burn, one process")

TARGETS = (
    _ratio("P1", "drained, of StubBroker's", "≥", 0.85, _DRAIN, "stub"),
    _ratio("P1", "drained, of RabbitmqBroker's", "≥", 4, _DRAIN, "rabbitmq"),
    _ratio("P1", "drained, of taskiq-nats'", "≥", 2.5, _DRAIN, "taskiq-nats"),
    _ratio("P2", "send() p50 with uvloop, of RedisBroker's", "≤", 1, _SEND, "redis"),
    _ratio(
        "P2",
        "send() p50 without, of RedisBroker's",
        "≤",
        1.4,
        Reference("send", "jetstream-asyncio", "p50_us"),
        "redis",
    ),
    _ratio("P2", "send() p50, of RabbitmqBroker's with confirms", "≤", 1 / 3, _SEND, "rabbitmq-confirms"),
    Target("P2", "8 threads' sends, of one's", "≥", 4, _ours("send", "eight_rate"), _ours("send", "one_rate")),
    Target("P3", "batch enqueue, all stored", "≥", 50_000, _ours("batch", "rate"), unit=Figure("/s")),
    _ratio("P4", "idle p50, of dramatiq-redis-streams'", "≤", 1, _P50, "redis-streams"),
    _ratio("P4", "idle p50, of RabbitmqBroker's", "≤", 0.8, _P50, "rabbitmq"),
    _ratio("P4", "idle p50, of RedisBroker's", "≤", 0.8, _P50, "redis"),
    Target("P4", "idle p99, of its p50", "≤", 2, _ours("latency", "p99_ms"), _P50),
    Target(
        "P5",
        "memory for the delayed messages",
        "≤",
        5,
        _ours("memory, delayed", "rss_mb"),
        _ours("memory, none delayed", "rss_mb"),
        "-",
        Figure("MB", 1),
    ),
    _between("P6", "drained with many behind, of with few", 0.95, ("behind, many", "behind, few"), "rate", "jetstream"),
    Target(
        "P7",
        "ImageMagick's CPU for an image, of ours",
        "≥",
        14,
        Reference("convert", "imagemagick", "cpu_ms"),
        Reference("convert", "bw-tasks", "cpu_ms"),
        unit=Figure("x", 1),
    ),
    _between(
        "P7",
        "images by two processes, of by one",
        1.8,
        ("images, two processes", "images, one process"),
        "runs",
        "bw-tasks",
    ),
    Target("P8", "CPU of an idle worker with 50 queues", "≤", 1, _ours("idle", "cpu_percent"), unit=Figure("%", 2)),
    Target("P9", "the worker's CPU for a message", "≤", 60, _CPU, unit=Figure("µs")),
    _ratio("P9", "the worker's CPU for a message, of StubBroker's", "≤", 1.25, _CPU, "stub"),
    _between("P10", "CPU-bound actor by two processes, of by one", 1.8, _BURN, "runs", "jetstream"),
    _between(
        "P11",
        "drained with retries waiting, of with none",
        0.9,
        ("retries, many", "retries, none"),
        "rate",
        "jetstream",
    ),
)
