"""The command line in a test: on an application with messages in every state."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import dramatiq
import pytest
from click.testing import CliRunner, Result

from dramatiq_jetstream import JetStreamBroker, admin
from dramatiq_jetstream.cli import main
from tests.support.waiting import eventually
from tests.support.workers import run_worker

#: The application.
APP = "tests.support.apps.operated"


class Shell:
    """Runs commands as an operator would, in this process.

    Parameters:
      namespace(str): The application's namespace.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def run(self, *args: str, status: int = 0) -> Result:
        """Run a command, which must end with a status and without a stack trace."""
        result = CliRunner().invoke(main, args, prog_name="dramatiq-jetstream")
        assert result.exit_code == status, f"{args}: {result.output} {result.exception!r}"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def text(self, *args: str, status: int = 0) -> str:
        """What a command on the server alone prints."""
        return self.run(*args, "--namespace", self.namespace, status=status).output

    def app(self, *args: str, status: int = 0) -> str:
        """What a command on the application prints."""
        return self.run(*args, "--app", APP, status=status).output

    def records(self, *args: str, status: int = 0) -> list[dict[str, Any]]:
        """What a command prints with ``--json``."""
        result = self.run(*args, "--json", status=status)
        return [json.loads(line) for line in result.stdout.splitlines()]


@contextmanager
def imported(
    namespace: str, url: str, monkeypatch: pytest.MonkeyPatch, application: str = APP
) -> Iterator[JetStreamBroker]:
    """An application, imported anew for a namespace of its own."""
    monkeypatch.setenv("OPERATED_NAMESPACE", namespace)
    monkeypatch.setenv("NATS_URL", url)
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    sys.modules.pop(application, None)
    broker = cast(JetStreamBroker, importlib.import_module(application).broker)
    try:
        yield broker
    finally:
        broker.close()
        sys.modules.pop(application, None)


def fill(broker: JetStreamBroker) -> dict[str, str]:
    """Leave messages in every state behind, and return the ids of some, by their states."""
    actors = broker.actors
    broker.setup()
    dead = actors["greet"].send("nobody")
    kept = actors["to_blackandwhite"].send(id="broken", image="file:///x.jpg")
    retrying = actors["later"].send("now")
    with run_worker(broker, threads=2):
        eventually(lambda: is_over(broker), timeout=20_000, message="the messages' failing")
    ready = actors["greet"].send("world", punctuation="?")
    delayed = actors["later"].send_with_options(args=(1, {"x": [1, 2]}), delay=600_000)
    found = {"dead": dead, "kept": kept, "retrying": retrying, "ready": ready, "delayed": delayed}
    return {state: message.message_id for state, message in found.items()}


def is_over(broker: JetStreamBroker) -> bool:
    """Whether what fails has failed: as a dead letter, as a kept one, or to be tried again in a minute."""
    views = {view.queue: view for view in admin.views(broker)}
    return bool(views["default"].dead and views["images"].dead and views["images"].exhausted and views["slow"].retrying)
