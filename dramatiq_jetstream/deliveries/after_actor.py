"""The hooks that run after an actor, and the message they run for."""

from __future__ import annotations

import threading
from typing import Any

from dramatiq import Broker
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import GroupCallbacks, Pipelines, Retries

from ..errors import BatchFailed, DelayNotSupported, MessageTooLarge, UnsupportedMessage
from ..logs import get_logger, repeated
from .delivery import JetStreamMessage

_logger = get_logger(__name__)

#: Middleware that enqueues messages after an actor ran; if it fails, the message must be redelivered.
HANDING_ON = (Retries, Pipelines, GroupCallbacks)

#: Errors of a hook that occur again when the actor runs again: the follow-up message is too large, cannot be
#: encoded, is for an actor that is not declared, or needs a feature that its queue does not have.
PERMANENT = (
    *(MessageTooLarge, UnsupportedMessage, DelayNotSupported, ActorNotFound),
    *(TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, AssertionError),
)


class AfterActorHooks(threading.local):
    """A message while dramatiq's ``after_process_message`` hooks see it."""

    message: JetStreamMessage | None = None


after_actor_hooks = AfterActorHooks()


def is_permanent(error: BaseException) -> bool:
    """Whether an error of a hook is permanent."""
    if isinstance(error, BatchFailed):
        return all(is_permanent(failure.error) for failure in error.failures)
    return isinstance(error, PERMANENT)


def run_after_actor_hooks(broker: Broker, message: JetStreamMessage, **kwargs: Any) -> None:
    """Call ``after_process_message`` as dramatiq does, but record whether a hook failed to enqueue its message."""
    after_actor_hooks.message = message
    message.succeeded = kwargs.get("exception") is None and not message.failed
    try:
        for middleware in reversed(broker.middleware):
            try:
                middleware.after_process_message(broker, message, **kwargs)
            except Exception as error:
                _logger.critical(
                    "Unexpected failure in after_process_message of %r.",
                    middleware,
                    exc_info=True,
                    extra=repeated(type(middleware), type(error)),
                )
                if isinstance(middleware, HANDING_ON):
                    message.hook_error = error
    finally:
        after_actor_hooks.message = None
