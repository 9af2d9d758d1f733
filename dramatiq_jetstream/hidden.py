"""Secrets: values that nothing shows by accident, and texts out of which they are taken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote, quote_plus

T = TypeVar("T")

SHOWN = "…"

#: The shortest value that is replaced in a text: shorter ones are parts of ordinary words.
SHORTEST = 4

#: What is a secret wherever it stands: a seed or private key of an nkey, a JWT, a key in PEM.
_FORMS = re.compile(
    r"[SP][A-Z0-9]{40,}"
    r"|\beyJ[\w-]+\.[\w-]+(\.[\w-]+)?"
    r"|-----BEGIN [A-Z ]*(PRIVATE|NATS|SEED).*?(-----END [^-]*-*|\Z)",
    re.DOTALL,
)


class Hidden(Generic[T]):
    """A value that is not shown by ``repr``, copies, pickles and reporters of errors.

    Parameters:
      value(object): The value.
      shown(str): What is shown in its place.
    """

    __slots__ = ("_shown", "_value")

    def __init__(self, value: T, shown: str = SHOWN) -> None:
        self._value = value
        self._shown = shown

    def reveal(self) -> T:
        """The value."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return self._value == revealed(other)

    def __hash__(self) -> int:
        return hash(self._shown)

    def __repr__(self) -> str:
        return self._shown

    def __copy__(self) -> Hidden[T]:
        return self

    def __deepcopy__(self, memo: object) -> Hidden[T]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled: make the broker anew, in each process")


def revealed(value: T | Hidden[T]) -> T:
    """A value that may be hidden."""
    return value.reveal() if isinstance(value, Hidden) else value


def hidden_options(options: Mapping[str, Any] | Hidden[Mapping[str, Any]]) -> Hidden[Mapping[str, Any]]:
    """Options whose names are shown, but not their values."""
    given = revealed(options)
    return Hidden(given, f"{{{', '.join(f'{name!r}: {SHOWN}' for name in given)}}}")


def texts_in(value: object) -> list[str]:
    """Every text in a value: what may be a secret in it."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [text for part in value for text in texts_in(part)]
    if isinstance(value, (bytes, bytearray)):
        return [bytes(value).decode("utf-8", "replace")]
    return [value] if isinstance(value, str) else []


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without secrets: those given, also percent-encoded, and what has the form of one.

    Parameters:
      text(str): The text.
      secrets(Iterable[str]): Secrets that it may hold.
    """
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret))}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= SHORTEST:
            # As it is, and as a repr writes it.
            text = text.replace(form, SHOWN).replace(repr(form)[1:-1], SHOWN)
    return _FORMS.sub(SHOWN, text)
