"""Who acts beside the workers in the long run: a producer, an operator, and a clock that sees a standstill."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from types import TracebackType

from dramatiq_jetstream.dead_letters import DeadLetter
from dramatiq_jetstream.errors import BrokerConnectionError
from tests.support.account import Fault
from tests.support.bw import ROOT, environment
from tests.support.faults import Application
from tests.support.vitals import Vitals, vitals

#: Seconds after which a thread that only slept was kept from running by the machine.
STARVED = 1.0

#: What an operator looks at.
COMMANDS = [("queues",), ("doctor",), ("peek", "default"), ("dead", "list"), ("delayed", "list", "default")]

#: What a command may end with: nothing is wrong, something is, the server is away.
STATUSES = {0, 1, 3}

#: How many dead letters a purge may have removed that nobody saw, if it was not answered.
UNHEARD = 10

#: Seconds after which a command has failed.
COMMAND_TIMEOUT = 120


class Background:
    """Does something again and again on a thread of its own in a with block, which raises what that raises."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and exc is None:
            raise self._error

    def step(self) -> None:
        """What is done again and again."""
        raise NotImplementedError

    def _go_on(self) -> None:
        try:
            while not self._over.is_set():
                self.step()
        except BaseException as error:
            self._error = error


class Starvation(Background):
    """Notes when the machine kept a thread that only slept from running.

    Parameters:
      faults(list): Where to note it.
    """

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__()
        self._faults = faults

    def step(self) -> None:
        begin = time.time()
        self._over.wait(0.1)
        if time.time() - begin > STARVED:
            self._faults.append(Fault("the machine stood still", frozenset(), begin, time.time()))


class Operator(Background):
    """Requeues and purges dead letters, and looks at everything with the command line.

    Parameters:
      application(Application): Whose dead letters.
      seed(int): Of what is random here.
    """

    def __init__(self, application: Application, seed: int) -> None:
        super().__init__()
        self._application = application
        self._random = random.Random(seed)
        #: How often was done what.
        self.done: Counter[str] = Counter()
        #: The ids of messages that were requeued.
        self.requeued: set[str | None] = set()
        #: The letters that were purged.
        self.purged: list[DeadLetter] = []
        #: How many more letters were purged than had been seen.
        self.unseen = 0

    def step(self) -> None:
        self._over.wait(self._random.uniform(0.5, 5))
        action = self._random.choice([self.requeue, self.requeue, self.purge, self.look])
        try:
            action()
        except BrokerConnectionError:
            self.done[f"{action.__name__} without an answer"] += 1

    def requeue(self) -> None:
        """Put a few dead letters back."""
        letters = [letter for letter in self._application.broker.dead_letters.list() if letter.queue_name != "purged"]
        chosen = self._random.sample(letters, min(len(letters), 5))
        self.requeued |= {letter.message_id for letter in chosen}
        for _, error in self._application.broker.dead_letters.requeue_all(chosen):
            self.done["requeued" if error is None else f"not requeued: {type(error).__name__}"] += 1

    def purge(self) -> None:
        """Purge the dead letters of a queue."""
        letters = self._application.broker.dead_letters
        seen = list(letters.list("purged"))
        self.purged += seen
        # Those that come meanwhile, if there is no answer.
        self.unseen += UNHEARD
        count = letters.purge("purged")
        self.unseen += max(count - len(seen), 0) - UNHEARD
        self.done["purged"] += count

    def look(self) -> None:
        """Run a command, which ends with a status and without a traceback."""
        command = self._random.choice(COMMANDS)
        namespace = self._application.settings["namespace"]
        ended = subprocess.run(
            [sys.executable, "-m", "dramatiq_jetstream", *command, "--namespace", namespace],
            env=environment(NATS_URL=self._application.url, COLUMNS="120"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        self.done[f"{' '.join(command)} ended with {ended.returncode}"] += 1
        assert ended.returncode in STATUSES, (command, ended)
        assert "Traceback" not in ended.stdout + ended.stderr, (command, ended)


class ProducerProcess:
    """The process :mod:`tests.support.apps.producing`; a context manager.

    Parameters:
      application(Application): Whose messages it sends.
      url(str): Its way to the server.
    """

    def __init__(self, application: Application, url: str) -> None:
        self._application = application
        self._url = url
        self.log = application.folder / "producer.log"
        self._read = 0

    def __enter__(self) -> ProducerProcess:
        with self.log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.apps.producing"],
                env=environment(**self._application.environment(self._url)),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def go(self, number: int, seed: float) -> None:
        """Begin to send the messages of a round."""
        self._tell(f"go {number} {seed}")

    def stop(self) -> None:
        """End sending."""
        self._tell("stop")
        assert self._process.stdout
        assert self._process.stdout.readline(), self.log.read_text()

    @property
    def vitals(self) -> Vitals:
        """What the process holds."""
        return vitals(self._process.pid)

    def sent(self) -> list[tuple[str, str, str | None]]:
        """What was sent since this was called last: what came of it, the key, and the id."""
        with (self._application.folder / "sent.log").open() as log:
            log.seek(self._read)
            lines = log.readlines()
            self._read = log.tell()
        return [(what, key, message_id) for what, key, message_id in map(json.loads, lines)]

    def _tell(self, command: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
