"""The options that apply to a message: its own, its actor's and those of dramatiq's middleware."""

from __future__ import annotations

from typing import Any, TypeVar

from dramatiq import Broker, Middleware
from dramatiq.middleware import Retries, TimeLimit

from ..options import LONGEST, is_number, milliseconds, retry_limit
from ..streams import Route
from ..wire import AnyMessage, DramatiqPayload, JsonPayload, PayloadFormat

#: Attempts of a message whose actor sets no limit: the same as dramatiq's default of 20
#: retries.  Further attempts continue as a scheduled copy.
DEFAULT_MAX_RETRIES = 20

#: Seconds that a message keeps its lease after its time limit.
LEASE_GRACE = 60.0

M = TypeVar("M", bound=Middleware)


class ActorOptions:
    """Reads options in dramatiq's order: message, actor, middleware.

    Parameters:
      broker(Broker): The broker whose actors and middleware are used.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def knows(self, actor_name: str) -> bool:
        """Whether an actor is declared here."""
        return actor_name in self._broker.actors

    def option(self, message: AnyMessage, name: str, default: Any = None) -> Any:
        """An option of the message, else of its actor, else a default."""
        return message.options.get(name, self._actor_option(message, name, default))

    def max_retries(self, message: AnyMessage) -> int | None:
        """How many retries a message may have; None if it depends on the exception, or if there is no limit."""
        retries = self._middleware(Retries)
        if retries is None or self._actor_option(message, "retry_when", retries.retry_when) is not None:
            return None
        return _retry_limit(self.option(message, "max_retries", retries.max_retries))

    def max_deliver(self, queue_name: str) -> int:
        """How often a message of a queue may be delivered: one more than the largest max_retries of its actors."""
        retries = self._middleware(Retries)
        default = retries.max_retries if retries else DEFAULT_MAX_RETRIES
        limits = [
            _retry_limit(actor.options.get("max_retries", default))
            for actor in self._broker.actors.values()
            if actor.queue_name == queue_name
        ] or [_retry_limit(default)]
        return 1 + max(DEFAULT_MAX_RETRIES if limit is None else limit for limit in limits)

    def time_limit(self, message: AnyMessage) -> float | None:
        """The milliseconds a message may run; None if there is no limit."""
        limiter = self._middleware(TimeLimit)
        if limiter is None:
            return None
        own = message.options.get("time_limit")
        limit: Any = own or self._actor_option(message, "time_limit", limiter.time_limit)
        # A value that TimeLimit cannot handle counts as no limit.
        return max(limit, 0) if is_number(limit) and limit <= LONGEST else None

    def dead_message_ttl(self, message: AnyMessage) -> int | None:
        """For how many milliseconds a dead letter of a message is kept, 0 for ever; None if it is not set."""
        own = self.option(message, "dead_message_ttl")
        if not is_number(own) or isinstance(own, bool) or own < 0:
            return None
        return 0 if own > LONGEST else milliseconds(own)

    def lease_limit(self, message: AnyMessage) -> float | None:
        """The seconds after which a running message's lease ends; None if there is no limit.

        This is later than TimeLimit's interruption.  A thread that cannot be interrupted, for example in C code,
        loses its message then.
        """
        limit = self.time_limit(message) if self.knows(message.actor_name) else None
        return None if limit is None else limit / 1000 + LEASE_GRACE

    def payload(self, route: Route) -> PayloadFormat:
        """The payload format of a queue."""
        if not route.settings.plain_json:
            return DramatiqPayload(route.queue_name)
        return JsonPayload(
            route.queue_name,
            lambda: route.settings.actor or self._only_actor(route.queue_name),
            lambda: self._broker.actors,
        )

    def _actor_option(self, message: AnyMessage, name: str, default: Any) -> Any:
        actor = self._broker.actors.get(message.actor_name)
        return actor.options.get(name, default) if actor else default

    def _only_actor(self, queue_name: str) -> str | None:
        names = [name for name, actor in self._broker.actors.items() if actor.queue_name == queue_name]
        return names[0] if len(names) == 1 else None

    def _middleware(self, kind: type[M]) -> M | None:
        return next((found for found in self._broker.middleware if isinstance(found, kind)), None)


def _retry_limit(value: Any) -> int | None:
    """How many retries a value of any type allows; None if it does not limit them."""
    return retry_limit(value) if is_number(value) else None
