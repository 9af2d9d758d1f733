"""Certificates of a test's own, and servers that use them."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path

import trustme


class Certificates:
    """An authority, a server's certificate and a client's, as files.

    Parameters:
      folder(Path): Where to write them.
    """

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.authority, self.server, self.client = (folder / f"{name}.pem" for name in ("ca", "server", "client"))
        self._authority.cert_pem.write_to_path(self.authority)
        self._authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(self.server)
        self._authority.issue_cert("worker@test").private_key_and_cert_chain_pem.write_to_path(self.client)

    def config(self, **more: object) -> str:
        """A server's ``tls`` block."""
        paths = {"cert_file": self.server, "key_file": self.server, "ca_file": self.authority}
        return _block({name: str(path) for name, path in paths.items()} | more)

    def context(self, *, client: bool = False) -> ssl.SSLContext:
        """What trusts the authority and, if asked to, shows the client's certificate."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if client:
            context.load_cert_chain(self.client)
        return context


def _block(values: Mapping[str, object]) -> str:
    return "".join(f"  {name}: {json.dumps(value)}\n" for name, value in values.items())
