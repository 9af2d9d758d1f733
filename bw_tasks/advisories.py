"""Which subjects an advisory may be published on: a stranger chooses one, from those that the operator allows."""

from __future__ import annotations

import os

from dramatiq_jetstream.names import covers

from .errors import AdvisoryRefused, BadAdvisory, InvalidAdvisories, shown

__all__ = ["allowed_subjects", "check_advisory"]

DEFAULT = "advisory.>"
"""The subjects that are allowed when ``ADVISORIES`` is not set: the walkthrough's."""

_WORK = "IMAGES.>"
"""The subjects of the work itself: an advisory there would be another request."""


def allowed_subjects() -> list[str]:
    """The subjects that advisories may be published on: ``ADVISORIES`` from the environment.

    They are split at spaces and commas; each may have the wildcards ``*`` and, at its end, ``>``.

    Raises:
      InvalidAdvisories: If one of them is no subject.
    """
    patterns = os.environ.get("ADVISORIES", "").replace(",", " ").split() or [DEFAULT]
    for pattern in patterns:
        tokens = [token for token in pattern.removesuffix(".>").split(".") if token != "*"]
        if pattern != ">" and not all(map(_is_plain, tokens)):
            raise InvalidAdvisories(
                f"ADVISORIES has {shown(pattern)} in it, which is not a subject. Set it to subjects such as "
                "'advisory.>', with spaces in between."
            )
    return patterns


def check_advisory(advisory: object) -> None:
    """Refuse an advisory that would make this worker publish what a stranger must not.

    Raises:
      BadAdvisory: If the subject is the server's own, or none that can be published to.
      AdvisoryRefused: If it is not among the subjects that are allowed.
      InvalidAdvisories: If those make no sense.
    """
    if not advisory:
        return
    subject = advisory if isinstance(advisory, str) else ""
    if subject.startswith("$") or not all(map(_is_plain, subject.split("."))):
        raise BadAdvisory(f"advisory {shown(advisory)} is not a subject to publish to: use one like 'advisory.<id>'")
    allowed = allowed_subjects()
    if covers(_WORK, subject) or not any(covers(pattern, subject) for pattern in allowed):
        raise AdvisoryRefused(
            f"advisory {shown(advisory)} is not among the subjects that are allowed: {', '.join(allowed)}. "
            "Use one of those, or have the workers' operator add it to ADVISORIES."
        )


def _is_plain(token: str) -> bool:
    """Whether a token of a subject stands for itself."""
    return bool(token) and token.isprintable() and not any(each.isspace() or each in "*>" for each in token)
