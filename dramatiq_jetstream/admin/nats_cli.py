"""Streams and consumers as commands of the ``nats`` tool."""

from __future__ import annotations

import shlex
from typing import Any

from ..streams import Requirement

_STREAM_LIMITS = {
    "max_msgs": "max-msgs",
    "max_bytes": "max-bytes",
    "max_msg_size": "max-msg-size",
    "max_consumers": "max-consumers",
    "max_msgs_per_subject": "max-msgs-per-subject",
}
_STREAM_SWITCHES = {
    "allow_direct": "allow-direct",
    "allow_atomic": "allow-batch",
    "allow_msg_schedules": "allow-schedules",
    "allow_msg_ttl": "allow-msg-ttl",
    "allow_rollup_hdrs": "allow-rollup",
    "deny_delete": "deny-delete",
}
_RETENTION = {"workqueue": "work"}
_UNITS = ((3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms"), (1, "ns"))


def command(requirement: Requirement) -> str:
    """The command that makes a stream or a consumer, over several lines."""
    words = _consumer(requirement) if requirement.consumer else _stream(requirement)
    start = f"nats {requirement.kind} add {shlex.quote(requirement.stream)}"
    start += f" {shlex.quote(requirement.consumer)}" if requirement.consumer else ""
    return " \\\n    ".join([start, *words, "--defaults"])


def _stream(requirement: Requirement) -> list[str]:
    config = requirement.config
    words = [f"--subjects {shlex.quote(subject)}" for subject in config["subjects"]]
    words.append(f"--retention {_RETENTION.get(config['retention'], config['retention'])}")
    words.append(f"--storage {config['storage']} --discard {config['discard']} --replicas {config['num_replicas']}")
    limited = {flag: config[name] for name, flag in _STREAM_LIMITS.items() if name in config}
    words.append(" ".join(f"--{flag}={value}" for flag, value in limited.items()) or "--max-msgs=-1")
    words.append(
        f"--max-age={_duration(config.get('max_age', 0))} --dupe-window={_duration(config['duplicate_window'])}"
    )
    switches = [f"--{flag}" for name, flag in _STREAM_SWITCHES.items() if config.get(name)]
    return [*words, " ".join(switches)] if switches else words


def _consumer(requirement: Requirement) -> list[str]:
    config = requirement.config
    words = [
        f"--pull --filter {shlex.quote(config['filter_subject'])}",
        f"--ack {config['ack_policy']} --deliver {config['deliver_policy']} --replay {config['replay_policy']}",
        f"--wait={_duration(config['ack_wait'])} --max-deliver={config['max_deliver']}",
    ]
    if "max_ack_pending" in config:
        words.append(f"--max-pending={config['max_ack_pending']} --max-waiting={config['max_waiting']}")
    return words


def _duration(nanoseconds: Any) -> str:
    if not nanoseconds:
        return "-1"
    size, unit = next((size, unit) for size, unit in _UNITS if nanoseconds % size == 0)
    return f"{nanoseconds // size}{unit}"
