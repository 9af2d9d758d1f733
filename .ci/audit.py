"""Looks up known vulnerabilities of what .ci/dev.lock names, with pip-audit of this environment.

Exits with 1 if there is one. It needs a vulnerability service; where none can be reached, it says so and exits with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent / "dev.lock"

#: The services that pip-audit knows, in the order in which they are tried.
SERVICES = ("pypi", "osv")

#: Seconds for one service.
LIMIT = 60


def main() -> int:
    for service in SERVICES:
        answered = ask(service)
        known = [one for one in answered if "skip_reason" not in one]
        if known:
            return report(known, [one["name"] for one in answered if "skip_reason" in one])
    print(f"No vulnerability service can be reached from here (tried {', '.join(SERVICES)}); nothing was audited.")
    return 0


def ask(service: str) -> list[dict[str, Any]]:
    """What a service says of each package; empty if it does not answer."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--no-deps", "--disable-pip"),
        *("--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", "--timeout", "10"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return []
    return found


def report(known: list[dict[str, Any]], unknown: list[str]) -> int:
    vulnerable = [one for one in known if one["vulns"]]
    for one in vulnerable:
        for found in one["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{one['name']} {one['version']}: {found['id']}, mended in {fixed}")
    if unknown:
        print(f"Unknown to the service: {', '.join(unknown)}")
    print(f"{len(vulnerable)} of {len(known)} packages have known vulnerabilities.")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
