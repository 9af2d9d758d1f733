"""README's plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot

from .brokers import CONTENDERS
from .figures import FIGURES, Spread
from .results import Reference, Results

OURS, PEERS, BOUND = "#1f6feb", "#8c959f", "#d0d7de"


def draw(results: Results, folder: Path) -> None:
    """Draw every plot that there are figures for into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": ""})
    if results.rounds.get("drain") and results.rounds.get("send"):
        _draw_throughput(results, folder / "throughput.png")
    if results.rounds.get("latency"):
        _draw_latency(results, folder / "latency.png")


def _draw_throughput(results: Results, path: Path) -> None:
    panels = (
        (Reference("drain", "", "rate"), "Drained messages a second (more is better)"),
        (Reference("send", "", "p50_us"), "send(), median in µs (less is better)"),
    )
    sizes = [len(_bars(results, of)) for of, _ in panels]
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 0.8 + 0.42 * max(sizes)), layout="constrained")
    for axis, (of, title), best_first in zip(axes, panels, (True, False), strict=True):
        _draw_bars(axis, results, of, reverse=best_first)
        axis.set_title(title, loc="left", fontweight="bold")
    figure.savefig(path, dpi=144)
    pyplot.close(figure)


def _draw_bars(axis: Any, results: Results, of: Reference, *, reverse: bool) -> None:
    bars = sorted(_bars(results, of).items(), key=lambda bar: bar[1].median, reverse=reverse)
    axis.invert_yaxis()
    for place, (broker, spread) in enumerate(bars):
        error = [[spread.median - spread.least], [spread.most - spread.median]]
        axis.barh(place, spread.median, color=_colour(broker), xerr=error, ecolor="#57606a", capsize=2)
        shown = FIGURES[of.figure].shown(spread.median)
        axis.annotate(shown, (spread.most, place), xytext=(5, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(bars)), [CONTENDERS[broker].title for broker, _ in bars])
    axis.margins(x=0.12)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _draw_latency(results: Results, path: Path) -> None:
    halves = (("p50_ms", -0.2, 1.0), ("p99_ms", 0.2, 0.45))
    brokers = sorted(
        _bars(results, Reference("latency", "", "p50_ms")).items(), key=lambda bar: bar[1].median, reverse=False
    )
    figure, axis = pyplot.subplots(figsize=(9, 0.9 + 0.55 * len(brokers)), layout="constrained")
    axis.invert_yaxis()
    for place, (broker, _) in enumerate(brokers):
        for name, offset, strength in halves:
            spread = results.spread(Reference("latency", broker, name))
            if spread is not None:
                axis.barh(place + offset, spread.median, height=0.36, color=_colour(broker), alpha=strength)
                shown = f"{FIGURES[name].shown(spread.median)} ms ({name[:3]})"
                axis.annotate(
                    shown, (spread.median, place + offset), xytext=(5, 0), textcoords="offset points", va="center"
                )
    axis.set_yticks(range(len(brokers)), [CONTENDERS[broker].title for broker, _ in brokers])
    axis.set_xscale("log")
    axis.margins(x=0.25)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g} ms")
    axis.set_title("From send() to the actor's start in an idle worker, log scale", loc="left", fontweight="bold")
    figure.savefig(path, dpi=144)
    pyplot.close(figure)


def _bars(results: Results, of: Reference) -> dict[str, Spread]:
    """The spread of one figure for each broker that has it; the raw bounds would dwarf the brokers."""
    found = {
        broker: results.spread(Reference(of.series, broker, of.figure))
        for broker in results.rounds[of.series]
        if CONTENDERS[broker].module != "raw"
    }
    return {broker: spread for broker, spread in found.items() if spread is not None}


def _colour(broker: str) -> str:
    if broker.startswith("jetstream"):
        return OURS
    return BOUND if broker == "stub" else PEERS
