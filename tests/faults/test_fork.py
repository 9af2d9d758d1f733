"""A fork after the broker was used: each process has a connection of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.admin import Admin
from tests.support.bw import Program


def test_both_processes_work_after_a_fork(nats_url: str, namespace: str, admin: Admin, tmp_path: Path) -> None:
    variables = {"NATS_URL": nats_url, "FAULTS_NAMESPACE": namespace}
    command = [sys.executable, "-m", "tests.support.apps.forking"]

    with Program(command, tmp_path / "fork.log", variables) as program:
        status = program.wait()

    assert status == 0, program.log
    assert "['child', 'parent after the fork', 'parent before the fork'] 0" in program.log
