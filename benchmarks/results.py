"""What a run found, and what the rounds come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .figures import Spread


@dataclass(frozen=True)
class Reference:
    """One figure of one broker in one series."""

    series: str
    broker: str
    figure: str


@dataclass
class Results:
    """The figures of each round, by series, broker and figure; and why some are missing."""

    rounds: dict[str, dict[str, dict[str, dict[int, float]]]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def loaded(cls, document: dict[str, Any]) -> Results:
        """What an earlier run wrote as JSON."""
        results = cls(reasons=document["not_measured"])
        for series, brokers in document["series"].items():
            for broker, figures in brokers.items():
                for figure, values in figures.items():
                    for number, value in values.items():
                        results.add(series, broker, int(number), {figure: value})
        return results

    def add(self, series: str, broker: str, number: int, figures: dict[str, float]) -> None:
        """Note what a round found."""
        kept = self.rounds.setdefault(series, {}).setdefault(broker, {})
        for name, value in figures.items():
            kept.setdefault(name, {})[number] = value

    def miss(self, series: str, broker: str, reason: str) -> None:
        """Note why something was not measured."""
        self.reasons.setdefault(series, {})[broker] = reason

    def of(self, reference: Reference) -> dict[int, float]:
        """The values of a figure by round; empty if it was not measured."""
        return self.rounds.get(reference.series, {}).get(reference.broker, {}).get(reference.figure, {})

    def spread(self, reference: Reference) -> Spread | None:
        values = list(self.of(reference).values())
        return Spread.of(values) if values else None

    def figures(self, series: str) -> list[str]:
        """The names of a series' figures, those of our broker first."""
        return list(dict.fromkeys(name for kept in self.rounds.get(series, {}).values() for name in kept))

    def failed(self) -> list[tuple[str, str, str]]:
        return [(series, broker, why) for series, found in self.reasons.items() for broker, why in found.items()]
