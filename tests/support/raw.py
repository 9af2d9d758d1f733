"""Messages that no client of good manners would publish, written to the server byte by byte."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

_CONNECT = {"verbose": False, "pedantic": False, "headers": True, "no_responders": False}


def publish_raw(url: str, subject: str, headers: bytes, body: bytes, *, copies: int = 1) -> None:
    """Publish messages with a block of headers of any bytes, and wait until the server has them.

    Parameters:
      url(str): The server.
      subject(str): The subject.
      headers(bytes): What stands between the first line of the block and its end.
      body(bytes): The body.
      copies(int): How many such messages.
    """
    block = b"NATS/1.0\r\n%b\r\n\r\n" % headers
    size = len(block) + len(body)
    command = b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(block), size, block, body)
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=10) as link, link.makefile("rb") as answers:
        answers.readline()
        link.sendall(b"CONNECT %b\r\n" % json.dumps(_CONNECT).encode() + command * copies + b"PING\r\n")
        while (line := answers.readline()) != b"PONG\r\n":
            assert line, "the server closed the connection"
