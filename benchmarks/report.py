"""What a run found, as tables for the terminal and for README, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from .bench import Figures
from .brokers import CONTENDERS
from .figures import FIGURES, Figure, Spread
from .plan import SERIES, Case
from .results import Reference, Results
from .targets import TARGETS, Target

Rows = list[list[str]]

#: The columns that hold no numbers.
_WORDS = frozenset({"", "target"})

#: Broker, series and figure of README's columns.
README_COLUMNS = (
    ("drain", "rate"),
    ("drain", "cpu_us"),
    ("send", "p50_us"),
    ("send", "eight_rate"),
    ("batch", "rate"),
    ("latency", "p50_ms"),
    ("latency", "p99_ms"),
)


def progress(console: Console, number: int, case: Case, found: Figures | str) -> None:
    """Print one measurement."""
    shown = found if isinstance(found, str) else ", ".join(_named(name, value) for name, value in found.items())
    console.print(
        f"{number + 1}  {case.series.name}: {CONTENDERS[case.broker].title}: {shown}", highlight=False, markup=False
    )


def print_results(console: Console, results: Results) -> None:
    """Print a table of each series and one of the targets."""
    for series in SERIES:
        if results.rounds.get(series.name) or results.reasons.get(series.name):
            heading, rows = series_rows(results, series.name)
            console.print(_table(f"{series.name}: {series.title}", heading, rows))
            for broker, why in results.reasons.get(series.name, {}).items():
                console.print(f"{CONTENDERS[broker].title} was not measured: {why}", highlight=False, markup=False)
    heading, rows = target_rows(results)
    console.print(_table("targets", heading, rows))


def series_rows(results: Results, name: str) -> tuple[list[str], Rows]:
    """The brokers of a series with its figures: medians, and their spread."""
    names = results.figures(name)
    rows = [
        [
            CONTENDERS[broker].title,
            *(_spread(FIGURES[figure], results.spread(Reference(name, broker, figure))) for figure in names),
        ]
        for broker in results.rounds.get(name, {})
    ]
    return ["", *(FIGURES[figure].title for figure in names)], rows


def target_rows(results: Results) -> tuple[list[str], Rows]:
    """The targets with what was found."""
    rows = []
    for target in TARGETS:
        outcome = target.outcome(results)
        if outcome is not None:
            verdict = "yes" if target.met(outcome) else "NO"
            rows.append([target.id, target.title, target.wanted, _spread(target.unit, outcome), verdict])
    return ["", "target", "wanted", "found (least to most)", "met"], rows


def markdown(results: Results, machine: dict[str, Any]) -> str:
    """README's tables: every broker side by side, then the targets, and what they were measured on."""
    columns = [(series, figure) for series, figure in README_COLUMNS if results.rounds.get(series)]
    brokers = dict.fromkeys(broker for series, _ in columns for broker in results.rounds[series])
    rows = [
        [CONTENDERS[broker].title, *(_median(results, Reference(series, broker, figure)) for series, figure in columns)]
        for broker in brokers
    ]
    heading = ["", *(_column_title(series, figure) for series, figure in columns)]
    parts = [_markdown_table(heading, rows)] if columns else []
    parts.append(_markdown_table(*target_rows(results)))
    reasons = [
        f"- {CONTENDERS[broker].title} ({series}) was not measured: {why}" for series, broker, why in results.failed()
    ]
    parts += ["\n".join(reasons)] if reasons else []
    return "\n\n".join([*parts, machine_line(machine)]) + "\n"


def machine_line(machine: dict[str, Any]) -> str:
    """The machine and the versions, as one sentence."""
    servers = [str(found) for found in machine["servers"].values() if found]
    packages = [f"{name} {version}" for name, version in machine["packages"].items()]
    processor = f"{machine['cores']} cores of {machine['cpu']}"
    return f"Measured on {processor}, Python {machine['python']}; {'; '.join(servers)}; {', '.join(packages)}."


def as_json(results: Results, machine: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "machine": machine,
        "settings": settings,
        "series": results.rounds,
        "not_measured": results.reasons,
        "targets": [_target(target, outcome) for target in TARGETS if (outcome := target.outcome(results))],
    }


def _target(target: Target, outcome: Spread) -> dict[str, Any]:
    return {
        "id": target.id,
        "title": target.title,
        "wanted": target.wanted,
        "median": outcome.median,
        "least": outcome.least,
        "most": outcome.most,
        "met": target.met(outcome),
    }


def _column_title(series: str, figure: str) -> str:
    return {"drain": "drained: ", "batch": "batch: ", "latency": "idle: "}.get(series, "") + FIGURES[figure].title


def _named(name: str, value: float) -> str:
    return f"{FIGURES[name].title} {FIGURES[name].shown(value)}"


def _median(results: Results, reference: Reference) -> str:
    spread = results.spread(reference)
    return FIGURES[reference.figure].shown(spread.median) if spread else "-"


def _spread(figure: Figure, spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.least == spread.most:
        return figure.shown(spread.median)
    return f"{figure.shown(spread.median)} ({figure.shown(spread.least)} to {figure.shown(spread.most)})"


def _table(title: str, heading: Iterable[str], rows: Rows) -> Table:
    table = Table(title=title, title_justify="left")
    for name in heading:
        table.add_column(name, justify="left" if name in _WORDS else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown_table(heading: list[str], rows: Rows) -> str:
    lines = [heading, ["---" if name in _WORDS else "---:" for name in heading], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
