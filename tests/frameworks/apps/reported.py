"""An application whose errors go to Sentry, which prints them: `python -m tests.frameworks.apps.reported`."""

from __future__ import annotations

import json
from typing import Any

import dramatiq
import sentry_sdk
from dramatiq import Worker
from dramatiq.middleware import default_middleware
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.dramatiq import DramatiqIntegration
from sentry_sdk.transport import Transport

from dramatiq_jetstream import JetStreamBroker

sent: list[dict[str, Any]] = []


class Printed(Transport):
    """Keeps what would go to Sentry."""

    def capture_envelope(self, envelope: Envelope) -> None:
        sent.extend(item.payload.json for item in envelope.items if item.payload.json is not None)


# Before the broker is made: the integration adds its middleware there.
sentry_sdk.init(
    "http://key@127.0.0.1:1/1", integrations=[DramatiqIntegration()], traces_sample_rate=1.0, transport=Printed
)

# dramatiq 1 counts Prometheus among its defaults, which only works in its own processes.
broker = JetStreamBroker(middleware=[kind() for kind in default_middleware if kind.__name__ != "Prometheus"])
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=1, min_backoff=10, max_backoff=10)
def fail(order: int) -> None:
    raise RuntimeError(f"order {order} cannot be shipped")


@dramatiq.actor(throws=ValueError, max_retries=0)
def expected() -> None:
    raise ValueError("as expected")


def main() -> None:
    fail.send(7)
    expected.send()
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    broker.join("default", timeout=20_000)
    worker.join()
    worker.stop()
    broker.close()
    sentry_sdk.flush()
    print(json.dumps(sent))


if __name__ == "__main__":
    main()
