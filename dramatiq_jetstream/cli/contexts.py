"""The contexts of the ``nats`` tool: where to connect, and as whom."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .failures import USAGE, Failure

#: A context's keys, by the names that our options have.
KEYS = {
    "url": "url",
    "user": "user",
    "password": "password",
    "token": "token",
    "creds": "creds",
    "nkey": "nkey",
    "tls_ca": "ca",
    "tls_cert": "cert",
    "tls_key": "key",
    "domain": "jetstream_domain",
    "inbox_prefix": "inbox_prefix",
}
_PATHS = frozenset({"creds", "nkey", "tls_ca", "tls_cert", "tls_key"})


def folder() -> Path:
    """Where the ``nats`` tool keeps its contexts."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "nats" / "context"


def read_context(name: str) -> dict[str, str]:
    """Read a context, under the names of our options.

    Raises:
      Failure: If there is none of that name, or it cannot be read.
    """
    path = folder() / f"{name}.json"
    fields = _read(path)
    if fields is None:
        known = ", ".join(sorted(found.stem for found in folder().glob("*.json"))) or "none"
        raise Failure(f"there is no NATS context {name!r} in {folder()}; there is: {known}", USAGE)
    problem = fields if isinstance(fields, str) else _problem(fields)
    if problem is not None:
        # What the file holds is not among the variables of the frames, nor in an exception before this one.
        del fields
        raise Failure(f"the NATS context {path} cannot be read: {problem}", USAGE)
    assert isinstance(fields, dict)
    given = {ours: str(fields[theirs]) for ours, theirs in KEYS.items() if fields.get(theirs)}
    return {ours: os.path.expanduser(value) if ours in _PATHS else value for ours, value in given.items()}


def _problem(fields: dict[str, Any]) -> str | None:
    """What is wrong with one of a context's fields, without its value: somebody may have put a seed there."""
    for ours, theirs in KEYS.items():
        value = fields.get(theirs)
        if value and not isinstance(value, str):
            return f"its field {theirs!r} is no text"
        # A path with a NUL is none either.
        if value and ours in _PATHS and not os.path.isfile(os.path.expanduser(value)):
            return f"its field {theirs!r} names no file"
    return None


def _read(path: Path) -> dict[str, Any] | str | None:
    """A context's fields, or why they cannot be read; None if there is no such file."""
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    return fields if isinstance(fields, dict) else "it is no JSON object"
