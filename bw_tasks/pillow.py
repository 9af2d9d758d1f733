"""Whether Pillow, which the image service alone needs, is there and new enough."""

from __future__ import annotations

import sys

__all__ = ["require_pillow"]

#: The oldest Pillow that decodes JPEG files safely.
MIN_PILLOW = 13


def require_pillow() -> None:
    """End the program with a sentence that says what to install, unless Pillow is there."""
    found = _version()
    if not found[:1].isdigit() or int(found.partition(".")[0]) < MIN_PILLOW:
        # Both `python -m bw_tasks` and dramatiq's workers print the sentence, and nothing else.
        raise SystemExit(missing(found, sys.version_info[:2]))


def missing(found: str, python: tuple[int, int]) -> str:
    """What to do about a Pillow that is not there, or too old.

    Parameters:
      found(str): The version of the Pillow that is installed, or nothing.
      python(tuple[int, int]): The version of Python.
    """
    if python < (3, 11):
        return (
            f"bw_tasks needs Python 3.11 or newer, as Pillow {MIN_PILLOW} does, and this is Python "
            f"{python[0]}.{python[1]}: make a virtual environment with a newer Python, and there run pip install "
            "'dramatiq-jetstream[images]'."
        )
    there = f"Pillow {found} is" if found else "Pillow is not"
    return (
        f"bw_tasks needs Pillow {MIN_PILLOW} or newer, but {there} installed: run pip install "
        "'dramatiq-jetstream[images]'."
    )


def _version() -> str:
    try:
        from PIL import __version__
    except ImportError:
        return ""
    return __version__
