"""Findings in the order in which somebody should read them, with those of a kind in one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .finding import Finding

#: From how many on findings of a kind become one.
MANY = 3

#: How many names one finding lists.
LISTED = 5

_LEVELS = ("problem", "warning", "note", "ok")

_AMOUNT = re.compile(r"[\d,]+(?= )")


def grouped(findings: Iterable[Finding]) -> list[Finding]:
    """Put the worst first, and make one of what is the same of several things."""
    kinds: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(_kind(finding), []).append(finding)
    merged = [one for kind in kinds.values() for one in ([_merge(kind)] if _is_one(kind) else kind)]
    return sorted(merged, key=lambda finding: _LEVELS.index(finding.level))


def listed(names: Sequence[str], limit: int = LISTED) -> str:
    """Some names, and how many there are besides."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _kind(finding: Finding) -> tuple[str, ...]:
    text = _AMOUNT.sub("#", finding.text, count=1) if _AMOUNT.match(finding.text) else finding.text
    return finding.level, text, _general(finding)


def _general(finding: Finding) -> str:
    """The advice, whatever it is about."""
    return re.sub(rf"(?<=[ ']){re.escape(finding.subject)}(?=[ ']|$)", "NAME", finding.advice or "")


def _is_one(kind: Sequence[Finding]) -> bool:
    # One cause that several checks ran into is told once.
    return len(kind) >= MANY or (len(kind) > 1 and len({finding.text for finding in kind}) == 1 and kind[0].wrong)


def _merge(kind: Sequence[Finding]) -> Finding:
    first = kind[0]
    amounts = [_AMOUNT.match(finding.text) for finding in kind]
    text = first.text
    if all(amounts):
        total = sum(int(amount[0].replace(",", "")) for amount in amounts if amount)
        text = f"{total:,}{text[amounts[0].end() if amounts[0] else 0 :]}"
    checks = dict.fromkeys(finding.check for finding in kind)
    subjects = list(dict.fromkeys(finding.subject for finding in kind))
    advice = first.advice if len(subjects) == 1 else _general(first) or None
    return replace(first, check=", ".join(checks), subject=listed(subjects), text=text, advice=advice)
