"""A message that this process holds, and the object that dramatiq sees for it."""

from __future__ import annotations

import copy
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from dramatiq import Message, MessageProxy

from ..client import OnReconnect, OutboxItem, parse_headers, publish_command
from ..options import LONGEST
from ..streams import Limits
from ..wire import SCHEDULER, STATE, Headers, Origin, deliveries_of, quote_text
from .bookkeeping import Bookkeeping

ACK = b"+ACK"
NAK = b"-NAK"
PROGRESS = b"+WPI"

#: What becomes of an answer when the connection breaks: an acknowledgement must not get lost, and progress is
#: reported again anyway.
_ON_RECONNECT = {ACK: OnReconnect.REPEAT, PROGRESS: OnReconnect.DROP}


#: The longest delay of a negative acknowledgement, in milliseconds: a hundred years.  The server counts
#: nanoseconds in 64 bits, and treats a value that is not an integer as no delay.
MAX_DELAY = LONGEST


_STATE, _SCHEDULER = STATE.encode(), SCHEDULER.encode()
NO_BOOKKEEPING = Bookkeeping()


def nak(delay: float) -> bytes:
    """A negative acknowledgement that requests redelivery after a delay in milliseconds."""
    if not delay > 0:
        return NAK
    return NAK + b" " + json.dumps({"delay": math.ceil(min(delay, MAX_DELAY)) * 1_000_000}).encode()


def cut_text(text: str, length: int) -> str:
    """A text of at most the given length in characters: the end of a longer one."""
    return text if len(text) <= length else f"… {text[-length + 2 :]}"


class AttemptRecord(NamedTuple):
    """The record of a message's attempts between two deliveries.

    Parameters:
      attempt(int): The delivery that wrote it.
      returned(int): How many deliveries were given back unused and are not counted.
      options(dict): The options that earlier attempts added or changed.
      removed(Sequence[str]): The options that earlier attempts removed.
      bookkeeping(Bookkeeping): This package's state of the message.
    """

    attempt: int
    returned: int
    options: dict[str, Any]
    removed: Sequence[str] = ()
    bookkeeping: Bookkeeping = Bookkeeping()


class LeaseKeeper(Protocol):
    """Who keeps a delivery's lease; the loop-side puller."""

    limits: Limits

    def settle(self, delivery: Delivery, answer: bytes) -> None:
        """Answer the server and release the message; from any thread."""

    def confirm(self, delivery: Delivery, answer: bytes) -> None:
        """Answer, wait for the server's confirmation and release; from any thread but the loop's."""

    def drop(self, delivery: Delivery) -> None:
        """Release the message without an answer; from any thread."""


class Delivery:
    """One delivery of one message, held until it is answered.

    Parameters:
      reply(str): The subject that acknowledges it.
      body(bytes): The message's body.
      headers(Mapping | bytes): The message's headers, or the block that they are to be read from.
      lease_keeper(LeaseKeeper): Who keeps its lease.
      origin(Origin): Its position in the stream.  Read from the reply subject by default.
    """

    __slots__ = (
        *("_clock", "_headers", "_origin", "_progress"),
        *("body", "lease_keeper", "record", "redelivered", "reply", "settled"),
    )

    def __init__(
        self, reply: str, body: bytes, headers: Headers | bytes, lease_keeper: LeaseKeeper, origin: Origin | None = None
    ) -> None:
        self.reply = reply
        self.body = body
        self.lease_keeper = lease_keeper
        #: Whether the server delivered its message before.
        self.redelivered = deliveries_of(reply) > 1 if origin is None else origin.deliveries > 1
        self.record: AttemptRecord | None = None
        self.settled = False
        self._headers = headers
        self._origin = origin
        self._progress: OutboxItem | None = None
        self._clock: tuple[float, Callable[[], float | None]] | None = None

    @property
    def origin(self) -> Origin:
        """Where it stands."""
        if self._origin is None:
            self._origin = Origin.parse(self.reply)
        return self._origin

    @property
    def headers(self) -> Headers:
        """The message's headers."""
        if isinstance(self._headers, bytes):
            self._headers = parse_headers(self._headers)
        return self._headers

    @property
    def was_scheduled(self) -> bool:
        """Whether it comes from the server's scheduler."""
        if isinstance(self._headers, bytes) and _SCHEDULER not in self._headers:
            return False
        return SCHEDULER in self.headers

    @property
    def bookkeeping(self) -> Bookkeeping:
        """This package's state, as stored in the message's header."""
        if isinstance(self._headers, bytes) and _STATE not in self._headers:
            return NO_BOOKKEEPING
        return Bookkeeping.read(self.headers)

    @property
    def lease_ends(self) -> float | None:
        """When its lease ends, on the monotonic clock; None while it has no limit."""
        if self._clock is None:
            return None
        started, limit = self._clock
        seconds = limit()
        return None if seconds is None else started + seconds

    def __str__(self) -> str:
        return f"{self.origin.stream}:{self.origin.sequence}"

    @property
    def identity(self) -> str:
        """The unique identity of its message; sequences start again when a stream is deleted and created."""
        return f"{self}.{self.origin.timestamp}"

    @property
    def copy_id(self) -> str:
        """The Nats-Msg-Id of the copy that continues this message; always the same, so it is stored once."""
        return f"{self.identity}.copy"

    @property
    def returned(self) -> int:
        """How many of its deliveries are not counted as attempts."""
        return self.record.returned if self.record else 0

    @property
    def earlier_attempts(self) -> int:
        """How many attempts of this message ended, by the server's count."""
        return max(self.origin.deliveries - 1 - self.returned, 0)

    @property
    def crashed(self) -> bool:
        """Whether the last delivery ended without an answer, for example because its worker was killed."""
        last = self.origin.deliveries - 1
        return last > 0 and (self.record is None or self.record.attempt < last)

    def settle(self, answer: bytes) -> None:
        """Answer the server, once."""
        if not self.settled:
            self.lease_keeper.settle(self, answer)
            self.finish()

    def drop(self) -> None:
        """Let its lease end without an answer: the server delivers it again after ack_wait."""
        self.finish()
        self.lease_keeper.drop(self)

    def finish(self) -> None:
        """Note that the server has been, or is being, answered."""
        self.settled = True
        self._clock = None

    def item(self, answer: bytes, sent: Callable[[], None] | None = None) -> OutboxItem:
        """The answer on its way to the server; an acknowledgement must not get lost."""
        return OutboxItem(publish_command(self.reply, answer), _ON_RECONNECT.get(answer, OnReconnect.SEND_LATER), sent)

    @property
    def progress(self) -> OutboxItem:
        """The report that it is still being worked on; the same one each time."""
        if self._progress is None:
            self._progress = self.item(PROGRESS)
        return self._progress

    def start_clock(self, limit: Callable[[], float | None]) -> None:
        """Start the time limit of the lease; a function returns the limit in seconds when it is needed."""
        self._clock = time.monotonic(), limit


