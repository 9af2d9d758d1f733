"""A CPU-bound application for `dramatiq benchmarks.burning`; what to use comes from the environment."""

from __future__ import annotations

import os
import socket

import dramatiq

from .bench import Bench
from .brokers import CONTENDERS, forbid_uvloop
from .spinning import spin

name, url, token = (os.environ[f"BENCHMARKS_{part}"] for part in ("BROKER", "URL", "TOKEN"))
forbid_uvloop(name)
broker = Bench(name, CONTENDERS[name], url, token, {}).make_broker()
dramatiq.set_broker(broker)
reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


@dramatiq.actor(queue_name=token)
def burn() -> None:
    """Compute something, then report to the measurement."""
    spin()
    reports.sendto(str(os.getpid()).encode(), os.environ["BENCHMARKS_REPORTS"])
