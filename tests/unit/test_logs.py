"""Log lines: nothing from outside is obeyed by a terminal or read as a line, and what repeats is counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dramatiq_jetstream
from dramatiq_jetstream import logs
from dramatiq_jetstream.logs import get_logger, repeated

HOSTILE = "no\n[2026-01-01] [CRITICAL] forged\x1b[31m\r\x9b\u2028\udcff"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Named:
    def __str__(self) -> str:
        return HOSTILE

    __repr__ = __str__


@pytest.mark.parametrize("value", [HOSTILE, Named(), ValueError(HOSTILE), [HOSTILE]])
@pytest.mark.parametrize("template", ["%s is unknown", "%r is unknown"])
def test_what_comes_from_outside_is_escaped(template: str, value: object, caplog: pytest.LogCaptureFixture) -> None:
    get_logger("dramatiq_jetstream.test").warning(template, value)
    line = caplog.records[-1].getMessage()
    assert not FORBIDDEN.search(line)
    assert "\n" not in line


def test_named_arguments_and_numbers_are_formatted_as_written(caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger("dramatiq_jetstream.test")
    logger.warning("%(name)s", {"name": HOSTILE})
    assert "\n" not in caplog.records[-1].getMessage()
    logger.warning("%d of %.1f %r", 3, 4.0, "text")
    assert caplog.records[-1].getMessage() == "3 of 4.0 'text'"


def test_a_traceback_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        get_logger("dramatiq_jetstream.test").exception("It failed.")
    first, *rest = caplog.text.rstrip("\n").split("\n")
    assert "It failed." in first
    assert rest
    assert all(line.startswith("  ") for line in rest)
    assert not FORBIDDEN.search(caplog.text)


def test_lines_of_one_cause_are_counted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    logger = get_logger("dramatiq_jetstream.test", "counted")
    for number in range(5_000):
        logger.warning("Actor %r of message %d is unknown", "greet", number, extra=repeated("greet"))
    logger.warning("Actor %r of message %d is unknown", "other", 0, extra=repeated("other"))
    assert len(caplog.records) == 2
    now += logs.INTERVAL
    logger.warning("Actor %r of message %d is unknown", "greet", 7, extra=repeated("greet"))
    assert "4999 more such lines" in caplog.records[-1].getMessage()


def test_causes_from_outside_do_not_fill_the_memory() -> None:
    logger = get_logger("dramatiq_jetstream.test", "bounded")
    for number in range(2 * logs.MAX_CAUSES):
        logger.debug("Unknown %d", number, extra=repeated(number))
        logger.warning("Unknown %d", number, extra=repeated(number))
    assert len(logs._FILTER._seen) <= logs.MAX_CAUSES


def test_every_logger_of_ours_escapes() -> None:
    folder = Path(dramatiq_jetstream.__file__).parent
    direct = [path for path in folder.rglob("*.py") if "from dramatiq.logging import" in path.read_text("utf-8")]
    assert direct == [folder / "logs.py"]
