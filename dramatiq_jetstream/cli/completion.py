"""``completion``: for bash, zsh and fish."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .command import command
from .operator import Operator
from .root import main

PROGRAM = "dramatiq-jetstream"
VARIABLE = "_DRAMATIQ_JETSTREAM_COMPLETE"


@command(
    main,
    "completion",
    needs="nothing",
    examples="""
  dramatiq-jetstream completion bash > ~/.local/share/bash-completion/completions/dramatiq-jetstream
  dramatiq-jetstream completion zsh > ~/.zfunc/_dramatiq-jetstream
  dramatiq-jetstream completion fish > ~/.config/fish/completions/dramatiq-jetstream.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(operator: Operator, shell: str) -> int:
    """Print what makes SHELL complete the commands and options of this one."""
    found = get_completion_class(shell)
    if found is not None:
        click.echo(found(main, {}, PROGRAM, VARIABLE).source())
    return 0
