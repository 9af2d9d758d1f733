"""The shop's actors."""

import dramatiq
from django_dramatiq.apps import DjangoDramatiqConfig
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq_crontab import cron, interval


@dramatiq.actor(store_results=True)
def price(amount: int, each: int) -> int:
    return amount * each


@dramatiq.actor(store_results=True)
def stock_taking() -> bool:
    limits = DjangoDramatiqConfig.get_rate_limiter_backend()
    with ConcurrentRateLimiter(limits, "stock-taking", limit=1).acquire(raise_on_failure=False) as alone:
        return bool(alone)


@interval(seconds=1)
@dramatiq.actor
def count_visitors() -> None:
    count_visitors.logger.info("visitors counted")


@cron("0 4 * * Mon")
@dramatiq.actor
def close_the_books() -> None:
    close_the_books.logger.info("books closed")
