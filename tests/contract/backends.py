"""The backends that go with the contract's brokers: dramatiq's in memory, and ours on the broker's connection."""

from __future__ import annotations

from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.rate_limits import RateLimiterBackend
from dramatiq.results import ResultBackend

from dramatiq_jetstream import rate_limits as our_rate_limits
from dramatiq_jetstream import results as our_results
from tests.contract.helpers import DRAMATIQ_2, AnyBroker
from tests.contract.helpers import RateLimiterBackend as StubRateLimiterBackend
from tests.contract.helpers import ResultBackend as StubResultBackend


def make_result_backend(broker: AnyBroker, **options: Any) -> ResultBackend:
    """A result backend of the broker's kind."""
    if not isinstance(broker, StubBroker):
        return our_results.JetStreamBackend(broker=broker, **options)
    if not DRAMATIQ_2:
        # An option of ours, there.
        options.pop("use_namespace_prefix_keys", None)
    return StubResultBackend(**options)


def make_rate_limiter_backend(broker: AnyBroker) -> RateLimiterBackend:
    """A rate limiter backend of the broker's kind."""
    if isinstance(broker, StubBroker):
        return StubRateLimiterBackend()
    return our_rate_limits.JetStreamBackend(broker=broker)


@pytest.fixture
def results(broker: AnyBroker) -> ResultBackend:
    """A result backend with nothing in it."""
    return make_result_backend(broker)


@pytest.fixture
def limits(broker: AnyBroker) -> RateLimiterBackend:
    """A rate limiter backend with nothing in it."""
    return make_rate_limiter_backend(broker)
