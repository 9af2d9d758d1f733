"""Subscriptions that outlive the client: when it is replaced, the next one subscribes to the same subjects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.msg import Msg

from ..errors import BrokerError
from ..logs import get_logger
from .border import translated
from .commands import header_block
from .framing import Receiver
from .nats_internals import NatsClient, id_of
from .reconnecting_client import ReconnectingClient


class Listening:
    """One subject that is listened on, by whichever client is the present one.

    Parameters:
      subject(str): The subject.
      receiver(Receiver): Takes its messages.
    """

    def __init__(self, subject: str, receiver: Receiver) -> None:
        self.subject = subject
        self.receiver = receiver
        #: The client that subscribed last, and its subscription.
        self.client: NatsClient | None = None
        self.subscription: Any = None


class Subscriptions:
    """All subscriptions of a session.  Methods are coroutines of its loop.

    Parameters:
      connected(ReconnectingClient): Holds the present client.
      timeout(float): The seconds that the end of a subscription may take.
    """

    def __init__(self, connected: ReconnectingClient, timeout: float) -> None:
        self.logger = get_logger(__name__, type(self))
        self._connected = connected
        self._timeout = timeout
        self._all: set[Listening] = set()

    @property
    def are_current(self) -> bool:
        """Whether the present client has them all."""
        return all(listening.client is self._connected.client for listening in self._all)

    async def add(self, subject: str, receiver: Receiver) -> Listening:
        """Listen on a subject.

        Raises:
          BrokerError: If that is not possible.
        """
        listening = Listening(subject, receiver)
        await self._subscribe(listening)
        self._all.add(listening)
        return listening

    async def renew(self) -> None:
        """Subscribe again to the subjects of the previous client."""
        for listening in list(self._all):
            if listening.client is not self._connected.client:
                await self._subscribe(listening)
                if listening not in self._all:
                    await self._unsubscribe(listening, drain=False)

    async def remove(self, listening: Listening, *, drain: bool) -> None:
        """Unsubscribe; optionally after the messages already in transit have been handled."""
        if listening in self._all:
            self._all.discard(listening)
            await self._unsubscribe(listening, drain=drain)

    async def _subscribe(self, listening: Listening) -> None:
        receiver, client = listening.receiver, self._connected.client

        async def on_message(msg: Msg) -> None:
            receiver(msg.subject.encode(), msg.reply.encode(), header_block(msg.headers or {}), msg.data)

        # A WebSocket's messages come through nats-py.
        callback = on_message if client.receivers is None else None
        with translated(f"subscribing to {listening.subject!r}", self._connected.address):
            subscription = await client.subscribe(listening.subject, cb=callback)
        if client.receivers is not None:
            client.receivers[id_of(subscription)] = receiver
        listening.client, listening.subscription = client, subscription

    async def _unsubscribe(self, listening: Listening, *, drain: bool) -> None:
        client, subscription = listening.client, listening.subscription
        if client is None or client is not self._connected.client or client.is_closed:
            return
        try:
            with translated("unsubscribing", self._connected.address):
                if drain and client.is_connected:
                    await asyncio.wait_for(subscription.drain(), self._timeout)
                else:
                    await subscription.unsubscribe()
        except (BrokerError, asyncio.TimeoutError) as error:
            # The connection broke, or does not answer; nats-py would subscribe again once it is back.
            self.logger.debug("Unsubscribing from %r: %s", listening.subject, str(error) or type(error).__name__)
            client.forget(subscription)
        if client.receivers is not None:
            client.receivers.pop(id_of(subscription), None)


class Subscription:
    """A subscription that lasts until it is closed, over every reconnect; a context manager.

    Parameters:
      end(Callable): Ends it.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the messages; may be called in the callback."""
        self._end()
