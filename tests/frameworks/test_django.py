"""django_dramatiq: broker and backends from the settings, its commands, and its test case."""

from __future__ import annotations

from tests.frameworks.conftest import Start, await_line

MANAGE = ("-m", "tests.frameworks.apps.manage")

SEND = """
from tests.frameworks.apps.shop.tasks import price, stock_taking
print(price.send(6, 7).get_result(block=True, timeout=20_000), stock_taking.send().get_result(block=True))
"""


def test_rundramatiq_runs_what_another_process_sends_and_keeps_its_result(start: Start) -> None:
    worker = start("python", *MANAGE, "rundramatiq", "--processes", "1", "--threads", "2")
    await_line(worker, "ready for action")
    sender = start("python", *MANAGE, "shell", "--no-imports", "-c", SEND)

    assert sender.wait() == 0, sender.log
    assert sender.lines("42 True")
    assert worker.stop() == 0, worker.log


def test_test_case_runs_its_worker_over_the_broker(start: Start) -> None:
    tests = start("python", *MANAGE, "test", "tests.frameworks.apps.shop")

    assert tests.wait() == 0, tests.log
    assert tests.lines("Ran 2 tests")
    assert tests.lines("OK")


def test_settings_do_not_connect(start: Start) -> None:
    check = start("python", *MANAGE, "check", NATS_URL="nats://127.0.0.1:1")

    assert check.wait() == 0, check.log
