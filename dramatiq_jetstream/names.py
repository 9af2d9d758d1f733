"""Maps the names of queues, actors and keys to names on the server, without collisions."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

#: Maximum length of an escaped name that is not shortened.  The server accepts stream names of up to
#: 255 bytes and creates a folder for each, so two of them and a prefix must fit.
MAX_TOKEN = 100

#: Names that the server's own streams begin with ("KV_<bucket>", "OBJ_<bucket>").
RESERVED_NAMESPACES = frozenset({"KV", "OBJ"})

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_SPECIAL = re.compile(rb"[^A-Za-z0-9_-]")
_SPECIAL_IN_PREFIX = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")


@lru_cache(maxsize=4096)
def escape(name: str) -> str:
    """Turn any text into one token that is valid in a subject, a stream name and a KV key.

    Letters, digits, ``_`` and ``-`` stay; every other byte of the UTF-8 form becomes ``=`` and two
    hexadecimal digits.  A long name is cut and ends in ``==`` and a digest: no short name can
    contain ``==``, so two names never share a token.

    Parameters:
      name(str): The text to escape.

    Raises:
      ValueError: If the name is empty.

    Returns:
      str: The token.
    """
    if not name:
        raise ValueError("a name must not be empty")
    if len(name) <= MAX_TOKEN and _PLAIN.fullmatch(name):
        return name

    return _escape(name, _SPECIAL)


def _escape(name: str, special: re.Pattern[bytes]) -> str:
    raw = name.encode("utf-8", "surrogatepass")
    token = special.sub(lambda match: b"=%02X" % match[0][0], raw).decode("ascii")
    if len(token) > MAX_TOKEN:
        digest = hashlib.sha256(raw).hexdigest()[:32]
        token = f"{token[: MAX_TOKEN - 34]}=={digest}"
    return token


def unescape(token: str) -> str | None:
    """The text that :func:`escape` turned into a token; None if it was cut."""
    if "==" in token:
        return None
    raw = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), token.encode())
    return raw.decode("utf-8", "surrogatepass")


def covers(pattern: str, subject: str) -> bool:
    """Whether everything that matches a subject, which may have wildcards, matches a pattern."""
    wide, narrow = pattern.split("."), subject.split(".")
    for position, token in enumerate(wide):
        if token == ">":
            return len(narrow) > position
        if position >= len(narrow) or narrow[position] == ">":
            return False
        if token not in ("*", narrow[position]):
            return False
    return len(wide) == len(narrow)


@dataclass(frozen=True)
class Names:
    """The server's names for everything in one namespace.

    Parameters:
      namespace(str): The prefix of the names.  Applications that share a server use different ones.
    """

    namespace: str = "dramatiq"

    def __post_init__(self) -> None:
        if not self.namespace:
            raise ValueError("namespace must not be empty")

    @property
    def prefix(self) -> str:
        """The namespace as a token.

        The first ``_`` of a queue's stream name ends the namespace, so it is escaped in here.
        """
        token = _escape(self.namespace, _SPECIAL_IN_PREFIX)
        return f"={ord(token[0]):02X}{token[1:]}" if token in RESERVED_NAMESPACES else token

    @property
    def consumer(self) -> str:
        """The durable consumer of each queue's stream.

        It has the namespace's name, so that one wildcard subject captures the advisories of all
        these consumers and of no others.
        """
        return self.prefix

    @property
    def dead_letters(self) -> str:
        """The stream that keeps dead letters."""
        return f"{self.prefix}-dead-letters"

    @property
    def advisories(self) -> str:
        """The stream of advisories about messages without attempts left, in streams owned by this package."""
        return f"{self.prefix}-advisories"

    def advisories_of(self, queue_name: str) -> str:
        """The stream of these advisories for a queue whose stream is owned by others."""
        return f"{self.prefix}-advisories-{escape(queue_name)}"

    def bucket(self, purpose: str) -> str:
        """The KV bucket for a purpose, such as ``results``.

        Clients refuse bucket names that contain ``=``; ``_`` does not occur in the prefix.
        """
        return f"{self.prefix.replace('=', '_')}-{purpose}"

    def stream(self, queue_name: str) -> str:
        """The stream of a queue."""
        return f"{self.prefix}_{escape(queue_name)}"

    def queue_name(self, stream: str) -> str | None:
        """The queue of a stream; None if the stream is owned by others, or the queue's name was shortened."""
        prefix, token = f"{self.prefix}_", stream[len(self.prefix) + 1 :]
        if not stream.startswith(prefix) or not token:
            return None
        try:
            return unescape(token)
        except UnicodeDecodeError:
            # This package did not name it.
            return None

    def work_subject(self, queue_name: str, actor_name: str | None = None) -> str:
        """The subject of messages ready for delivery; a wildcard for all actors if none is given."""
        return f"{self.prefix}.work.{escape(queue_name)}.{_token(actor_name)}"

    def delayed_subject(self, queue_name: str, message_id: str | None = None, nonce: str | None = None) -> str:
        """The subject of a delayed message."""
        return f"{self.prefix}.delayed.{escape(queue_name)}.{_token(message_id)}.{_token(nonce)}"

    def renew_subject(self, queue_name: str) -> str:
        """The subject on which a queue's workers are asked to renew their leases at once."""
        return f"{self.prefix}.renew.{escape(queue_name)}"

    def dead_subject(self, queue_name: str | None = None, actor_name: str | None = None) -> str:
        """The subject of dead letters."""
        return f"{self.prefix}.dead.{_token(queue_name)}.{_token(actor_name)}"


def _token(name: str | None) -> str:
    """Escape a name from outside; None becomes the wildcard."""
    return "*" if name is None else escape(name) if name else "="
