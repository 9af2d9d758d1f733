"""The synchronous interface of a session: one per process, opened at first use and again after a fork."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ServerUnreachable
from ..settings import BrokerSettings
from ..wire import Publication
from .loop_thread import check_may_block
from .publisher import Outcome, Receipt
from .session import Session
from .threads import Slot, is_green, new_slot, start_thread

T = TypeVar("T")

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()

#: Sessions of the parent process.  Their loops and sockets are the parent's, so nothing here may
#: close them or have them collected.
_inherited: list[Session] = []

#: Seconds that an attempt to open a session may end after its timeout.
MOMENT = 0.5

#: Seconds without an answer to a publish until its caller looks why, and between two looks.
LOOK_AFTER = 1.0
LOOK_AGAIN = 2.0

_CURRENT = "current"


class Connection:
    """Opens a session when one is needed.

    No lock guards the opening: dramatiq throws exceptions into threads, and one that hits a thread which
    holds a lock may leave it taken.  A thread of its own opens; each caller waits for it no longer than its timeout.

    Parameters:
      settings(BrokerSettings): Where to connect, and how.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self._session: Session | None = None
        self._openings: dict[str, _Opening] = {}
        _connections.add(self)

    def session(self, timeout: float | None = None) -> Session:
        """The session of this process, opened if there is none.

        Parameters:
          timeout(float): The seconds to wait for it at most.  Defaults to the broker's timeout.

        Raises:
          ServerUnreachable, AuthenticationFailed, UnsupportedServer: If it cannot be opened.
          BlockingCallRefused: On the connection's own thread, if there is none.
        """
        session = self._session
        if session is not None and session.thread.is_alive:
            return session
        return self._open(timeout)

    def current(self) -> Session | None:
        """The session of this process, if it is open."""
        session = self._session
        return session if session is not None and session.is_open else None

    def call(self, function: Callable[[Session], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine function on the session's loop and wait for what it returns.

        Parameters:
          function(Callable): What to run.
          timeout(float): The seconds to wait for the session at most.  Defaults to the broker's timeout.

        Raises:
          ConnectionClosed: If the session is closed meanwhile.
          BlockingCallRefused: On the connection's own thread, which must not wait for itself.
        """
        check_may_block()
        session = self.session(timeout)
        return session.thread.run(lambda: function(session))

    def publish(self, publication: Publication, look: Callable[[float], object] | None = None) -> Receipt:
        """Publish a message and wait until it is stored.

        Parameters:
          publication(Publication): The message.
          look(Callable): Called when there is no answer for a while, with the seconds that are left; raises if there
            will be none.

        Raises:
          StreamNotFound: If no stream listens on its subject.
          ApiError: If the stream refuses it.
          CallTimeout: If there is no answer within the timeout; the message may be stored.
          BlockingCallRefused: On the connection's own thread, which must not wait for itself.
        """
        check_may_block()
        session = self.session()
        session.check_inbox()
        publisher, slot = session.publisher, new_slot()
        # The token exists before the publish, so the publish is forgotten wherever an exception interrupts this.
        token = publisher.new_token()
        try:
            publisher.submit(publication, slot.put, token=token, at_once=True)
            outcome: Outcome = _take(slot, session.timeout, look)
        except TimeoutError as error:
            raise session.unconfirmed(publication, publisher.forget(token)) from error
        finally:
            publisher.forget(token)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        """Close the session, if there is one.  The next use opens another.

        Raises:
          BlockingCallRefused: On the connection's own thread.
        """
        check_may_block()
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open(self, timeout: float | None) -> Session:
        check_may_block()
        deadline = time.monotonic() + (self.settings.timeout / 1000 if timeout is None else timeout)
        while True:
            found = self._openings.get(_CURRENT)
            opening = found or self._openings.setdefault(_CURRENT, _Opening(self))
            outcome = opening.wait(deadline)
            if isinstance(outcome, Session):
                return outcome
            # Another caller's attempt ends with that caller's timeout, and not with this one's.
            if found is None or not isinstance(outcome, ServerUnreachable) or time.monotonic() >= deadline:
                raise outcome

    def _after_fork(self) -> None:
        self._openings = {}
        if self._session is not None:
            _inherited.append(self._session)
            session, self._session = self._session, None
            _release_sockets(session)


class _Opening:
    """An attempt to open a session, for which any number of threads may wait.

    Parameters:
      connection(Connection): What gets the session.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runners: dict[str, object] = {}
        self._outcome: Session | BaseException | None = None
        self._waiting: list[Callable[[None], None]] = []

    def wait(self, deadline: float) -> Session | BaseException:
        """The session, or why there is none.

        Parameters:
          deadline(float): Until when to wait, on the monotonic clock.
        """
        slot = new_slot()
        self._waiting.append(slot.put)
        if not self._runners:
            self._begin()
        if self._outcome is None:
            try:
                # An attempt that starts now ends at the deadline and reports why it failed.
                slot.take(max(deadline - time.monotonic(), 0) + MOMENT)
            except TimeoutError:
                return ServerUnreachable(
                    f"the connection was not open within {self._connection.settings.timeout} ms: is the server running?"
                )
        assert self._outcome is not None
        return self._outcome

    def _begin(self) -> None:
        # If an exception interrupts this thread here, the next waiting thread starts the attempt.
        if is_green():
            # Two threads that make their first gevent hubs at once may wait for each other for ever.
            self._run()
        else:
            start_thread(self._run, "dramatiq-jetstream-opening")

    def _run(self) -> None:
        """Open the session, on a thread that no exception from outside hits; only the first to come does it."""
        token = object()
        if self._runners.setdefault(_CURRENT, token) is not token:
            return
        try:
            self._outcome = self._open()
        except BaseException as error:
            self._outcome = error
        finally:
            self._connection._openings.pop(_CURRENT, None)
            for wake in list(self._waiting):
                wake(None)

    def _open(self) -> Session:
        connection = self._connection
        session = connection._session
        if session is None or not session.thread.is_alive:
            session = Session(connection.settings, connection.session)
            session.open()
            connection._session = session
        return session


def _take(slot: Slot, timeout: float, look: Callable[[float], object] | None) -> Outcome:
    """Wait for an answer, and look now and then why there is none.  Raises TimeoutError, and what looking raises."""
    deadline, pause = time.monotonic() + timeout, LOOK_AFTER
    while True:
        left = deadline - time.monotonic()
        last = look is None or pause >= left
        try:
            outcome: Outcome = slot.take(left if last else pause)
        except TimeoutError:
            if last:
                raise
        else:
            return outcome
        if look is not None:
            look(max(deadline - time.monotonic(), 0.0))
        pause = LOOK_AGAIN


def _release_sockets(session: Session) -> None:
    """Let go of the parent's sockets, so that the server sees it close when the parent does.

    Their numbers stay taken: the parent's objects, of which this process has copies,
    would otherwise close whatever got that number next.
    """
    for descriptor in session.client.descriptors:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, descriptor)
        os.close(nothing)


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
