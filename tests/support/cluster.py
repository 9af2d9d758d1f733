"""Three nats-servers that share their streams."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from dramatiq_jetstream import NatsServer
from tests.support.ports import free_ports


class Cluster:
    """Three servers, made and ended by :func:`cluster`.

    Parameters:
      servers(list[NatsServer]): The servers, named n0, n1 and n2.
    """

    def __init__(self, servers: list[NatsServer]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        """All addresses, as one setting."""
        return ",".join(server.url for server in self.servers)

    def named(self, name: str) -> NatsServer:
        """The server of a name, such as the server gives for a stream's leader."""
        return self.servers[int(name[1:])]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start three servers and wait until they agree."""
    with ExitStack() as stack:
        routes = [f"127.0.0.1:{port}" for port in free_ports(3)]
        listed = ", ".join(f"nats://{route}" for route in routes)
        servers = [
            NatsServer(
                config=f"server_name: n{number}\ncluster {{ name: tests, listen: {route}, routes: [{listed}] }}\n",
                timeout=60_000,
            )
            for number, route in enumerate(routes)
        ]
        for server in servers:
            stack.callback(server.stop)
        # Each is ready when a majority is.
        with ThreadPoolExecutor(len(servers)) as threads:
            list(threads.map(NatsServer.start, servers))
        yield Cluster(servers)
