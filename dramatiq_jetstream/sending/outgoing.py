"""A message as it is published: encoded, addressed, and scheduled if it is to wait."""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone

from ..errors import DelayNotSupported
from ..streams import Route
from ..wire import MSG_ID, SCHEDULE, SCHEDULE_TARGET, AnyMessage, PayloadFormat, Publication


def due_at(delay: float) -> int:
    """The UNIX time in milliseconds at which a delay that starts now has passed, never earlier."""
    return math.ceil(time.time() * 1000) + math.ceil(delay)


def publication(route: Route, payload: PayloadFormat, message: AnyMessage, due: int | None = None) -> Publication:
    """A message as it is published, for now or for later.

    Raises:
      DelayNotSupported: If the queue's stream holds no messages back.
      UnsupportedMessage, MessageTooLarge: If the queue's settings do not allow the message.
    """
    body, headers = payload.encode(message)
    subject = route.subject(message.actor_name)
    if due is not None:
        check_delay(route)
        headers[SCHEDULE] = f"@at {_rfc3339(due)}"
        headers[SCHEDULE_TARGET] = subject
        subject = route.names.delayed_subject(route.queue_name, message.message_id, headers[MSG_ID])
    result = Publication(subject, body, headers)
    if route.settings.max_msg_size is not None:
        result.check_size(route.settings.max_msg_size, f"the stream {route.stream!r} (max_msg_size)")
    return result


def check_delay(route: Route) -> None:
    """Raise DelayNotSupported if a queue's stream holds no messages back."""
    if route.settings.bound:
        raise DelayNotSupported(
            f"queue {route.queue_name!r} is bound to the stream {route.stream!r}, which is not ours, so nothing can be "
            "delayed in it: send without delay, or use a queue without WorkQueue(stream=…)"
        )
    if not route.settings.allows_delays:
        raise DelayNotSupported(
            f"queue {route.queue_name!r} refuses messages when full (discard='new'), and the server cannot delay in "
            "such a stream (allow_msg_schedules): send without delay, or leave discard out of its WorkQueue"
        )


def _rfc3339(milliseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(milliseconds // 1000, timezone.utc)
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"a delay until {milliseconds} ms after 1970 is too long to be a date") from error
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
