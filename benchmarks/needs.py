"""What brokers and measures need on this machine, and the command that brings it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec

#: Debian's wrapper on the PATH runs as the user rabbitmq only; the script behind it runs as anyone.
RABBITMQ_SCRIPTS = "/usr/lib/rabbitmq/bin"

_PROGRAMS = {
    "redis-server": "apt-get install redis-server",
    "rabbitmq-server": "apt-get install rabbitmq-server",
    "epmd": "apt-get install erlang-base",
    "convert": "apt-get install imagemagick",
}
_PACKAGES = {
    "redis": "pip install redis",
    "pika": "pip install pika",
    "taskiq_nats": "pip install taskiq-nats",
    "dramatiq_redis_streams": "pip install git+https://github.com/sylvinus/dramatiq-redis-streams",
    "uvloop": "pip install 'dramatiq-jetstream[speed]'",
    "matplotlib": "pip install matplotlib",
}


def find_program(name: str) -> str | None:
    """The path of a program, None if it is not installed."""
    return shutil.which(name, path=os.pathsep.join([RABBITMQ_SCRIPTS, os.environ.get("PATH", os.defpath)]))


def missing(names: Iterable[str]) -> str | None:
    """Why something cannot be measured: what is not installed, and what installs it.  None if nothing is missing."""
    advice = {**_PROGRAMS, **_PACKAGES}
    absent = [f"{name} is missing ({advice[name]})" for name in names if not _is_here(name)]
    return "; ".join(absent) or None


def _is_here(name: str) -> bool:
    return find_program(name) is not None if name in _PROGRAMS else find_spec(name) is not None
