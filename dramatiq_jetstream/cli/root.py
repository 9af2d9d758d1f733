"""The command itself, to which the others belong."""

from __future__ import annotations

import click

EPILOG = """\b
Examples:
  dramatiq-jetstream server --store data                 a server for development
  dramatiq-jetstream setup app                           make what the application needs
  dramatiq-jetstream queues --watch                      what is going on
  dramatiq-jetstream dead requeue --queue default        try again
  dramatiq-jetstream doctor --app app                    what is wrong

Exit status: 0 fine, 1 something is wrong, 2 the command was not understood, 3 the server cannot be reached.
"""

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(epilog=EPILOG, context_settings=SETTINGS)
@click.version_option(package_name="dramatiq-jetstream", prog_name="dramatiq-jetstream")
def main() -> None:
    """Look after the queues of Dramatiq applications on NATS JetStream.

    Without an application (--app) commands work on the queues that the server has in the namespace; with
    one, on those that it declares, streams of somebody else included.
    """


@main.group()
def dead() -> None:
    """Dead letters: list, show, requeue, purge."""


@main.group()
def delayed() -> None:
    """Messages that the server holds back: list, cancel, run now."""
