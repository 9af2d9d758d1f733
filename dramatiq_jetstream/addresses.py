"""Addresses of NATS servers, parsed once, so that the credentials in them are not shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .hidden import SHOWN, Hidden, revealed

DEFAULT_PORT = 4222

_SCHEMES = ("nats", "tls", "ws", "wss")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)

#: An address that may end here; another one ends at a comma in its password.
_WHOLE = re.compile(r"(\w+://)?(.*@)?(\[[^]]*\]|[^:@/\[]+)(:\d*)?/?", re.DOTALL)


@dataclass(frozen=True, repr=False)
class Address:
    """Where a server listens, and as whom to speak to it; shown without credentials.

    Parameters:
      url(str): The address to connect to, without user and password.
      host(str): The host's name.
      port(int): The port, if it is known.
      user(str): The user's name, decoded; a token if there is no password.
      password(str): The user's password, decoded.
    """

    url: str
    host: str
    port: int | None
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        # The query of a WebSocket's address may hold a token.
        place, mark, _ = self.url.partition("?")
        return f"{place}?{SHOWN}" if mark else place

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def scheme(self) -> str:
        """``nats``, ``tls``, ``ws`` or ``wss``."""
        return self.url.partition(":")[0]

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        return [text for text in (self.password or self.user, self.url.partition("?")[2]) if text]

    @property
    def credentials(self) -> dict[str, str | None]:
        """The user and password, or the token, as options of ``nats.connect``; empty if there are none."""
        if self.user is None:
            return {}
        if self.password is None:
            return {"user": None, "password": None, "token": self.user}
        return {"user": self.user, "password": self.password, "token": None}


def parse_addresses(given: str | Sequence[str] | Hidden[str | Sequence[str]]) -> list[Address]:
    """Read addresses.

    A password may be percent-encoded, as it must be if it holds a comma; ``/``, ``@`` and ``:`` are
    taken as they are.

    Parameters:
      given(str | Sequence[str]): One address, several with commas between, or a list; hidden or not.

    Raises:
      ValueError: If one is not the address of a server.  Neither its text nor its frames show credentials.
    """
    found = _read(revealed(given))
    del given
    if isinstance(found, str):
        raise ValueError(found)
    return found


def credentials_for(addresses: Iterable[Address], host: str | None, port: int | None) -> dict[str, str | None]:
    """What to say to a server of who we are, out of the addresses; to one that another has named, what comes first."""
    known = [address for address in addresses if address.credentials]
    there = [address for address in known if (address.host, address.port) == (host, port)]
    return next((address.credentials for address in [*there, *known]), {})


def _read(given: str | Sequence[str]) -> list[Address] | str:
    """The addresses, or what is wrong with one: the frames of an exception would show it to reporters of errors."""
    texts = _split(given) if isinstance(given, str) else given
    try:
        return [_parse(text.strip()) for text in texts if text.strip()]
    except ValueError as error:
        return str(error)


def _split(text: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        if found and found[-1].strip() and "://" not in part and not _WHOLE.fullmatch(found[-1].strip()):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _parse(text: str) -> Address:
    match = _SCHEME.fullmatch(text)
    scheme, rest = (match[1].lower(), match[2]) if match else ("nats", text)
    # A password may hold an @, a / or a ?, which an ordinary parser of URLs would stumble over.
    userinfo, _, place = rest.rpartition("@")
    if scheme not in _SCHEMES:
        raise ValueError(f"{_shown(scheme, place)} is not the address of a NATS server: it begins with {_listed()}")
    host, port = _host_and_port(scheme, place)
    if port is None and scheme in ("nats", "tls"):
        port = DEFAULT_PORT
    user, colon, password = userinfo.partition(":")
    return Address(
        url=f"{scheme}://{place.rstrip('/') if scheme in ('nats', 'tls') else place}",
        host=host,
        port=port,
        user=unquote(user) if userinfo else None,
        password=unquote(password) if colon else None,
    )


def _host_and_port(scheme: str, place: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"{scheme}://{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    odd = any(character.isspace() or not character.isprintable() for character in place)
    if not host or odd or (parts.path.strip("/") and scheme in ("nats", "tls")):
        raise ValueError(f"{_shown(scheme, place)} is not the address of a NATS server: one is like nats://host:4222")
    return host, port


def _shown(scheme: str, place: str) -> str:
    """What of an address that is none may be shown: nothing that could be a password whose host was forgotten."""
    return repr(f"{scheme}://{re.split(r'[:/?#]', place, maxsplit=1)[0][:80]}…")


def _listed() -> str:
    return ", ".join(f"{scheme}://" for scheme in _SCHEMES[:-1]) + f" or {_SCHEMES[-1]}://"
