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
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(found.stem for found in folder().glob("*.json"))) or "none"
        raise Failure(f"there is no NATS context {name!r} in {folder()}; there is: {known}", USAGE) from None
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(f"the NATS context {path} cannot be read: {error}", USAGE) from error
    if not isinstance(fields, dict):
        raise Failure(f"the NATS context {path} cannot be read: it is no JSON object", USAGE)
    given = {ours: _text(path, theirs, fields[theirs]) for ours, theirs in KEYS.items() if fields.get(theirs)}
    return {ours: _file(path, ours, value) if ours in _PATHS else value for ours, value in given.items()}


def _text(path: Path, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Failure(f"the NATS context {path} cannot be read: its field {name!r} is no text", USAGE)
    return value


def _file(path: Path, ours: str, value: str) -> str:
    found = os.path.expanduser(value)
    # A path with a NUL is none either.
    if not os.path.isfile(found):
        raise Failure(f"the NATS context {path}: its field {KEYS[ours]!r} names {found!r}, which is no file", USAGE)
    return found
