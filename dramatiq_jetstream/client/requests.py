"""Requests and their answers: asked again while there is no leader, ended at once where a permission is missing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from nats.aio.msg import Msg

from ..errors import BrokerError, CallTimeout, ConnectionClosed, PermissionDenied, StreamNotFound, UnsupportedServer
from ..settings import BrokerSettings
from . import server_errors
from .border import NoResponders, readable, translated
from .reconnecting_client import ReconnectingClient

T = TypeVar("T")

#: Seconds without an answer after which a request is repeated.
ASK_AGAIN = 2.0

#: Seconds between attempts while a subject has no responder, for example during a leader election.
NO_LEADER_PAUSE = 0.25


class RequestLost(CallTimeout):
    """Raised when a request may not have arrived, or its answer not have come back."""


async def wait_out(
    step: Callable[[float], Awaitable[T]],
    passing: Callable[[BrokerError], bool],
    timeout: float,
    pause: float = NO_LEADER_PAUSE,
) -> T:
    """Take a step, and again while it fails with what may pass, within a timeout.

    Parameters:
      step(Callable): Takes the step; called with the number of seconds left.
      passing(Callable): Whether an error may pass.
      timeout(float): The seconds within which the last attempt starts.
      pause(float): The seconds between two attempts.

    Raises:
      BrokerError: What the last attempt ended with.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return await step(max(deadline - time.monotonic(), 0.001))
        except BrokerError as error:
            if not passing(error) or time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause)


