"""Text as a terminal can show it: nothing in it is obeyed, and every character is one that the terminal has."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len

from ..logs import escaped

#: What stands for the ellipsis in an encoding that lacks it.
_ELLIPSIS = {ord("…"): "..."}


def printable(value: object) -> str:
    """Text in which every control character is shown instead of obeyed; line feeds and tabs stay."""
    return escaped("" if value is None else str(value), keep="\n\t").replace("\t", "    ")


def encodable(text: str, encoding: str) -> str:
    """Text in which a character that an encoding lacks is shown by its number."""
    if text.isascii():
        return text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ELLIPSIS).encode(encoding, "backslashreplace").decode(encoding)
    return text


def wrapped(text: str, width: int) -> Iterator[str]:
    """The lines of a text at a width: broken between words, and in words that are longer than a line.

    A character that combines with another counts as one of its own.
    """
    start = 0
    while (end := _end(text, start, max(width, 1))) < len(text):
        space = text.rfind(" ", start, end + 1)
        if text[start : max(space, start)].strip():
            yield text[start:space].rstrip()
            start = space + 1
        else:
            yield text[start:end]
            start = end
    yield text[start:]


def _end(text: str, start: int, width: int) -> int:
    """How far a line that starts somewhere reaches; at least one character."""
    line = text[start : start + width]
    if line.isascii():
        return start + len(line)
    taken = 0
    for number, char in enumerate(line):
        taken += max(cell_len(char), 1)
        if taken > width:
            return start + max(number, 1)
    return start + len(line)
