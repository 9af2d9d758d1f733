"""A fork after the broker was used: each process has a connection of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.admin import Admin
from tests.support.bw import Program


def test_both_processes_work_after_a_fork(nats_url: str, namespace: str, admin: Admin, tmp_path: Path) -> None:
    variables = {"NATS_URL": nats_url, "FAULTS_NAMESPACE": namespace}
    command = [sys.executable, "-m", "tests.support.apps.forking"]

    with Program(command, tmp_path / "fork.log", variables) as program:
        status = program.wait()

    assert status == 0, program.log
    assert "['child', 'parent after the fork', 'parent before the fork'] 0" in program.log


@pytest.mark.parametrize("moment", ["closing", "away"])
def test_child_closes_and_sends_whatever_its_parent_was_doing(
    nats_url: str, namespace: str, admin: Admin, tmp_path: Path, moment: str
) -> None:
    variables = {"NATS_URL": nats_url, "FAULTS_NAMESPACE": namespace}
    command = [sys.executable, "-m", "tests.support.apps.forked", moment]

    with Program(command, tmp_path / "fork.log", variables) as program:
        status = program.wait()

    assert status == 0, program.log
    assert "['child', 'parent', 'parent again'] 0" in program.log