class Requests:
    """Asks the server.  Methods are coroutines of the loop unless they say otherwise.

    Parameters:
      settings(BrokerSettings): Where JetStream's API is, and how long to wait.
      connected(ReconnectingClient): The client.
    """

    def __init__(self, settings: BrokerSettings, connected: ReconnectingClient) -> None:
        self.api = f"$JS.{settings.domain}.API" if settings.domain else "$JS.API"
        self.timeout = settings.timeout / 1000
        self._settings = settings
        self._connected = connected
        self._asking: set[tuple[str, asyncio.Future[BrokerError]]] = set()
        #: Why answers cannot arrive, if they cannot.
        self.denied_inbox: PermissionDenied | None = None

    async def request(
        self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None, *, timeout: float | None = None
    ) -> Msg:
        """Send a request, which may arrive more than once, and return the answer.

        Parameters:
          subject(str): The subject.
          body(bytes): The request.
          headers(dict): Its headers.
          timeout(float): The seconds to wait at most.  Defaults to the broker's timeout.

        Raises:
          CallTimeout: If there is no answer within the timeout.
          AuthenticationFailed: If there is none because the server does not let this user in again.
          PermissionDenied: If the server does not let this user ask.
          UnsupportedServer: If the server has JetStream switched off.
        """

        async def attempt(left: float) -> Msg:
            try:
                # Requests to a leader that fails are lost; the next leader answers only new ones.
                return await self.ask(subject, body, headers, min(left, ASK_AGAIN))
            except NoResponders as error:
                self._check_jetstream(error)
                raise

        def may_pass(error: BrokerError) -> bool:
            # A client that was closed for good is being replaced.
            return isinstance(error, CallTimeout) or (isinstance(error, ConnectionClosed) and self._connected.is_open)

        limit = self.timeout if timeout is None else timeout
        try:
            return await wait_out(attempt, may_pass, limit)
        except NoResponders as error:
            raise CallTimeout(
                f"nobody answers {subject!r}: there is no leader, the domain is wrong, or JetStream is off"
            ) from error
        except CallTimeout as error:
            denial = self._connected.denial
            if denial is None:
                raise
            raise denial from error

    async def ask(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout: float) -> Msg:
        """Send a request once, and wait so many seconds for the answer.

        Raises:
          NoResponders: If the subject has no responder.
          RequestLost: If the connection broke meanwhile.
          CallTimeout: If there is no answer in time.
          PermissionDenied: If the server does not let this user ask.
        """
        self.check_inbox()
        answer: asyncio.Future[Any] = asyncio.ensure_future(
            self._connected.client.request(subject, body, timeout, headers=headers)
        )
        try:
            with translated(f"the request to {subject!r}", self._connected.address), self.asking(subject) as failed:
                await asyncio.wait([answer, failed], return_when=asyncio.FIRST_COMPLETED)
                if failed.done() and not answer.done():
                    raise failed.result()
                found: Msg = await answer
                return found
        finally:
            answer.cancel()

    @contextmanager
    def asking(self, subject: str) -> Iterator[asyncio.Future[BrokerError]]:
        """Give a future of what ends a request without an answer: a missing permission, a lost connection."""
        failed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        asking = (subject, failed)
        self._asking.add(asking)
        try:
            yield failed
        finally:
            self._asking.discard(asking)

    async def probe(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout: float) -> None:
        """Send a request only to check this user's permission; it needs no responder and no answer in time.

        Raises:
          PermissionDenied: If the server does not let this user ask.
        """
        try:
            await self.ask(subject, body, headers, timeout)
        except CallTimeout:
            return

    async def call_api(self, operation: str, body: object = None, *, timeout: float | None = None) -> dict[str, Any]:
        """Call JetStream's API.

        Parameters:
          operation(str): What follows the API's prefix, such as ``STREAM.INFO.<stream>``.
          body(object): The request, to be written as JSON.
          timeout(float): The seconds to wait at most.  Defaults to the broker's timeout.

        Raises:
          StreamNotFound, ConsumerNotFound: If what it is about does not exist.
          ApiError: If the server answers with another error; with one that may pass, until the timeout.

        Returns:
          dict: The answer.
        """
        request = b"" if body is None else json.dumps(body, allow_nan=False).encode()

        async def attempt(left: float) -> dict[str, Any]:
            return await self._call_once(operation, request, left)

        return await wait_out(attempt, server_errors.is_passing, self.timeout if timeout is None else timeout)

    async def _call_once(self, operation: str, request: bytes, timeout: float) -> dict[str, Any]:
        answer = await self.request(f"{self.api}.{operation}", request, timeout=timeout)
        with readable(operation):
            fields: dict[str, Any] = json.loads(answer.data)
            error = fields.get("error")
        if error is not None:
            raise server_errors.error_of(operation, error, self._connected.address)
        return fields

    async def persist(
        self,
        step: Callable[[], Awaitable[T]],
        missing: Callable[[StreamNotFound], object],
        timeout: float | None = None,
    ) -> T:
        """Take a step, and repeat it within the timeout while its stream does not respond: it may have no leader.

        Parameters:
          step(Callable): What needs the stream.
          missing(Callable): Told each time that the stream was not there; it raises to give up.
          timeout(float): The seconds to go on.  Defaults to the broker's timeout.
        """

        async def attempt(_: float) -> T:
            return await step()

        def may_pass(error: BrokerError) -> bool:
            if not isinstance(error, StreamNotFound):
                return False
            missing(error)
            return True

        return await wait_out(attempt, may_pass, self.timeout if timeout is None else timeout)

    def check_inbox(self) -> None:
        """Raise PermissionDenied if the server's answers cannot arrive; from any thread."""
        if self.denied_inbox is not None:
            raise self.denied_inbox

    def fail(self, error_of: Callable[[str], BrokerError | None]) -> None:
        """End requests, each with the error that a function gives for its subject, if it gives one."""
        for subject, failed in list(self._asking):
            error = error_of(subject)
            if error is not None and not failed.done():
                failed.set_result(error)

    def _check_jetstream(self, error: NoResponders) -> None:
        if not self._settings.domain and not self._connected.client.server_info.get("jetstream"):
            raise UnsupportedServer(
                f"the server at {self._connected.address} has JetStream switched off: start it with 'nats-server -js', "
                "or add a jetstream block to its configuration"
            ) from error
