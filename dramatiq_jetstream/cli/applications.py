"""Importing an application as the ``dramatiq`` command does."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dramatiq

from ..broker import JetStreamBroker
from ..errors import described
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
    if name.endswith(".py") or "/" in name:
        raise Failure(
            f"{name!r} is a file: name the module, such as 'app' of app.py, and its folder with --path", USAGE
        )
    with _failing(name):
        return importlib.import_module(name)


@contextmanager
def _failing(name: str) -> Iterator[None]:
    """Turn whatever an application raises into a sentence; it may raise anything."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Failure(f"{name!r} cannot be imported: {error}; is --path right?", USAGE) from error
    except (Exception, SystemExit) as error:
        raise Failure(f"{name!r} cannot be imported: {described(error)}{_place(error)}", USAGE) from error


def _place(error: BaseException) -> str:
    """Where in the application something was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if not frame.filename.startswith(("<frozen", importlib.__file__, __file__))]
    return f" ({inside[-1].filename}, line {inside[-1].lineno})" if inside else ""


def _attribute(module: object, app: str, attributes: str) -> object:
    try:
        found = functools.reduce(getattr, attributes.split("."), module)
    except AttributeError as error:
        raise Failure(f"{app!r} cannot be imported: {error}", USAGE) from error
    if callable(found):
        with _failing(app):
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
