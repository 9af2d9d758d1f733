"""Runs every case in a process of its own, by turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping

from .bench import ROOT, Figures
from .brokers import CONTENDERS
from .needs import missing
from .plan import Case, Series, rounds
from .results import Results

#: Seconds after which a measurement is given up.
TIMEOUT = 600

#: Seconds that a measurement's processes have to end in.
STOP_TIMEOUT = 10


class ProbeFailed(Exception):
    """A measurement did not work; the text says how it ended."""


def run(
    series: list[Series],
    brokers: Iterable[str],
    urls: Mapping[str, str],
    *,
    count: int,
    quick: bool,
    report: Callable[[int, Case, Figures | str], object],
) -> Results:
    """Take so many rounds.

    Parameters:
      series(list[Series]): What to measure.
      brokers(Iterable[str]): Of whom; of all if none is named.
      urls(Mapping[str, str]): Where the server of each kind is.
      count(int): How many rounds.
      quick(bool): Whether to measure less of everything.
      report(Callable): Told of each measurement, or why it was not possible.
    """
    results = Results()
    for number, case in rounds(series, brokers, count=count):
        if case.broker in results.reasons.get(case.series.name, {}):
            continue
        found = _measure(case, urls, quick=quick)
        if isinstance(found, str):
            results.miss(case.series.name, case.broker, found)
        else:
            results.add(case.series.name, case.broker, number, found)
        report(number, case, found)
    return results


def _measure(case: Case, urls: Mapping[str, str], *, quick: bool) -> Figures | str:
    contender = CONTENDERS[case.broker]
    reason = missing(contender.needs)
    if reason:
        return reason
    command = [sys.executable, "-m", "benchmarks.probe", case.series.measure, case.broker]
    if contender.server:
        command += ["--url", urls[contender.server]]
    for name, amount in case.series.amounts(case.broker, quick=quick).items():
        command += ["--param", f"{name}={amount}"]
    try:
        answer = json.loads(_output(command))
    except ProbeFailed as error:
        return str(error)
    figures: Figures | str = answer.get("figures") or answer.get("reason") or "it has no figures"
    return figures


def _output(command: list[str]) -> str:
    # In a session of its own, so that it can be ended with whatever processes it has started.
    probe = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = probe.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise ProbeFailed(f"it took longer than {TIMEOUT} s") from None
    finally:
        _end(probe)
    if probe.returncode:
        raise ProbeFailed(f"it failed: {(errors.splitlines() or ['without a word'])[-1]}")
    return output


def _end(probe: subprocess.Popen[str]) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(probe.pid, signal_number)
        except ProcessLookupError:
            return
        try:
            probe.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue
