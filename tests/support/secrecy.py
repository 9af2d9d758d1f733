"""Where a secret may turn up: texts, exceptions with all that reporters of errors read, log records."""

from __future__ import annotations

import base64
import json
import logging
import pprint
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any
from urllib.parse import quote, quote_plus

from nats.aio.client import Client
from sentry_sdk.serializer import serialize

from tests.support.bw import ROOT


def forms(secret: str) -> set[str]:
    """A secret as it is, percent-encoded, in a repr, in JSON, in base64."""
    return {
        *(secret, quote(secret, safe=""), quote(secret), quote_plus(secret)),
        *(repr(secret)[1:-1], json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode().rstrip("=")),
    }


def found(secrets: Iterable[str], texts: Iterable[str]) -> list[str]:
    """The texts that show one of the secrets, in any form."""
    every = [form for secret in secrets for form in forms(secret)]
    return [text for text in texts if any(form in text for form in every)]


def everything_of(error: BaseException) -> list[str]:
    """What an exception and all that led to it tell: texts, arguments, attributes, and the variables of frames.

    The frames of tests are left out, which hold the secret by their nature.
    """
    told = ["".join(traceback.format_exception(error))]
    for one in chain(error):
        told += [str(one), repr(one), repr(one.args), pprint.pformat(vars(one)), str(serialize(vars(one)))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if not is_of_tests(frame):
                told += variables_of(frame)
    return told


def variables_of(frame: FrameType) -> list[str]:
    """A frame's variables, as ``traceback`` and as Sentry's client show them, and their fields."""
    told = []
    for name, value in frame.f_locals.items():
        told += [f"{name}={value!r}", str(serialize(value))]
        # Others' objects, such as the server's client, keep what they were given.
        if type(value).__module__.startswith("dramatiq_jetstream") and not isinstance(value, Client):
            told.append(pprint.pformat(getattr(value, "__dict__", None)))
    return told


def is_of_tests(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(str(ROOT / "tests"))


def chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and all(one is not known for known in seen):
            seen.append(one)
            left += [one.__cause__, one.__context__]
            yield one


def everything_logged(records: Iterable[logging.LogRecord]) -> list[str]:
    """Each record's text, its arguments, and what its exception tells."""
    told: list[str] = []
    for record in records:
        told += [record.getMessage(), repr(record.args), str(record.exc_text)]
        if record.exc_info and record.exc_info[1] is not None:
            told += everything_of(record.exc_info[1])
    return told


def everything_shown(value: Any) -> list[str]:
    """An object as it is shown by whatever prints it."""
    shown = [repr(value), str(value), f"{value}", pprint.pformat(value), str(serialize(value))]
    if hasattr(value, "__dict__"):
        shown += [pprint.pformat(vars(value)), str(serialize(vars(value)))]
    return shown
