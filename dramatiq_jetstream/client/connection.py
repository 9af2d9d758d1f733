"""The synchronous face of a session: one per process, opened at first use, anew after a fork."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ServerUnreachable
from ..settings import BrokerSettings
from ..wire import Publication
from .publisher import Outcome, Receipt
from .session import Session
from .threads import is_green, new_slot, start_thread

T = TypeVar("T")

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()

#: Sessions of the parent process.  Their loops and sockets are the parent's, so nothing here may
#: close them or have them collected.
_inherited: list[Session] = []

_CURRENT = "current"


class Connection:
    """Opens a session when one is needed.

    No lock guards the opening: dramatiq throws exceptions into threads, and one that hits a thread which
    holds a lock may leave it taken.  One thread opens, each caller waits for it no longer than its timeout.

    Parameters:
      settings(BrokerSettings): Where to connect, and how.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self._session: Session | None = None
        self._openings: dict[str, _Opening] = {}
        _connections.add(self)

    def session(self) -> Session:
        """The session of this process, opened if there is none.

        Raises:
          ServerUnreachable, AuthenticationFailed, UnsupportedServer: If it cannot be opened.
        """
        session = self._session
        if session is not None and session.thread.is_alive:
            return session
        return self._open()

    def current(self) -> Session | None:
        """The session of this process, if it is open."""
        return self._session

    def call(self, function: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function on the session's loop and wait for what it returns.

        Raises:
          ConnectionClosed: If the session is closed meanwhile.
          RuntimeError: On the connection's own thread, which must not wait for itself.
        """
        session = self.session()
        return session.thread.call(function(session))

    def publish(self, publication: Publication) -> Receipt:
        """Publish a message and wait until it is stored.

        Raises:
          StreamNotFound: If no stream listens on its subject.
          ApiError: If the stream refuses it.
          CallTimeout: If there is no answer within the timeout; the message may be stored.
          RuntimeError: On the connection's own thread, which must not wait for itself.
        """
        session = self.session()
        session.thread.check_other_thread()
        session.check_inbox()
        slot, token, passing = new_slot(), b"", None
        try:
            token = session.publisher.submit(publication, slot.put, at_once=True)
            outcome: Outcome = slot.take(session.timeout)
        except TimeoutError as error:
            passing = session.publisher.forget(token)
            raise session.unconfirmed(publication, passing) from error
        finally:
            session.publisher.forget(token)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        """Close the session, if there is one.  The next use opens another."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open(self) -> Session:
        opening = self._openings.setdefault(_CURRENT, _Opening(self))
        try:
            opening.begin()
            opened = opening.wait()
        finally:
            # Whoever comes later tries anew.
            if self._openings.get(_CURRENT) is opening:
                self._openings.pop(_CURRENT, None)
        if isinstance(opened, BaseException):
            raise opened
        return opened

    def _after_fork(self) -> None:
        self._openings = {}
        if self._session is not None:
            _inherited.append(self._session)
            _release_sockets(self._session)
            self._session = None


class _Opening:
    """An attempt to open a session, for which any number of threads may wait.

    Parameters:
      connection(Connection): What gets the session.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._begun: dict[str, object] = {}
        self._outcome: Session | BaseException | None = None
        self._waiting: list[Callable[[None], None]] = []

    def begin(self) -> None:
        """Begin, unless another thread did."""
        token = object()
        if self._begun.setdefault(_CURRENT, token) is not token:
            return
        if is_green():
            # Two threads that make their first gevent hubs at once may wait for each other for ever.
            self._run()
        else:
            start_thread(self._run, "dramatiq-jetstream-opening")

    def wait(self) -> Session | BaseException:
        """The session, or why there is none."""
        slot = new_slot()
        self._waiting.append(slot.put)
        # A session closes what it could not open, which may take a moment longer than its timeout.
        timeout = self._connection.settings.timeout / 1000 + 1
        if self._outcome is None:
            try:
                slot.take(timeout)
            except TimeoutError as error:
                raise ServerUnreachable(
                    f"the connection was not open within {self._connection.settings.timeout} ms: is the server running?"
                ) from error
        assert self._outcome is not None
        return self._outcome

    def _run(self) -> None:
        try:
            session = Session(self._connection.settings)
            session.open()
        except BaseException as error:
            self._outcome = error
        else:
            self._connection._session = self._outcome = session
        for wake in self._waiting:
            wake(None)


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
