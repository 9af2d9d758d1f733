from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import eventually


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    received: bytes = b""


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _EchoServer)
        while data := self.request.recv(4096):
            self.server.received += data
            self.request.sendall(data)


@pytest.fixture
def echo_server() -> Iterator[_EchoServer]:
    with _EchoServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def echo_proxy(echo_server: _EchoServer) -> Iterator[Proxy]:
    with Proxy(echo_server.server_address[1]) as proxy:
        yield proxy


@contextlib.contextmanager
def connection_to(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        yield connection


def answers(connection: socket.socket, text: bytes) -> bool:
    connection.sendall(text)
    return connection.recv(4096) == text


def stays_silent(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    try:
        return connection.recv(4096) is None
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(4096) == b""
    except ConnectionResetError:
        return True


def test_open_proxy_forwards_both_ways(echo_proxy: Proxy) -> None:
    with connection_to(echo_proxy) as one, connection_to(echo_proxy) as other:
        assert answers(one, b"one")
        assert answers(other, b"other")


def test_cut_closes_connections_and_refuses_new_ones(echo_proxy: Proxy) -> None:
    with connection_to(echo_proxy) as connection:
        assert answers(connection, b"before")
        echo_proxy.cut()
        assert is_closed(connection)
    with pytest.raises(ConnectionRefusedError), connection_to(echo_proxy):
        pass


def test_resumed_proxy_takes_connections_on_the_same_port(echo_proxy: Proxy) -> None:
    url = echo_proxy.url
    echo_proxy.cut()
    echo_proxy.resume()

    assert echo_proxy.url == url
    with connection_to(echo_proxy) as connection:
        assert answers(connection, b"after")


def test_black_hole_keeps_connections_open_and_holds_their_bytes(echo_proxy: Proxy, echo_server: _EchoServer) -> None:
    with connection_to(echo_proxy) as old:
        assert answers(old, b"before")
        echo_proxy.black_hole()
        with connection_to(echo_proxy) as new:
            old.sendall(b"held")
            new.sendall(b"held too")
            assert stays_silent(old)
            assert stays_silent(new)
            assert echo_server.received == b"before"
            echo_proxy.resume()
            assert old.recv(4096) == b"held"
            assert new.recv(4096) == b"held too"


def test_dropped_replies_still_reach_the_server(echo_proxy: Proxy, echo_server: _EchoServer) -> None:
    with connection_to(echo_proxy) as connection:
        assert answers(connection, b"before ")
        echo_proxy.drop_replies()
        connection.sendall(b"unanswered")
        eventually(lambda: echo_server.received == b"before unanswered")
        assert stays_silent(connection)


def test_connection_that_lost_replies_is_closed_by_resume(echo_proxy: Proxy, echo_server: _EchoServer) -> None:
    with connection_to(echo_proxy) as lossy, connection_to(echo_proxy) as whole:
        assert answers(whole, b"whole ")
        echo_proxy.drop_replies()
        lossy.sendall(b"unanswered")
        eventually(lambda: echo_server.received == b"whole unanswered")
        assert stays_silent(lossy)
        echo_proxy.resume()
        assert is_closed(lossy)
        assert answers(whole, b"again")


def test_last_words_of_the_target_reach_the_client() -> None:
    last_words = b"-ERR" * 50_000
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Proxy(listener.getsockname()[1]) as proxy,
        connection_to(proxy) as connection,
    ):
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(last_words)
        assert b"".join(iter(lambda: connection.recv(65536), b"")) == last_words


def test_connection_to_a_dead_target_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Proxy(port) as proxy, connection_to(proxy) as connection:
        assert is_closed(connection)


def test_stopped_proxy_leaves_no_thread_and_can_be_stopped_again(echo_server: _EchoServer) -> None:
    before = threading.active_count()
    proxy = Proxy(echo_server.server_address[1])
    proxy.black_hole()
    with connection_to(proxy):
        proxy.stop()
        proxy.stop()

    eventually(lambda: threading.active_count() == before)
