"""Worker processes to be killed, frozen and cut off, and a record of what they did that outlives them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.dead_letters import DeadLetter
from dramatiq_jetstream.deliveries.delivery import JetStreamMessage
from dramatiq_jetstream.errors import BrokerConnectionError
from dramatiq_jetstream.worker.consumer import JetStreamConsumer
from tests.support.admin import Admin
from tests.support.bw import Program
from tests.support.waiting import eventually

#: Milliseconds of the queues' leases: short, so that tests need not wait long for a redelivery, and
#: longer than a busy machine keeps a worker from renewing them: at 1,500 one in some thousand was lost.
ACK_WAIT = 4_000

APPLICATION = "tests.support.apps.faulty"

#: Milliseconds for whatever a correct worker does at some time.
SOON = 90_000


class Note(NamedTuple):
    """What an actor wrote down.

    Parameters:
      what(str): Such as "start" and "end".
      key(str): Of which message.
      pid(int): In which process.
      at(float): When, in seconds of UNIX time.
      options(dict): The message's options at that moment.
    """

    what: str
    key: str
    pid: int
    at: float
    options: dict[str, Any]


def write_note(folder: Path, what: str, key: str, options: Mapping[str, Any] | None = None) -> None:
    """Write something down so that it outlives the process."""
    line = json.dumps(Note(what, key, os.getpid(), time.time(), dict(options or {}))) + "\n"
    descriptor = os.open(_file_of(folder, key), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _file_of(folder: Path, key: str) -> Path:
    """The file of a key's notes; many, so that reading those of one key takes no time."""
    return folder / f"{zlib.crc32(key.encode()) % 512}.notes"


def notes_of(folder: Path, key: str | None = None) -> list[Note]:
    """All notes, or those of one message, in the order of time."""
    paths = folder.glob("*.notes") if key is None else [_file_of(folder, key)]
    lines = (line for path in paths if path.exists() for line in path.read_text().splitlines(keepends=True))
    # Of a long note, a reader may see the beginning first.
    notes = (Note(*json.loads(line)) for line in lines if line.endswith("\n"))
    return sorted((note for note in notes if key in (None, note.key)), key=lambda note: note.at)


def make_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """A broker's settings from what JSON can express of them."""
    queues = {name: WorkQueue(**fields) for name, fields in given.get("queues", {}).items()}
    return {**given, "queues": queues}


