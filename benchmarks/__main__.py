"""Our broker beside its peers, in one run and by turns: `python -m benchmarks`."""

from __future__ import annotations

import json
import signal
import sys
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from . import machine, report, runner
from .brokers import CONTENDERS
from .needs import missing
from .plan import Series, chosen
from .results import Results
from .servers import running
from .targets import TARGETS

TARGET_IDS = tuple(dict.fromkeys(target.id for target in TARGETS))

#: Characters a line of a log.
WIDTH = 140


def _listed(allowed: tuple[str, ...], context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(allowed)}.")
    return names


@click.command()
@click.option("--only", default="", callback=partial(_listed, TARGET_IDS), help="The targets to measure for: P1,P4.")
@click.option("--brokers", default="", callback=partial(_listed, tuple(CONTENDERS)), help="The brokers to measure.")
@click.option("--rounds", type=click.IntRange(1), help="How often everything is measured (default: 5, or 2 if quick).")
@click.option("--quick", is_flag=True, help="Fewer rounds of smaller amounts: a look, not a result.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here.")
@click.option("--table", type=click.Path(dir_okay=False, path_type=Path), help="Write README's tables here.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Draw the plots into this folder.")
@click.option(
    "--load",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show an earlier JSON instead.",
)
def main(
    only: tuple[str, ...],
    brokers: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    json_file: Path | None,
    table: Path | None,
    plots: Path | None,
    load: Path | None,
) -> None:
    """Measure our broker beside its peers, all of them on servers of their own."""
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    if plots and (reason := missing(["matplotlib"])):
        raise click.UsageError(f"--plots: {reason}")
    if load:
        document = json.loads(load.read_text(encoding="utf-8"))
        results = Results.loaded(document)
    else:
        count = rounds or (2 if quick else 5)
        results = _measure(console, chosen(only), brokers, count, quick=quick)
        document = report.as_json(results, machine.describe(), {"rounds": count, "quick": quick})
    report.print_results(console, results)
    if json_file:
        json_file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if table:
        table.write_text(report.markdown(results, document["machine"]), encoding="utf-8")
    if plots:
        from .plots import draw

        draw(results, plots)


def _measure(console: Console, series: list[Series], brokers: tuple[str, ...], count: int, *, quick: bool) -> Results:
    with running(_servers(series, brokers)) as urls:
        return runner.run(series, brokers, urls, count=count, quick=quick, report=partial(report.progress, console))


def _servers(series: list[Series], brokers: tuple[str, ...]) -> set[str]:
    """The kinds of servers that are needed and can be run."""
    wanted = {broker for one in series for broker in one.brokers if not brokers or broker in brokers}
    contenders = [CONTENDERS[broker] for broker in wanted]
    return {one.server for one in contenders if one.server and not missing(one.needs)}


def _interrupt(signal_number: int, frame: object) -> None:
    # As a Ctrl-C does, it lets every block end its own processes.
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
