"""Random kills of workers and servers under load: nothing is lost, and what ran twice has a reason."""

from __future__ import annotations

import pytest

from dramatiq_jetstream import NatsServer
from tests.support.account import Account
from tests.support.chaos import Chaos
from tests.support.faults import Application

#: One seed for every run of the short version.
SEED = 20200722


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