class Workers(Program):
    """A real `dramatiq` with worker processes; on entry they are ready, or were killed by a message already.

    Parameters:
      log(Path): Where its output goes.
      variables(Mapping): Environment variables.
      processes(int): How many worker processes.
      threads(int): How many threads each.
      options(Sequence[str]): More of dramatiq's options.
      program(str): The module of the application.
    """

    def __init__(
        self,
        log: Path,
        variables: Mapping[str, str],
        *,
        processes: int = 1,
        threads: int = 1,
        options: Sequence[str] = (),
        program: str = APPLICATION,
    ) -> None:
        sizes = ["--processes", str(processes), "--threads", str(threads)]
        super().__init__([sys.executable, "-m", "dramatiq", program, *sizes, *options], log, variables)
        self.processes = processes

    def __enter__(self) -> Workers:
        super().__enter__()
        try:
            eventually(
                lambda: len(self.pids) == self.processes or not self.is_running, SOON, message="the workers' start"
            )
            assert self.is_running or self.lines("unexpectedly (code -9)"), self.log
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @property
    def pids(self) -> list[int]:
        """The worker processes that are ready, as their own log names them."""
        return [int(line.split("[PID ")[1].split("]")[0]) for line in self.lines("ready for action")]

    def signal(self, number: signal.Signals) -> None:
        """Signal the main process, as an init system does."""
        self.process.send_signal(number)

    def await_line(self, text: str) -> None:
        """Wait until it has printed something."""
        eventually(lambda: self.lines(text), SOON, message=f"the line {text!r}")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds or its processes have ended."""
        eventually(lambda: condition() or not self.is_running, SOON, message="the condition, or the workers' end")

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Application:
    """The application :mod:`tests.support.apps.faulty`, its workers, and a producer of its messages; a context manager.

    Parameters:
      url(str): The server.
      namespace(str): The broker's.
      folder(Path): For notes and logs.
      **settings: The broker's further settings, as far as JSON can express them.
    """

    def __init__(self, url: str, namespace: str, folder: Path, **settings: Any) -> None:
        self.url = url
        self.folder = folder
        queues = {name: {"ack_wait": ACK_WAIT} for name in ("default", "once", "endless", "picky")}
        queues["tight"] = {"ack_wait": ACK_WAIT, "max_deliver": 2}
        self.settings = {"namespace": namespace, **settings, "queues": {**queues, **settings.get("queues", {})}}
        self.broker = self._make_broker()
        self.admin = Admin(url)
        #: The module that its workers run.
        self.program = APPLICATION
        self._started = 0

    def __enter__(self) -> Application:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.broker.close()
        self.admin.close()

    def redeclare(self, queue_name: str, **fields: Any) -> None:
        """Change a queue's settings, before it was used."""
        self.broker.close()
        self.settings["queues"][queue_name] = {**self.settings["queues"].get(queue_name, {}), **fields}
        self.broker = self._make_broker()

    def rewire(self, url: str, **fields: Any) -> None:
        """Have this process's broker use another way to the server, and other settings of the default queue."""
        self.url = url
        self.redeclare("default", **fields)

    def configure(self, **settings: Any) -> None:
        """Change settings of the broker."""
        self.broker.close()
        self.settings.update(settings)
        self.broker = self._make_broker()

    def _make_broker(self) -> JetStreamBroker:
        broker = JetStreamBroker(self.url, **make_settings(self.settings))
        for name in self.settings["queues"]:
            broker.declare_queue(name)
        return broker

    def workers(
        self,
        *,
        processes: int = 1,
        threads: int = 1,
        options: Sequence[str] = (),
        url: str | None = None,
        **variables: str,
    ) -> Workers:
        """Workers to be used as a context manager."""
        self._started += 1
        log = self.folder / f"workers-{self._started}.log"
        environment = self.environment(url, **variables)
        return Workers(log, environment, processes=processes, threads=threads, options=options, program=self.program)

    def environment(self, url: str | None = None, **variables: str) -> dict[str, str]:
        """The variables that a process of the application needs."""
        return {
            "NATS_URL": url or self.url,
            "FAULTS_FOLDER": str(self.folder),
            "FAULTS_SETTINGS": json.dumps(self.settings),
            # dramatiq's reload starts the "python" that it finds there.
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
            "dramatiq_worker_timeout": "50",
            "dramatiq_restart_delay": "200",
            **variables,
        }

    def send(self, key: str, *steps: str, actor: str = "run", delay: int | None = None, **options: Any) -> Message[Any]:
        """Enqueue a message."""
        queue = actor.partition("_")[2] or "default"
        message: Message[Any] = Message(
            queue_name="default" if queue == "new" else queue,
            actor_name=actor,
            args=() if queue == "bound" else (key, *steps),
            kwargs={"key": key} if queue == "bound" else {},
            options=options,
        )
        return self.broker.enqueue(message, delay=delay)

    def send_until_stored(self, key: str, *steps: str) -> None:
        """Enqueue a message as soon as the server takes it."""

        def stored() -> bool:
            try:
                self.send(key, *steps)
            except BrokerConnectionError:
                return False
            return True

        eventually(stored, SOON, message="a send")

    def release(self) -> None:
        """Let go of the actors that wait."""
        (self.folder / "released").touch()

    def notes(self, what: str, key: str | None = None) -> list[Note]:
        """What was noted of one kind."""
        return [note for note in notes_of(self.folder, key) if note.what == what]

    def await_notes(self, what: str, *keys: str, timeout: int = SOON) -> list[Note]:
        """Wait until something was noted of each of these keys, and return the first note of each."""
        first: dict[str, Note] = {}

        def complete() -> bool:
            first.clear()
            for note in self.notes(what):
                first.setdefault(note.key, note)
            return first.keys() >= set(keys)

        eventually(complete, timeout, message=f"{what!r} of {', '.join(keys)}")
        return [first[key] for key in keys]

    def await_empty(self, queue_name: str = "default", timeout: int = SOON) -> None:
        """Wait until nothing at all is left in a queue's stream."""
        eventually(lambda: self.stored(queue_name) == 0, timeout, message=f"the end of queue {queue_name!r}")

    def stored(self, queue_name: str = "default") -> int:
        """How many messages a queue's stream holds, in whatever state."""
        return self.admin.count(self.broker.names.stream(queue_name))

    def in_flight(self, queue_name: str = "default") -> int:
        """How many messages workers hold, or wait for a retry."""
        names = self.broker.names
        return int(self.admin.consumer(names.stream(queue_name), names.consumer)["num_ack_pending"])

    def deliveries(self, queue_name: str = "default") -> int:
        """How many deliveries there were, repeated ones included."""
        names = self.broker.names
        return int(self.admin.consumer(names.stream(queue_name), names.consumer)["delivered"]["consumer_seq"])

    def dead_letters(self, queue_name: str = "default") -> list[DeadLetter]:
        """The dead letters of a queue."""
        if self.broker.names.dead_letters not in self.admin.streams():
            return []
        return list(self.broker.dead_letters.list(queue_name))

    def await_dead_letter(self, queue_name: str = "default", timeout: int = SOON) -> DeadLetter:
        """Wait for the first dead letter of a queue."""
        return eventually(lambda: self.dead_letters(queue_name), timeout, message="a dead letter")[0]


def take(consumer: JetStreamConsumer) -> JetStreamMessage:
    """The next message of a consumer."""
    return cast(JetStreamMessage, eventually(lambda: next(consumer), SOON, message="a message"))
