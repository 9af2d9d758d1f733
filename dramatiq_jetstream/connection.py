"""The synchronous face of a session: one per process, opened at first use, anew after a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from .errors import ConnectionClosed
from .publisher import Outcome, Receipt
from .session import Session
from .settings import BrokerSettings
from .threads import new_slot
from .wire import Publication

T = TypeVar("T")

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()

#: Sessions of the parent process.  Their loops and sockets are the parent's, so nothing here may
#: close them or have them collected.
_inherited: list[Session] = []


class Connection:
    """Opens a session when one is needed.

    Parameters:
      settings(BrokerSettings): Where to connect, and how.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._session: Session | None = None
        _connections.add(self)

    def session(self) -> Session:
        """The session of this process, opened if there is none.

        Raises:
          ServerUnreachable, AuthenticationFailed, UnsupportedServer: If it cannot be opened.
        """
        session = self._session
        if session is None:
            with self._lock:
                session = self._session
                if session is None:
                    session = Session(self.settings)
                    session.open()
                    self._session = session
        return session

    def current(self) -> Session | None:
        """The session of this process, if it is open."""
        return self._session

    def call(self, function: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function on the session's loop and wait for what it returns.

        Raises:
          ConnectionClosed: If the session is closed meanwhile.
        """
        session = self.session()
        future = session.thread.submit(function(session))
        try:
            return future.result()
        except CancelledError as error:
            raise ConnectionClosed("the connection was closed by another thread before this was done") from error
        except BaseException:
            # Nobody waits for it any more when a signal or a time limit strikes; if it failed, this does nothing.
            future.cancel()
            raise

    def publish(self, publication: Publication) -> Receipt:
        """Publish a message and wait until it is stored.

        Raises:
          MessageTooLarge: If the server takes no message of that size.
          StreamNotFound: If no stream listens on its subject.
          ApiError: If the stream refuses it.
          CallTimeout: If there is no answer within the timeout; the message may be stored.
        """
        session = self.session()
        session.check_size(publication)
        slot = new_slot()
        token = session.submit(publication, slot.put, at_once=True)
        try:
            outcome: Outcome = slot.take(session.timeout)
        except TimeoutError as error:
            raise session.unconfirmed(publication) from error
        finally:
            session.publisher.forget(token)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        """Close the session, if there is one.  The next use opens another."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._session is not None:
            _inherited.append(self._session)
            _release_socket(self._session)
            self._session = None


def _release_socket(session: Session) -> None:
    """Let go of the parent's sockets, so that the server sees it close when the parent does.

    Their numbers stay taken: the parent's objects, of which this process has copies,
    would otherwise close whatever got that number next.
    """
    for descriptor in session.link.socket_descriptors():
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, descriptor)
        os.close(nothing)


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
