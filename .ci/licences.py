"""Writes the table of licences in docs/dependencies.md, from what is installed; with --check, compares the two.

Run it in an environment that .ci/dev.lock made. Exits with 1 if the page is out of date, or a licence is not known
to go with Apache-2.0.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "dependencies.md"
LOCK = ROOT / ".ci" / "dev.lock"
PROJECT = "dramatiq-jetstream"

#: What pip and venv bring; nothing here needs them.
TOOLS = {"pip", "setuptools", "wheel", PROJECT}

#: Licences under which a package may be required by one under Apache-2.0: it is imported, not copied.
COMPATIBLE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LGPL-3.0-or-later", "MIT", "MIT-0", "MIT-CMU"),
    *("MPL-2.0", "PSF-2.0", "Unlicense", "ZPL-2.1"),
}

#: By what packages call them that use no SPDX expression.
NAMES = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}

#: Of packages whose metadata name none: what their file LICENSE says.
READ_BY_HAND = {"django-dramatiq": "Apache-2.0"}

START, END = "<!-- licences: written by .ci/licences.py -->\n", "<!-- end of licences -->\n"


def main(arguments: list[str]) -> int:
    rows = dict(installed())
    odd = [f"{name}: {licence}" for name, (licence, _) in rows.items() if not set(words(licence)) <= COMPATIBLE]
    if odd:
        print("Not known to go with Apache-2.0:", *odd, sep="\n  ")
        return 1
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    written, _, after = rest.partition(END)
    if "--check" not in arguments:
        PAGE.write_text(before + START + table(rows) + END + after, "utf-8")
        return 0
    wrong = sorted(set(table(rows).splitlines()) - set(written.splitlines()))
    # Some are installed only on other systems, or with other Pythons.
    locked = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", LOCK.read_text("utf-8"), re.MULTILINE)}
    gone = sorted(set(re.findall(r"^\| ([\w.-]+) \|", written, re.MULTILINE)) - locked - {"package"})
    if wrong or gone:
        print("docs/dependencies.md is out of date: run python .ci/licences.py", *wrong, *gone, sep="\n  ")
        return 1
    print(f"{len(rows)} packages, each with a licence that goes with Apache-2.0, as docs/dependencies.md says.")
    return 0


def installed() -> Iterator[tuple[str, tuple[str, str]]]:
    """Each package that is installed: its licence, and what needs it."""
    extras = distribution(PROJECT).metadata.get_all("Provides-Extra") or []
    needed = dict.fromkeys(closure([PROJECT]), "every installation")
    for extra in extras:
        if extra != "dev":
            needed = dict.fromkeys(closure([f"{PROJECT}[{extra}]"]), f"the extra `{extra}`") | needed
    names = {canonicalize_name(one.metadata["Name"]) for one in distributions()} - TOOLS
    for name in sorted(names):
        yield name, (licence_of(name), needed.get(name, "development"))


def closure(wanted: Iterable[str]) -> set[str]:
    """The packages that requirements bring with them, if they are installed."""
    found: set[str] = set()
    left = [Requirement(text) for text in wanted]
    while left:
        one = left.pop()
        key = f"{canonicalize_name(one.name)}{sorted(one.extras)}"
        if key in found:
            continue
        try:
            requires = distribution(one.name).requires or []
        except PackageNotFoundError:
            continue
        found |= {key, canonicalize_name(one.name)}
        for text in requires:
            required = Requirement(text)
            if required.marker is None or any(
                required.marker.evaluate({"extra": extra}) for extra in (one.extras or {""})
            ):
                left.append(required)
    return found


def licence_of(name: str) -> str:
    """A package's licence as an SPDX expression, or as its metadata have it."""
    metadata = distribution(name).metadata
    if metadata.get("License-Expression"):
        return str(metadata["License-Expression"])
    classified = [one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") or [] if "License ::" in one]
    named = [NAMES[one] for one in classified if one in NAMES] or [(metadata.get("License") or "").strip()]
    licence = " OR ".join(sorted({NAMES.get(one, one) for one in named}))
    return licence if licence not in ("", "UNKNOWN") else READ_BY_HAND.get(name, "unknown")


def words(licence: str) -> list[str]:
    """The licences that an expression consists of."""
    return [word for word in re.split(r"[\s()]+", licence) if word and word not in ("AND", "OR")]


def table(rows: dict[str, tuple[str, str]]) -> str:
    lines = [f"| {name} | {licence} | {needed} |\n" for name, (licence, needed) in rows.items()]
    return "".join(["| package | licence | needed by |\n", "|---|---|---|\n", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
