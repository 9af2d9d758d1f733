"""Which queue a command works on: ``--queue NAME`` everywhere, and the plain name where people expect it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from .failures import USAGE, Failure, those_there_are
from .operator import Operator


class HiddenArgument(click.Argument):
    """Words that are understood as what an option says; the help does not show them."""

    def get_usage_pieces(self, ctx: click.Context) -> list[str]:
        return []


def one_queue(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command the queue that is named by ``--queue``, or by the first word."""

    @functools.wraps(function)
    def checked(operator: Operator, queue: tuple[str, ...], words: tuple[str, ...], **values: Any) -> int | None:
        named = list(dict.fromkeys([*queue, *words]))
        if len(named) != 1:
            what = "several queues are named" if named else "no queue is named"
            there = those_there_are("", operator.broker.get_declared_queues())
            raise Failure(f"{what}: name one with --queue; {there}", USAGE)
        return function(operator, queue=operator.queue(named[0]), **values)

    return _with_queues(checked, "The queue.")


def many_queues(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command the queues that are named by ``--queue``, or by words; none for all."""

    @functools.wraps(function)
    def checked(operator: Operator, queue: tuple[str, ...], words: tuple[str, ...], **values: Any) -> int | None:
        named = dict.fromkeys([*queue, *words])
        return function(operator, queues=[operator.queue(name) for name in named], **values)

    return _with_queues(checked, "Only of this queue; can be repeated.")


def queue_before(words: Sequence[str], queue: str | None, operator: Operator) -> tuple[str | None, tuple[str, ...]]:
    """Take the queue that stands before other words, unless an option named it.

    Parameters:
      words(Sequence[str]): The words.
      queue(str): What the option says.
      operator(Operator): Knows which queues there are.

    Raises:
      Failure: If the queue that the option names does not exist.

    Returns:
      tuple: The queue, if there is one, and the other words.
    """
    if queue is not None:
        return operator.queue(queue), tuple(words)
    if len(words) > 1 and words[0] in operator.broker.get_declared_queues():
        return words[0], tuple(words[1:])
    return None, tuple(words)


def _with_queues(function: Callable[..., int | None], text: str) -> Callable[..., int | None]:
    option = click.option("--queue", metavar="QUEUE", multiple=True, help=text)
    words = click.argument("words", nargs=-1, cls=HiddenArgument)
    return option(words(function))
