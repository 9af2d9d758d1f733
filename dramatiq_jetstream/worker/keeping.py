"""Failed messages that stay in their stream, as in streams owned by others: they use up their attempts there."""

from __future__ import annotations

from typing import Any

from dramatiq.common import compute_backoff

from ..dead_letters import DeadLetterStore, Failure
from ..deliveries import MAX_DELAY, ActorOptions, nak
from ..errors import BrokerError, described
from ..logs import FirstLines, get_logger, repeated
from ..streams import Route
from .redelivery import Redelivery, is_deliverable

#: Milliseconds before the first repetition of a message that could not be handled, doubled each
#: time, and their limit.  Five attempts take less than a minute.
MIN_BACKOFF = 500
MAX_BACKOFF = 10_000

#: How often a message is delivered whose queue sets no limit, and whose actor sets none that is known.
DEFAULT_DELIVERIES = 21


class KeptMessages:
    """Has a queue's failed messages delivered again until their attempts are used up, then points at them.

    Parameters:
      route(Route): The queue.
      actor_options(ActorOptions): What actors and middleware ask for.
      redelivery(Redelivery): Gives messages another time to run.
      dead_letter_store(DeadLetterStore): Where the dead letters that point at them go.
    """

    def __init__(
        self, route: Route, actor_options: ActorOptions, redelivery: Redelivery, dead_letter_store: DeadLetterStore
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._route = route
        self._actor_options = actor_options
        self._redelivery = redelivery
        self._dead_letter_store = dead_letter_store
        self._first_lines = FirstLines()

    def keep(self, failure: Failure) -> None:
        """Use up an attempt of a message, and point at it after the last."""
        delivery = failure.delivery
        made, allowed = self._attempts(failure)
        _, delay = compute_backoff(delivery.earlier_attempts, factor=MIN_BACKOFF, max_backoff=MAX_BACKOFF)
        self.logger.log(
            self._dead_letter_store.level_of(failure),
            "Message %s of queue %r failed, attempt %d of %d, %s: %s",
            delivery,
            self._route.queue_name,
            made,
            allowed,
            "the last; it stays in its stream" if made >= allowed else f"retried in {delay / 1000:.1f} s",
            failure.reason.value if failure.error is None else described(failure.error),
            extra=self._first_lines.extra(*self._cause(failure, failure.error)),
        )
        if made >= allowed:
            # The server notices on its next attempt to deliver it, which need not wait; where it sets no limit,
            # there shall be no such attempt.
            delay = MAX_DELAY if is_deliverable(delivery) else 0
            self._point_at(failure)
        if failure.message is not None:
            self._redelivery.redeliver(failure.message, delay, spent=True)
        else:
            delivery.settle(nak(delay))

    def _attempts(self, failure: Failure) -> tuple[int, int]:
        """How many attempts were made, and how many there may be."""
        delivery = failure.delivery
        limit = delivery.lease_keeper.limits.max_deliver
        if limit is not None:
            return delivery.origin.deliveries, limit
        retries = self._actor_options.max_retries(failure.message) if failure.message is not None else None
        return delivery.earlier_attempts + 1, DEFAULT_DELIVERIES if retries is None else retries + 1

    def _point_at(self, failure: Failure) -> None:
        try:
            self._dead_letter_store.store_and_wait(self._route, failure)
        except BrokerError as error:
            # The message itself is not lost: it is where its owner looks for it.
            self.logger.warning(
                "Message %s of queue %r stays in its stream without a dead letter that points at it: %s",
                failure.delivery,
                self._route.queue_name,
                error,
                extra=repeated(*self._cause(failure, error)),
            )

    def _cause(self, failure: Failure, error: BaseException | None) -> tuple[Any, ...]:
        actor_name = failure.message.actor_name if failure.message is not None else None
        return self._route.queue_name, actor_name, failure.reason, type(error)
