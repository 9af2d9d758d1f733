"""The consumer that dramatiq's worker sees; all I/O happens in the puller, on the loop."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty
from typing import Protocol

from dramatiq import Consumer, MessageProxy
from dramatiq.errors import DecodeError
from dramatiq.logging import get_logger

from .delivery import Delivery, JetStreamMessage, nak
from .errors import BrokerError
from .puller import Puller
from .threads import Buffer, is_green
from .wire import PayloadFormat

try:
    from dramatiq.worker import ConsumerThread
except ImportError:
    # dramatiq 1
    from dramatiq.worker import _ConsumerThread as ConsumerThread

#: Bytes up to which a message is decoded on the loop.
SMALL = 16 * 1024

#: Milliseconds until a message comes back that could not be taken care of.
RETRY_DELAY = 5_000


class Handling(Protocol):
    """What becomes of messages that are not simply done.  All of it is called on dramatiq's threads."""

    def admit(self, message: JetStreamMessage) -> bool:
        """Whether a message may run here; one that may not is taken care of."""

    def knows(self, message: JetStreamMessage) -> bool:
        """Whether a message's actor is declared here."""

    def undecodable(self, delivery: Delivery, error: DecodeError) -> None:
        """Take care of a message that is none."""

    def acknowledge(self, message: JetStreamMessage) -> None:
        """Remove a message that is done."""

    def retry(self, message: JetStreamMessage, delay: int) -> None:
        """Have a message delivered again later."""

    def come_back(self, message: JetStreamMessage) -> None:
        """Have a message delivered again because a hook could not hand its work on."""

    def reject(self, message: JetStreamMessage) -> None:
        """Dead-letter a message."""

    def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """Return messages that did not run, without spending an attempt."""


class JetStreamConsumer(Consumer):
    """Iterates over the messages of one queue.

    Unlike the base class promises, acknowledgements may come from any thread.

    Parameters:
      puller(Puller): Fills the buffer.
      buffer(Buffer): Where the puller puts deliveries; None wakes the iterator.
      payload(PayloadFormat): Decodes them.
      handling(Handling): Takes care of whatever is not simply done.
      timeout(int): How many milliseconds an iteration waits for a message.
    """

    def __init__(
        self,
        puller: Puller,
        buffer: Buffer[Delivery | None],
        payload: PayloadFormat,
        handling: Handling,
        timeout: int,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.puller = puller
        self.queue_name = puller.route.queue_name
        self.timeout = timeout / 1000
        self._buffer = buffer
        self._payload = payload
        self._handling = handling
        # Only a worker's own thread consumes; where threads are greenlets, none may touch the worker's queue.
        current = threading.current_thread()
        self._thread = current if isinstance(current, ConsumerThread) and not is_green() else None

    def __next__(self) -> JetStreamMessage | None:
        try:
            delivery = self._buffer.get(timeout=self.timeout)
        except Empty:
            return None
        return None if delivery is None else self._receive(delivery)

    def offer(self, delivery: Delivery) -> None:
        """Take a delivery from the puller; on the loop.

        A plain one goes straight to the worker's threads: to wake dramatiq's consumer thread in
        between would take longer than all that is done here.
        """
        if not self._pass_on(delivery):
            self._buffer.put(delivery)

    def ack(self, message: MessageProxy) -> None:
        """Acknowledge a message; or, if a hook asked for it, have it delivered again.

        Raises:
          BrokerConnectionError: If the server cannot be told now; dramatiq tries again.
        """
        mine = _own(message)
        if mine.hook_error is not None:
            self._handling.come_back(mine)
        elif mine.retry_delay is not None:
            self._handling.retry(mine, mine.retry_delay)
        else:
            self._handling.acknowledge(mine)

    def nack(self, message: MessageProxy) -> None:
        """Move a message to the dead letters, or wherever its queue's settings say.

        Raises:
          BrokerConnectionError: If the server cannot be told now; dramatiq tries again.
        """
        mine = _own(message)
        if mine.hook_error is not None:
            self._handling.come_back(mine)
        else:
            self._handling.reject(mine)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Put messages that did not run back into the queue at once, their attempts not spent."""
        self._handling.give_back([_own(message).delivery for message in messages])

    def stop(self) -> None:
        """Stop pulling and put what was not handed out back into the queue."""
        session = self.puller.session
        if session.is_open:
            session.thread.submit(self.puller.stop()).result()
        self._handling.give_back(list(self._unread()))
        self._buffer.put(None)

    def close(self) -> None:
        """Stop, as :meth:`stop` does.  Messages that are still running keep their leases."""
        self.stop()

    def _pass_on(self, delivery: Delivery) -> bool:
        thread = self._thread
        if thread is None or thread.consumer is not self or thread.paused or not thread.running:
            return False
        message = self._plain(delivery)
        if message is None:
            return False
        try:
            thread.handle_message(message)
        except Exception:
            self.logger.critical("Message %s could not be passed on at once.", delivery, exc_info=True)
            return False
        return True

    def _plain(self, delivery: Delivery) -> JetStreamMessage | None:
        """The message of a delivery that nothing needs to be asked or done about."""
        if delivery.redelivered or delivery.was_scheduled or len(delivery.body) > SMALL or not self._payload.is_quick:
            return None
        try:
            message = JetStreamMessage(self._payload.decode(delivery), delivery)
        except DecodeError:
            # It is decoded once more where something can be done about it.
            return None
        return message if not message.options and self._handling.knows(message) else None

    def _receive(self, delivery: Delivery) -> JetStreamMessage | None:
        try:
            message = self._decode(delivery)
            return message if message and self._handling.admit(message) else None
        except BrokerError as error:
            self.logger.error("Message %s stays in the queue for now: %s", delivery, error)
            delivery.settle(nak(RETRY_DELAY))
            return None

    def _decode(self, delivery: Delivery) -> JetStreamMessage | None:
        try:
            decoded = self._payload.decode(delivery)
        except DecodeError as error:
            self._handling.undecodable(delivery, error)
            return None
        return JetStreamMessage(decoded, delivery)

    def _unread(self) -> Iterator[Delivery]:
        while True:
            try:
                delivery = self._buffer.get_nowait()
            except Empty:
                return
            if delivery is not None:
                yield delivery


def _own(message: MessageProxy) -> JetStreamMessage:
    if not isinstance(message, JetStreamMessage):
        raise TypeError(f"{message!r} did not come from this consumer")
    return message
