"""What clients and the server write to each other: commands and blocks of headers."""

from __future__ import annotations

from collections.abc import Mapping

_VERSION = b"NATS/1.0"
_END = b"\r\n"

#: The names under which the first line of a block of headers is found.
STATUS = "Status"
DESCRIPTION = "Description"


def publish_command(subject: str, body: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> bytes:
    """The command that publishes a message.

    Raises:
      ValueError: If a header would end its line.
    """
    target = f"{subject} {reply}" if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (target.encode(), len(body), body)
    block = header_block(headers)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (target.encode(), len(block), len(block) + len(body), block, body)


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent and stored.

    Raises:
      ValueError: If one would end its line.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError(f"a header must not hold a line break: {dict(headers)!r}")
    return b"%b\r\n%b\r\n" % (_VERSION, lines.encode())


def parse_headers(block: bytes) -> dict[str, str]:
    """Read a block of headers; the server's first line is returned as Status and Description."""
    first, *lines = block.split(_END)
    headers: dict[str, str] = {}
    status = first[len(_VERSION) :].strip().decode("utf-8", "replace")
    if status:
        headers[STATUS], _, headers[DESCRIPTION] = status.partition(" ")
    for line in lines:
        name, found, value = line.partition(b":")
        if found:
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return headers
