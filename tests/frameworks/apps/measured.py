"""An application that Prometheus watches: `dramatiq tests.frameworks.apps.measured`."""

import dramatiq
from dramatiq.middleware import default_middleware
from dramatiq.middleware.prometheus import Prometheus

from dramatiq_jetstream import JetStreamBroker

# dramatiq 1 has it among its defaults.
others = [kind() for kind in default_middleware if kind is not Prometheus]
broker = JetStreamBroker(middleware=[Prometheus(), *others])
dramatiq.set_broker(broker)

attempts: list[int] = []


@dramatiq.actor(min_backoff=100, max_backoff=200)
def flaky() -> None:
    attempts.append(1)
    if len(attempts) <= 2:
        raise RuntimeError("not yet")


@dramatiq.actor(max_retries=0)
def broken() -> None:
    raise RuntimeError("never")


@dramatiq.actor
def steady() -> None: ...
