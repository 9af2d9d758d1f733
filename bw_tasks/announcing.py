"""Saying what is waited for, and until when, while no server answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dramatiq import Broker

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.admin.waiting import unanswered


@contextmanager
def announced(broker: Broker, say: Callable[[str], object]) -> Iterator[None]:
    """Have it said once that a connection is waited for, if it takes longer than a second.

    Parameters:
      broker(Broker): Whose connection it is.
      say(Callable): Takes the sentence, without its full stop.
    """
    assert isinstance(broker, JetStreamBroker)
    with unanswered(
        broker, lambda servers, until: say(f"Waiting for a NATS server at {servers} until {until:%H:%M:%S}")
    ):
        yield
