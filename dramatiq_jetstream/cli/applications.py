"""Importing an application as the ``dramatiq`` command does."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence

import dramatiq

from ..broker import JetStreamBroker
from .failures import USAGE, Failure


def import_application(app: str, path: Sequence[str], modules: Sequence[str]) -> JetStreamBroker:
    """Import an application and return its broker.

    Parameters:
      app(str): ``module``, whose broker is dramatiq's global one, or ``module:broker``.
      path(Sequence[str]): Where to import from, besides what Python knows.
      modules(Sequence[str]): Further modules with actors.

    Raises:
      Failure: If a module is not found, or the broker is none of ours.
    """
    sys.path[:0] = [folder for folder in path or ["."] if folder not in sys.path]
    name, _, attributes = app.partition(":")
    module = _import(name)
    broker = _attribute(module, app, attributes) if attributes else _global_broker(app)
    for other in modules:
        _import(other)
    if not isinstance(broker, JetStreamBroker):
        raise Failure(
            f"the broker of {app!r} is a {type(broker).__name__}, not a JetStreamBroker: name the module that sets it, "
            "as MODULE or MODULE:BROKER",
            USAGE,
        )
    return broker


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Failure(f"{name!r} cannot be imported: {error}; is --path right?", USAGE) from error


def _attribute(module: object, app: str, attributes: str) -> object:
    try:
        found = functools.reduce(getattr, attributes.split("."), module)
    except AttributeError as error:
        raise Failure(f"{app!r} cannot be imported: {error}", USAGE) from error
    if callable(found):
        found()
        return _global_broker(app)
    return found


def _global_broker(app: str) -> object:
    try:
        return dramatiq.get_broker()
    except ImportError as error:
        # Where none is set, dramatiq makes one for RabbitMQ or Redis, if it can.
        raise Failure(
            f"{app!r} sets no broker: name the module that does, as MODULE or MODULE:BROKER", USAGE
        ) from error
