"""One measurement in this process: `python -m benchmarks.probe drain jetstream --url nats://… --param count=20000`.

It prints its figures as one line of JSON, so that it can be run by itself under a profiler.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
from importlib import import_module
from typing import Any

import click

from .bench import Bench, NotMeasured
from .brokers import CONTENDERS, forbid_uvloop

#: The module of each measure of dramatiq brokers.
MODULES = {
    "drain": "drain",
    "fail": "drain",
    "send": "send",
    "batch": "send",
    "latency": "latency",
    "pace": "latency",
    "idle": "resident",
    "delayed": "resident",
    "delay": "resident",
    "burn": "processes",
    "convert": "images",
    "convert_workers": "images",
}


@click.command()
@click.argument("measure", type=click.Choice(list(MODULES)))
@click.argument("name", metavar="BROKER")
@click.option("--url", default="", help="Where the broker's server is.")
@click.option("--token", default="", help="What keeps it apart there; by default a random one.")
@click.option("--param", "params", multiple=True, metavar="NAME=NUMBER", help="How much of something.")
def main(measure: str, name: str, url: str, token: str, params: tuple[str, ...]) -> None:
    """Take one measurement of one broker."""
    # The runner ends a measurement by this signal: whatever was started or made is cleaned up then.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    forbid_uvloop(name)
    numbers = {key: int(value) for key, _, value in (param.partition("=") for param in params)}
    print(json.dumps(_answer(measure, name, url, token or f"bench-{secrets.token_hex(4)}", numbers)))


def _answer(measure: str, name: str, url: str, token: str, params: dict[str, int]) -> dict[str, Any]:
    contender = CONTENDERS[name]
    module = import_module(f"benchmarks.measures.{contender.module or MODULES[measure]}")
    try:
        return {"figures": getattr(module, measure)(Bench(name, contender, url, token, params))}
    except NotMeasured as error:
        return {"reason": str(error)}


if __name__ == "__main__":
    main()
