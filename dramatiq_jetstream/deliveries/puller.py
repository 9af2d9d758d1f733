"""The loop side of a consumer: pulls by credit, watches heartbeats, renews leases.

All state is used on the loop only, except for the held messages, which other threads remove.  Other threads use
the outbox or ``call_soon_threadsafe`` for the rest.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from dramatiq.common import compute_backoff

from ..client import DESCRIPTION, STATUS, OutboxItem, Session, parse_headers, publish_command
from ..errors import BrokerError
from ..logs import get_logger, repeated
from ..streams import Limits, Route
from ..wire import pending_of
from .delivery import AttemptRecord, Delivery, nak
from .prefetch import PASSING, Credit, Prefetch

#: Seconds between the server's heartbeats while a pull request waits.
HEARTBEAT = 2.0

#: Seconds without a heartbeat after which a pull request counts as lost.
SILENCE = 2.5 * HEARTBEAT

#: Seconds a pull request waits at the server.
EXPIRES = 30.0

#: Seconds to wait for an answer whether another worker is idle.
GLANCE = 1.0

#: The longest pause, in milliseconds, between attempts to resume after an error.
MAX_PAUSE = 10_000

#: Milliseconds until a message is delivered again that could not be passed on.
RETURN_DELAY = 5_000

#: What makes a pull request last, or end as soon as nothing is there.
_LASTING = {"expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
_PASSING = {"expires": int(PASSING * 1e9), "no_wait": True}

_ACK_PREFIX = b"$JS.ACK."
_PENDING = "Nats-Pending-Messages"


class Puller:
    """Keeps a consumer's buffer filled.

    Parameters:
      session(Session): The live connection.
      route(Route): The queue to pull from.
      prefetch(Prefetch): How much may be held.
      prepare(Callable): Ensures that stream and consumer exist, and returns the server's limits.
      recall(Callable): Reads the attempt record of a delivered message.
    """

    def __init__(
        self,
        session: Session,
        route: Route,
        prefetch: Prefetch,
        *,
        prepare: Callable[[Session, Route], Awaitable[Limits]],
        recall: Callable[[Session, Delivery], Awaitable[AttemptRecord | None]],
    ) -> None:
        self.logger = get_logger(__name__, f"Puller({route.queue_name})")
        self.session = session
        self.route = route
        self.prefetch = prefetch
        self.limits = Limits(0, None)
        self._prepare = prepare
        self._recall = recall
        self._deliver: Callable[[Delivery], None]
        self._held: dict[str, Delivery] = {}
        self._recalling: set[asyncio.Task[None]] = set()
        self._credit = Credit(prefetch)
        self._last_reply = ""
        self._received = 0
        self._finished = 0
        self._refilling = False
        #: Always the same object, so that the outbox calls it once.
        self._on_sent = self._refill_soon
        self._ready = False
        self._stopped = False
        self._failures = 0
        self._heard = 0.0
        self._inbox = self._passing_inbox = ""
        self._subscriptions: list[Any] = []
        self._resuming: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._next = f"{session.api}.CONSUMER.MSG.NEXT.{route.stream}.{route.consumer}"

    async def start(self, deliver: Callable[[Delivery], None]) -> None:
        """Prepare the queue, subscribe and begin to pull.

        Parameters:
          deliver(Callable): Called on the loop with each delivery.

        Raises:
          BrokerError: If the queue cannot be consumed.
        """
        self._deliver = deliver
        self.session.on_reconnect(self._on_reconnect)
        try:
            await self._open()
        except BaseException:
            self.session.forget(self._on_reconnect)
            raise
        keep = self.session.supervisor.keep
        self._watching = keep(f"watch over pulls of queue {self.route.queue_name!r}", self._watch)
        self._renewing = keep(f"renewal of leases of queue {self.route.queue_name!r}", self._renew)

    async def stop(self) -> None:
        """Stop pulling.  What is held keeps its lease until it is answered."""
        if self._stopped:
            return
        self._stopped = True
        self._ready = False
        self.session.forget(self._on_reconnect)
        for task in (self._watching, self._resuming):
            if task is not None:
                task.cancel()
        await self._unsubscribe()
        await asyncio.gather(*self._recalling, return_exceptions=True)
        self._end_renewal()

    def settle(self, delivery: Delivery, answer: bytes) -> None:
        """Answer the server and let go of the message; from any thread.

        Raises:
          ConnectionClosed: If the answer can no longer be sent.
        """
        # The order matters: answering a message twice is harmless, but one never released keeps its slot.
        self._held.pop(delivery.reply, None)
        try:
            self.session.send(delivery.item(answer, self._on_sent))
        except BrokerError:
            self._held[delivery.reply] = delivery
            raise

    def confirm(self, delivery: Delivery, answer: bytes) -> None:
        """Answer the server, wait for its word, and let go of the message; from any thread but the loop's.

        A server that crashed may have removed the message and lost what its consumer knew of it, and never answers
        then.  After one timeout the answer is sent as others are, and again after a reconnect.

        Raises:
          BrokerConnectionError: If the answer can no longer be sent.
        """
        if self.session.is_open:
            self.session.thread.run(lambda: self._confirm(delivery, answer))
        else:
            self.settle(delivery, answer)

    async def _confirm(self, delivery: Delivery, answer: bytes) -> None:
        try:
            await self.session.request(delivery.reply, answer)
        except BrokerError as error:
            self.session.check_open()
            self.logger.warning(
                "The acknowledgement of message %s of queue %r is not confirmed; it is sent again without waiting: %s",
                delivery,
                self.route.queue_name,
                error,
                extra=repeated(self.route.queue_name, type(error)),
            )
            self.settle(delivery, answer)
        else:
            self._held.pop(delivery.reply, None)
            self._refill_soon()

    def drop(self, delivery: Delivery) -> None:
        """Let go of a message without an answer; from any thread."""
        self._held.pop(delivery.reply, None)

    @property
    def excess(self) -> int:
        """How many messages are held beyond what the pace of now justifies; from any thread."""
        if not self._ready or not self.prefetch.lookahead:
            return 0
        return max(len(self._held) - self.prefetch.capacity, 0)

    async def is_wanted_elsewhere(self) -> bool:
        """Whether another worker asks for the queue's messages; this one does not any more."""
        await self._take_back_credit()
        operation = f"CONSUMER.INFO.{self.route.stream}.{self.route.consumer}"
        info = await self.session.call_api(operation, timeout=GLANCE)
        return bool(info["num_waiting"])

    async def _open(self) -> None:
        self.limits = await self._prepare(self.session, self.route)
        await self._listen()

    async def _listen(self) -> None:
        self._inbox = await self._subscribe(passing=False)
        if self.prefetch.lookahead:
            self._passing_inbox = await self._subscribe(passing=True)
        renew = self.route.names.renew_subject(self.route.queue_name)
        self._subscriptions.append(await self.session.overhear(renew, self._on_renew, optional=True))
        self._credit.forget()
        self._heard = time.monotonic()
        self._ready = True
        self._refill()

    async def _take_back_credit(self) -> None:
        """Take back what was asked for: the server drops requests whose inbox nobody listens on."""
        if not self._ready or not (self._credit.lasting or self._credit.passing):
            return
        self._ready = False
        try:
            await self._unsubscribe()
            await self._listen()
        except BrokerError:
            self._interrupt(None)
            raise
        if self._stopped:
            self._ready = False
            await self._unsubscribe()

    async def _subscribe(self, *, passing: bool) -> str:
        inbox, subscription = await self.session.receive(partial(self._on_message, passing))
        self._subscriptions.append(subscription)
        return inbox

    async def _unsubscribe(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await self.session.unsubscribe(subscription)

    def _refill(self) -> None:
        self._refilling = False
        self._count_finished()
        if self._ready:
            waiting = pending_of(self._last_reply) if self._last_reply else 0
            lasting, passing = self._credit.ask(len(self._held), waiting)
            if lasting:
                self._pull({"batch": lasting, **_LASTING}, self._inbox)
            if passing:
                self._pull({"batch": passing, **_PASSING}, self._passing_inbox)

    def _pull(self, request: dict[str, Any], inbox: str) -> None:
        self.session.outbox.send(OutboxItem(publish_command(self._next, json.dumps(request).encode(), inbox)))

    def _count_finished(self) -> None:
        finished = self._received - len(self._held) - self._finished
        if finished > 0:
            self._finished += finished
            self.prefetch.finished(finished)
            self._end_renewal()

    def _refill_soon(self) -> None:
        """Schedule one request for more messages at the end of this loop iteration."""
        if not self._refilling:
            self._refilling = True
            asyncio.get_running_loop().call_soon(self._refill)

    def _on_message(self, passing: bool, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        self._heard = time.monotonic()
        if not reply.startswith(_ACK_PREFIX):
            self._on_status(parse_headers(headers), passing=passing)
            return
        self._credit.arrived(passing=passing)
        self._recovered()
        delivery = Delivery(reply.decode(), body, headers, self)
        self._last_reply = delivery.reply
        self._held[delivery.reply] = delivery
        self._received += 1
        try:
            self._pass_on(delivery)
        except Exception:
            self._return(delivery)

    def _pass_on(self, delivery: Delivery) -> None:
        if delivery.redelivered:
            task = self.session.supervisor.once(f"recall of message {delivery}", self._deliver_again(delivery))
            self._recalling.add(task)
            task.add_done_callback(self._recalling.discard)
        else:
            self._deliver(delivery)

    async def _deliver_again(self, delivery: Delivery) -> None:
        try:
            delivery.record = await self._recall(self.session, delivery)
            self._deliver(delivery)
        except Exception:
            self._return(delivery)

    def _return(self, delivery: Delivery) -> None:
        """Return a message that could not be passed on; otherwise it would keep its lease and slot for ever."""
        self.logger.critical(
            "Message %s of queue %r could not be passed on; it is delivered again in %d s.",
            delivery,
            self.route.queue_name,
            RETURN_DELAY // 1000,
            exc_info=True,
            extra=repeated(self.route.queue_name),
        )
        delivery.settle(nak(RETURN_DELAY))

    def _on_status(self, headers: dict[str, str], *, passing: bool) -> None:
        status = headers.get(STATUS, "")
        text = headers.get(DESCRIPTION, "")
        if status in ("100", "404", "408"):
            self._recovered()
        if status == "100":
            return
        if passing:
            # No message waits, until a later message reports a number.
            self._last_reply = ""
        if _PENDING in headers or status in ("404", "408"):
            left = int(headers[_PENDING]) if _PENDING in headers else None
            self._credit.ended(left, passing=passing)
            self._refill()
        else:
            self._credit.forget()
            self._interrupt(text or ("no such consumer, or it has no leader" if status == "503" else status))

    def _on_reconnect(self) -> None:
        self._credit.forget()
        self._interrupt(None)

    def _interrupt(self, reason: str | None) -> None:
        """Start again: ensure the stream and the consumer, which may have been deleted, and pull."""
        self._ready = False
        if not self._stopped and (self._resuming is None or self._resuming.done()):
            name = f"resumption of pulls of queue {self.route.queue_name!r}"
            self._resuming = self.session.supervisor.keep(name, partial(self._resume, reason))

    async def _resume(self, reason: str | None) -> None:
        # While the connection is away there is nothing to do; its return interrupts again.
        while not self._stopped and self.session.client.is_connected:
            try:
                if reason is not None:
                    self._failures, pause = compute_backoff(self._failures, factor=250, max_backoff=MAX_PAUSE)
                    self._report(reason)
                    await asyncio.sleep(pause / 1000)
                await self._reopen()
            except BrokerError as error:
                reason = str(error)
            else:
                return

    async def _reopen(self) -> None:
        await self._unsubscribe()
        await self._open()

    def _report(self, reason: str) -> None:
        log = self.logger.critical if self._failures == 1 else self.logger.debug
        log("Cannot consume %s: %s. Trying again until it works.", self.route.describe(), reason)

    def _recovered(self) -> None:
        """Forget earlier failures: only now, a pull request that could be sent was not answered yet."""
        if self._failures:
            self._failures = 0
            self.logger.info("Consuming %s again.", self.route.describe())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            if self._ready and self._credit.lasting and time.monotonic() - self._heard > SILENCE:
                self.logger.debug(
                    "No heartbeat for queue %r for %.1f s; pulling again.", self.route.queue_name, SILENCE
                )
                self._credit.forget()
                self._interrupt(None)
            else:
                # A thread that released a message may have been interrupted before it reported that.
                self._refill()

    async def _renew(self) -> None:
        """Tell the server, three times per ack_wait, that what is held is still being worked on."""
        took = 0.0
        while self._held or not self._stopped:
            await asyncio.sleep(max(self.limits.ack_wait / 3000 - took, 0.05))
            now = time.monotonic()
            self._renew_all(now)
            # On a slow connection, one report in transit is enough.
            await self.session.outbox.has_arrived()
            took = time.monotonic() - now

    def _renew_all(self, now: float) -> None:
        for delivery in list(self._held.values()):
            if self._keeps_lease(delivery, now) and not delivery.progress.queued:
                self.session.outbox.send(delivery.progress)

    def _on_renew(self, *_: bytes) -> None:
        """Show whoever asks which messages this worker holds."""
        self._renew_all(time.monotonic())

    def _keeps_lease(self, delivery: Delivery, now: float) -> bool:
        try:
            ends = delivery.lease_ends
        except Exception:
            # An invalid time limit of one message must not end the leases of the others.
            self.logger.exception(
                "The lease of message %s is renewed without a limit.",
                delivery,
                extra=repeated(self.route.queue_name),
            )
            delivery.start_clock(_no_limit)
            return True
        return ends is None or ends > now

    def _end_renewal(self) -> None:
        if self._stopped and not self._held and self._renewing is not None:
            self._renewing.cancel()


def _no_limit() -> None:
    return None
