"""dramatiq-gevent: workers of greenlets, whose connection runs on a thread that greenlets cannot stop."""

from __future__ import annotations

from pathlib import Path

from tests.frameworks.conftest import Start, await_line
from tests.support.waiting import eventually

APP = "tests.frameworks.apps.greenlets"

DRAIN = """
from tests.frameworks.apps.greenlets import ask, broker, limited, nap, snooze
naps = [nap.send(number) for number in range(300)]
assert [each.get_result(block=True, timeout=30_000) for each in naps] == list(range(300))
asked = [ask.send(number) for number in range(20)]
assert [each.get_result(block=True, timeout=30_000) for each in asked] == list(range(20))
snoozes = [snooze.send(number) for number in range(20)]
assert [each.get_result(block=True, timeout=30_000) for each in snoozes] == list(range(20))
let_in = [limited.send() for _ in range(30)]
assert all(each.get_result(block=True, timeout=30_000) for each in let_in)
assert broker.get_queue_message_counts("default") == (0, 0, 0)
broker.close()
print("drained")
"""

GROUP = """
import sys
from dramatiq import group
from tests.frameworks.apps.greenlets import broker, done, nap
naps = group([nap.message(number) for number in range(40)])
naps.add_completion_callback(done.message(sys.argv[1]))
naps.run()
naps.wait(timeout=30_000)
broker.close()
"""

COMPUTE = """
import sys
from tests.frameworks.apps.greenlets import broker, compute
compute.send(sys.argv[1], 8).get_result(block=True, timeout=90_000)
broker.close()
"""


def run(start: Start, code: str, *arguments: str) -> str:
    """Run code in a process of its own and return what it printed."""
    program = start("python", "-c", code, *arguments)
    assert program.wait() == 0, program.log
    return program.log


def test_hundred_greenlets_drain_a_queue_with_results_and_rate_limits(start: Start) -> None:
    worker = start("dramatiq-gevent", APP, "--processes", "1", "--threads", "100")
    await_line(worker, "ready for action")

    assert "drained" in run(start, DRAIN)
    assert worker.stop() == 0, worker.log
    assert not worker.lines("Traceback"), worker.log


def test_group_completes_on_greenlets(start: Start, tmp_path: Path) -> None:
    worker = start("dramatiq-gevent", APP, "--processes", "1", "--threads", "20")
    run(start, GROUP, str(tmp_path / "done"))
    await_line(worker, "ready for action")
    eventually((tmp_path / "done").exists, message="the callback")


def test_greenlet_that_computes_for_longer_than_ack_wait_keeps_its_lease(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "runs"
    workers = [start("dramatiq-gevent", APP, "--processes", "1", "--threads", "4", "--queues", "busy") for _ in "ab"]
    for worker in workers:
        await_line(worker, "ready for action")
    run(start, COMPUTE, str(log))

    assert len(log.read_text().splitlines()) == 1


def test_producer_under_gevent_sends_and_waits(start: Start) -> None:
    worker = start("dramatiq", APP, "--processes", "1", "--threads", "4")
    await_line(worker, "ready for action")
    patched = "from gevent import monkey; monkey.patch_all()\n"

    ask = f"from {APP} import broker, nap\nprint(nap.send(7).get_result(block=True))\nbroker.close()\n"

    assert "7" in run(start, patched + ask)
