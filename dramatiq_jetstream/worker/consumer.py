"""The consumer that dramatiq's worker sees; all I/O happens in the puller, on the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import Empty

from dramatiq import Consumer, MessageProxy
from dramatiq.errors import DecodeError

from ..client import Buffer, is_green
from ..deliveries import Delivery, JetStreamMessage, Puller
from ..errors import BrokerConnectionError, BrokerError
from ..logs import get_logger, repeated
from ..wire import PayloadFormat
from .dramatiq_internals import current_consumer_thread, hand_over, take_last, takes
from .handling import QueueHandling
from .redelivery import is_deliverable

#: Bytes up to which a message is decoded on the loop.
SMALL = 16 * 1024

#: How often a message that waits here for a free thread is given back for an idle worker.
MAX_RETURNS = 3


class JetStreamConsumer(Consumer):
    """Iterates over the messages of one queue.

    Unlike the base class promises, acknowledgements may come from any thread.

    Parameters:
      puller(Puller): Fills the buffer.
      buffer(Buffer): Where the puller puts deliveries; None wakes the iterator.
      payload(PayloadFormat): Decodes them.
      handling(QueueHandling): Takes care of whatever is not simply done.
      timeout(int): How many milliseconds an iteration waits for a message.
    """

    def __init__(
        self,
        puller: Puller,
        buffer: Buffer[Delivery | None],
        payload: PayloadFormat,
        handling: QueueHandling,
        timeout: int,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.puller = puller
        self.queue_name = puller.route.queue_name
        self.timeout = timeout / 1000
        self._buffer = buffer
        self._payload = payload
        self._handling = handling
        # With gevent, only greenlets of the worker's own thread may use its queue.
        self._thread = None if is_green() else current_consumer_thread()

    def __next__(self) -> JetStreamMessage | None:
        try:
            delivery = self._buffer.get(timeout=self.timeout)
        except Empty:
            self._give_back_excess()
            return None
        return None if delivery is None else self._receive(delivery)

    def offer(self, delivery: Delivery) -> None:
        """Take a delivery from the puller; on the loop.

        A message without special handling is passed directly to the worker's threads.  Waking
        dramatiq's consumer thread first would take longer than the rest of this method.
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
            self._answer(mine, self._handling.come_back)
        elif mine.retry_delay is not None:
            self._answer(mine, partial(self._handling.retry, delay=mine.retry_delay))
        else:
            self._answer(mine, self._handling.acknowledge)

    def nack(self, message: MessageProxy) -> None:
        """Move a message to the dead letters, or wherever its queue's settings say.

        Raises:
          BrokerConnectionError: If the server cannot be told now; dramatiq tries again.
        """
        mine = _own(message)
        self._answer(mine, self._handling.reject if mine.hook_error is None else self._handling.come_back)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Put messages that did not run back into the queue at once, their attempts not spent."""
        self._handling.give_back([_own(message).delivery for message in messages])

    def stop(self) -> None:
        """Stop pulling and put what was not handed out back into the queue."""
        session = self.puller.session
        if session.is_inherited:
            # The prefetched messages belong to the parent process.
            return
        if session.is_open:
            session.thread.run(self.puller.stop)
        self._handling.give_back(list(self._unread()))
        self._buffer.put(None)

    def close(self) -> None:
        """Stop, as :meth:`stop` does.  Messages that are still running keep their leases."""
        self.stop()

    def _give_back_excess(self) -> None:
        """Give back what was prefetched while messages were quick, and waits behind slow ones, to an idle worker.

        No message is given back over and over, nor one that the server would not deliver again.
        """
        count, thread = self.puller.excess, self._thread
        if not count or thread is None or not takes(thread, self):
            return
        try:
            if not self.puller.session.thread.run(self.puller.is_wanted_elsewhere):
                return
        except BrokerError as error:
            self.logger.debug("Whether another worker of queue %r is idle is not known: %s", self.queue_name, error)
            return
        taken = [_own(message).delivery for message in take_last(thread, count, self._may_go_back)]
        taken.sort(key=lambda delivery: delivery.origin.sequence)
        self._handling.give_back(taken)

    def _may_go_back(self, message: MessageProxy) -> bool:
        if not isinstance(message, JetStreamMessage):
            return False
        delivery = message.delivery
        return delivery.lease_keeper is self.puller and delivery.returned < MAX_RETURNS and is_deliverable(delivery)

    def _pass_on(self, delivery: Delivery) -> bool:
        thread = self._thread
        if thread is None or not takes(thread, self):
            return False
        message = self._plain(delivery)
        if message is None:
            return False
        try:
            hand_over(thread, message)
        except Exception:
            self.logger.critical(
                "Message %s could not be passed on at once.",
                delivery,
                exc_info=True,
                extra=repeated(self.queue_name),
            )
            return False
        return True

    def _plain(self, delivery: Delivery) -> JetStreamMessage | None:
        """The message of a delivery that nothing needs to be asked or done about."""
        if delivery.redelivered or delivery.was_scheduled or len(delivery.body) > SMALL or not self._payload.is_quick:
            return None
        try:
            message = JetStreamMessage(self._payload.decode(delivery), delivery)
        except Exception:
            # The consumer's thread decodes it again and handles the error.
            return None
        return message if message.is_plain and self._handling.knows(message) else None

    def _receive(self, delivery: Delivery) -> JetStreamMessage | None:
        message = None
        try:
            message = self._decode(delivery)
            return message if message and self._handling.admit(message) else None
        except Exception as error:
            self._handling.unhandled(delivery, error, message)
            return None

    def _answer(self, message: JetStreamMessage, step: Callable[[JetStreamMessage], None]) -> None:
        try:
            step(message)
        except BrokerConnectionError:
            # dramatiq tries again.
            raise
        except Exception as error:
            self._handling.unhandled(message.delivery, error, message)

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