_MISSING = object()


def _differ(before: object, after: object) -> bool:
    try:
        return bool(before != after)
    except Exception:
        # Values of other classes may not be comparable, as arrays are not.
        return True


class JetStreamMessage(MessageProxy):
    """What dramatiq's worker and middleware see of a delivery.

    Parameters:
      message(Message): The decoded message.
      delivery(Delivery): The delivery that brought it.
    """

    #: How many of its attempts ended, by the server's count.
    received_retries = 0
    #: The delay of the retry that a hook requested, in milliseconds; None if no hook did.
    retry_delay: int | None = None
    #: The error because of which a hook could not enqueue its message; the message is then redelivered.
    hook_error: Exception | None = None
    #: Whether its actor returned.
    succeeded = False

    _successors: Counter[str] | None = None

    def __init__(self, message: Message[Any], delivery: Delivery) -> None:
        super().__init__(message)
        self.delivery = delivery
        self.bookkeeping = delivery.bookkeeping
        if self.bookkeeping.origin is None and message.options:
            self.bookkeeping = Bookkeeping.take_old(message.options)
        self.received_options = copy.deepcopy(message.options) if message.options else {}

    @property
    def identity(self) -> str:
        """The unique identity of this message; redeliveries and copies keep it."""
        return self.bookkeeping.origin or self.delivery.identity

    @property
    def counted_handoffs(self) -> int:
        """How often it came back before; not what an answer that dramatiq repeats has counted already."""
        record = self.delivery.record
        return (record.bookkeeping if record is not None else self.delivery.bookkeeping).handoffs

    @property
    def redelivered(self) -> bool:
        """Whether the server delivered this message before."""
        return self.delivery.redelivered

    @property
    def is_plain(self) -> bool:
        """Whether it can run without further checks: it is delivered for the first time and has no options."""
        return not (self.redelivered or self.options or self.bookkeeping is not NO_BOOKKEEPING)

    @property
    def was_delayed(self) -> bool:
        """Whether it comes from the server's scheduler, or from a retry's backoff."""
        return self.delivery.was_scheduled or (self.received_retries > 0 and not self.delivery.crashed)

    def stands_for(self, message: object) -> bool:
        """Whether a message passed by dramatiq is this delivery, and not a copy of it."""
        return message is self

    def name_successor(self, message_id: str) -> str:
        """The Nats-Msg-Id of a message that a hook enqueues because this one succeeded.

        It is the same whenever this message is delivered again, and another one if the same message
        was sent twice, as when a pipeline or a group runs twice.
        """
        if self._successors is None:
            self._successors = Counter()
        self._successors[message_id] += 1
        return quote_text(f"{self.identity}>{message_id}>{self._successors[message_id]}")

    @property
    def changed_options(self) -> dict[str, Any]:
        """The options that earlier attempts added or changed; the count of retries is the server's."""
        return {
            name: value
            for name, value in self.options.items()
            if name != "retries" and _differ(self.received_options.get(name, _MISSING), value)
        }

    @property
    def removed_options(self) -> list[str]:
        """The options that earlier attempts removed."""
        return sorted(self.received_options.keys() - self.options.keys())

    def recover(self) -> None:
        """Restore the options of the last attempt, and set the server's count of attempts."""
        retries = self.options.get("retries", 0) + self.delivery.earlier_attempts
        record = self.delivery.record
        if record is not None:
            self.options.update(record.options)
            for name in record.removed:
                self.options.pop(name, None)
            self.bookkeeping = replace(record.bookkeeping, origin=self.bookkeeping.origin)
        if retries:
            self.options["retries"] = retries
        self.received_retries = retries
