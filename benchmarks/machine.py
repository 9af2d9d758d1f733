"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dramatiq_jetstream.embedded.server_process import find_binary

from .needs import find_program

_PACKAGES = (
    "dramatiq-jetstream",
    "dramatiq",
    "nats-py",
    "uvloop",
    "redis",
    "dramatiq-redis-streams",
    "pika",
    "taskiq-nats",
    "taskiq",
    "Pillow",
)


def describe() -> dict[str, Any]:
    """The processor, the system, and the version of everything that takes part."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "servers": {
            "nats-server": _said([str(find_binary()), "--version"], "nats-server"),
            "redis-server": _program("redis-server", "--version", "Redis"),
            "rabbitmq-server": _rabbitmq(),
            "convert": _program("convert", "-version", "ImageMagick"),
        },
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _program(name: str, option: str, title: str) -> str | None:
    path = find_program(name)
    return _said([path, option], title) if path else None


def _said(command: list[str], title: str) -> str:
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    number = re.search(r"\d+(\.\d+)+\S*", output)
    return f"{title} {number[0] if number else 'of unknown version'}"


def _rabbitmq() -> str | None:
    # Its own programs ask a running node; the folder of its scripts bears the version.
    path = find_program("rabbitmq-server")
    if path is None:
        return None
    versions = [part.rpartition("-")[2] for part in Path(path).resolve().parts if part.startswith("rabbitmq_server-")]
    return f"RabbitMQ {versions[0] if versions else 'of unknown version'}"
