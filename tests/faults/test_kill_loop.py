"""Random kills of workers and servers under load: nothing is lost, and what ran twice has a reason."""

from __future__ import annotations

import os
import random

import pytest

from dramatiq_jetstream import NatsServer
from tests.support.chaos import Account, Chaos
from tests.support.faults import Application

#: One seed for every run of the short version.
SEED = 20200722

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "20"))
SOAK_SEED = int(os.environ.get("SOAK_SEED", random.randrange(1_000_000)))


def check(account: Account) -> None:
    print(account)
    assert not account.lost
    assert not account.unexplained
    assert account.completed + account.dead.total() >= account.sent


@pytest.mark.faults
def test_nothing_is_lost_under_random_faults(own_server: NatsServer, own_application: Application) -> None:
    with Chaos(own_server, own_application, SEED) as chaos:
        chaos.round(faults=5)
        chaos.drain()
        check(chaos.account())


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_nothing_is_lost_in_many_rounds(own_server: NatsServer, own_application: Application) -> None:
    print(f"SOAK_SEED={SOAK_SEED} SOAK_ROUNDS={ROUNDS}")
    with Chaos(own_server, own_application, SOAK_SEED) as chaos:
        for number in range(ROUNDS):
            chaos.round(faults=8)
            chaos.drain()
            print(f"round {number + 1}: {chaos.account()}", flush=True)
        check(chaos.account())
