"""How commands are made: a function with its own options, and those that all share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import click
from click.core import ParameterSource

from .failures import explained
from .operator import Operator
from .options import APPLICATION, CONNECTION, IMPORTING, NAMESPACE, SHARED

Needs = Literal["server", "application", "nothing"]

_SHARED_PARAMETERS: dict[Needs, tuple[click.Option, ...]] = {
    "server": (*APPLICATION, *IMPORTING, *NAMESPACE, *CONNECTION, *SHARED),
    "application": (*IMPORTING, *CONNECTION, *SHARED),
    "nothing": SHARED[:1],
}


class Command(click.Command):
    """Lists the shared options after its own."""

    def __init__(self, *args: Any, shared: Sequence[click.Option], **kwargs: Any) -> None:
        self.shared = shared
        super().__init__(*args, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [parameter for parameter in self.get_params(ctx) if parameter not in self.shared]
        for title, parameters in (("Options", own), ("Server and application", self.shared)):
            records = [record for record in (found.get_help_record(ctx) for found in parameters) if record]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def command(
    parent: click.Group, name: str, *, examples: str, needs: Needs = "server"
) -> Callable[[Callable[..., int | None]], Command]:
    """Make a command of a function that takes an Operator and the values of its own parameters.

    Parameters:
      parent(Group): The group that it belongs to.
      name(str): Its name.
      examples(str): Lines for the end of its help.
      needs(str): What it works on: a server, with or without an application; an application, its
        first argument; or nothing.

    Returns:
      Callable: A decorator; what the function returns is the exit status.
    """
    shared = _SHARED_PARAMETERS[needs]
    names = {str(option.name) for option in shared} | ({"app"} if needs == "application" else set())

    def register(function: Callable[..., int | None]) -> Command:
        def callback(**values: Any) -> None:
            ctx = click.get_current_context()
            typed = {key for key in values if ctx.get_parameter_source(key) == ParameterSource.COMMANDLINE}
            own = {key: value for key, value in values.items() if key not in names}
            ours = {key: value for key, value in values.items() if key in names}
            with explained(), Operator(ours, frozenset(typed)) as operator:
                status = function(operator, **own)
            ctx.exit(status or 0)

        parameters = [*reversed(getattr(function, "__click_params__", [])), *shared]
        made = Command(
            name,
            callback=callback,
            params=parameters,
            help=function.__doc__,
            epilog=f"\b\nExamples:\n{examples.strip(chr(10))}",
            shared=shared,
        )
        parent.add_command(made)
        return made

    return register
