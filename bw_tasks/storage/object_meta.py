"""An object's meta message and its subjects, as NATS's clients write them (ADR-20)."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime, timezone
from typing import Any, NamedTuple

from .locations import Location

__all__ = ["Meta", "chunk_subject", "meta_of", "meta_subject", "stream_of"]

_DIGEST = "SHA-256="


class Meta(NamedTuple):
    """What a meta message says.

    Parameters:
      nuid(str): The last token of its chunks' subject; nothing if the object is deleted.
      size(int): Its bytes.
      digest(str): ``SHA-256=`` and the digest in URL-safe base 64.
      is_link(bool): Whether it stands for another object.
      fields(dict): All of it.
    """

    nuid: str
    size: int
    digest: str
    is_link: bool
    fields: dict[str, Any]

    @classmethod
    def new(cls, location: Location, nuid: str, data: bytes, chunk: int) -> Meta:
        """The meta message of an object that is written in chunks of a size."""
        digest = _DIGEST + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        fields = {
            "name": location.key,
            "options": {"max_chunk_size": chunk},
            "bucket": location.bucket,
            "nuid": nuid,
            "size": len(data),
            "mtime": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "chunks": -(-len(data) // chunk),
            "digest": digest,
        }
        return cls(nuid, len(data), digest, False, fields)

    def encoded(self) -> bytes:
        """The message's body."""
        return json.dumps(self.fields, separators=(",", ":")).encode()

    def fits(self, digest: bytes) -> bool:
        """Whether its bytes have this digest; always where it names none."""
        kind, _, value = self.digest.partition("=")
        return kind.upper() != "SHA-256" or base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) == digest


def meta_of(body: bytes) -> Meta | None:
    """Read a meta message; None if the object is deleted.

    Raises:
      ValueError: If it is none.
    """
    try:
        fields = json.loads(body)
        if fields.get("deleted"):
            return None
        link = bool((fields.get("options") or {}).get("link"))
        return Meta(
            str(fields.get("nuid") or ""), int(fields.get("size") or 0), str(fields.get("digest") or ""), link, fields
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a meta message: {error}") from error


def stream_of(bucket: str) -> str:
    """The stream that a bucket is."""
    return f"OBJ_{bucket}"


def meta_subject(location: Location) -> str:
    """The subject of an object's meta message."""
    name = base64.urlsafe_b64encode(location.key.encode()).decode()
    return f"$O.{location.bucket}.M.{name}"


def chunk_subject(bucket: str, nuid: str) -> str:
    """The subject of an object's chunks."""
    return f"$O.{bucket}.C.{nuid}"
