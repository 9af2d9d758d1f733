"""An application with a clock: `periodiq tests.frameworks.apps.periodic`, besides `dramatiq` with the same module."""

import dramatiq
from periodiq import PeriodiqMiddleware, cron

from dramatiq_jetstream import JetStreamBroker

broker = JetStreamBroker()
broker.add_middleware(PeriodiqMiddleware(skip_delay=60))
dramatiq.set_broker(broker)


@dramatiq.actor(periodic=cron("* * * * *"))
def every_minute() -> None:
    every_minute.logger.info("a minute has passed")
