"""Whom a command works for: the broker, and where the output goes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any

from .. import admin
from ..broker import JetStreamBroker
from .applications import import_application
from .failures import USAGE, WRONG, Failure, those_there_are, unknown
from .options import CHOSEN_BY_APPLICATION, connect_options, resolve
from .output import Output


class Operator:
    """What commands are given; a context manager.

    Parameters:
      values(Mapping): The values of the shared options.
      typed(frozenset): Which of them stood on the command line, and not in the environment.
    """

    def __init__(self, values: Mapping[str, Any], typed: frozenset[str]) -> None:
        self.values = values
        self.typed = typed
        self.output = Output(as_json=bool(values.get("as_json")))
        self._open = ExitStack()

    def __enter__(self) -> Operator:
        _set_up_logging(verbose=bool(self.values.get("verbose")))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def has_application(self) -> bool:
        """Whether there is an application, which knows more than the server does."""
        return bool(self.values.get("app"))

    @cached_property
    def broker(self) -> JetStreamBroker:
        """The application's broker, or one that makes nothing and knows the queues that the server has.

        Raises:
          Failure: If an option has no sense.
          BrokerConnectionError: If the server cannot be reached.
        """
        broker = self._application() if self.has_application else self._plain()
        self._open.callback(broker.close)
        self._open.enter_context(admin.announced(broker, self.tell))
        if not self.has_application:
            admin.discover(broker)
        return broker

    def queue(self, queue_name: str) -> str:
        """The name of a queue that exists.  Raises Failure."""
        declared = self.broker.get_declared_queues()
        if queue_name not in declared:
            self.check_namespace()
            hint = "" if self.has_application else "; a queue in a stream of somebody else needs --app"
            raise unknown("queue", queue_name, declared, hint)
        return queue_name

    def check_namespace(self) -> None:
        """Raise Failure if the server has nothing of the namespace, which then may be mistyped."""
        if not self.has_application and not self.broker.get_declared_queues() and admin.is_empty(self.broker):
            name = self.broker.names.namespace
            there = those_there_are(name, admin.namespaces(self.broker))
            raise Failure(
                f"the server has nothing of the namespace {name!r}; {there}; --namespace names another, and "
                "'dramatiq-jetstream setup' makes what an application needs",
                WRONG,
            )

    def tell_unseen(self) -> None:
        """Say on stderr of which queues the server alone tells too little."""
        if not self.has_application:
            for queue in admin.unseen(self.broker):
                self.tell(f"Not shown: {queue}.")

    def tell(self, text: str) -> None:
        """Print a remark for people on stderr, where it is in nobody's way."""
        self.output.warn(text)

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence for people."""
        self.output.say(text, style)

    def _application(self) -> JetStreamBroker:
        if self.values.get("namespace"):
            raise Failure("--namespace is for servers without an application: the application has its own", USAGE)
        broker = import_application(self.values["app"], self.values["path"], self.values["modules"])
        here = CHOSEN_BY_APPLICATION - self.typed
        given = resolve({name: value for name, value in self.values.items() if name not in here})
        changed: dict[str, Any] = {name: given[name] for name in ("url", "domain", "timeout") if name in given}
        options = {**broker.settings.options(), **connect_options(given)}
        try:
            broker.settings = replace(broker.settings, connect_options=options, **changed)
        except ValueError as error:
            raise Failure(str(error), USAGE) from error
        broker.connection.settings = broker.settings
        return broker

    def _plain(self) -> JetStreamBroker:
        given = resolve(self.values)
        ours = {name: given[name] for name in ("url", "domain", "timeout", "namespace") if name in given}
        options = connect_options(given)
        try:
            return JetStreamBroker(middleware=[], declare="never", **ours, **options)
        except ValueError as error:
            raise Failure(str(error), USAGE) from error


def _set_up_logging(*, verbose: bool) -> None:
    """Errors reach the user as sentences; the log would say them twice."""
    logger = logging.getLogger("dramatiq_jetstream")
    if verbose:
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
        logger.setLevel(logging.DEBUG)
    elif not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
