"""The private parts of nats-py and dramatiq that this package stands on, each by its name and signature.

An update of theirs that takes one away fails here by name.  The modules that use them say why.
"""

from __future__ import annotations

import ast
import inspect
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import dramatiq.broker
import dramatiq.message
import dramatiq.worker
import pytest
from dramatiq.brokers.stub import StubBroker
from nats.aio import client as nats_client
from nats.aio import subscription as nats_subscription
from nats.aio import transport as nats_transport
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, WebSocketTransport

import dramatiq_jetstream
from dramatiq_jetstream.client import nats_internals
from dramatiq_jetstream.worker import dramatiq_internals

PACKAGE = Path(dramatiq_jetstream.__file__).parent

#: The only modules that may use private parts of others.
ADAPTERS = ("client/nats_internals.py", "worker/dramatiq_internals.py")

#: Names with an underscore that are public all the same.
PUBLIC = frozenset({"_replace", "_asdict", "_exit"})

NATS_METHODS = {
    "Client._send_ping": (Client, ["self", "future=None"]),
    "Client._process_pong": (Client, ["self"]),
    "Client._connect_command": (Client, ["self"]),
    "Client._process_info": (Client, ["self", "info", "initial_connection=False"]),
    "Client._remove_sub": (Client, ["self", "sid", "max_msgs=0"]),
    "Subscription._stop_processing": (Subscription, ["self"]),
    "TcpTransport.connect": (TcpTransport, ["self", "uri", "buffer_size", "connect_timeout"]),
    "TcpTransport.connect_tls": (TcpTransport, ["self", "uri", "ssl_context", "buffer_size", "connect_timeout"]),
    "TcpTransport.write": (TcpTransport, ["self", "payload"]),
    "TcpTransport.writelines": (TcpTransport, ["self", "payload"]),
    "TcpTransport.drain": (TcpTransport, ["self"]),
    "TcpTransport.close": (TcpTransport, ["self"]),
}

COROUTINES = {
    "Client._send_ping",
    "Client._process_pong",
    "Client._process_info",
    "TcpTransport.connect",
    "TcpTransport.connect_tls",
}

#: What a client, a transport or a subscription has from the beginning.
NATS_ATTRIBUTES: dict[Any, dict[str, Any]] = {
    Client: {
        "_transport": None,
        "_pending": [],
        "_pending_data_size": 0,
        "_server_info": {},
        "_current_server": None,
        "_auth_configured": False,
        "_status": Client.DISCONNECTED,
        "_pongs": [],
        "_reading_task": None,
        "_flush_queue": None,
        "_disconnected_cb": None,
        "_closed_cb": None,
        "options": {},
    },
    TcpTransport: {"_io_writer": None, "_bare_io_writer": None},
    Subscription: {"_id": 7, "_conn": ...},
}


def parameters(function: Callable[..., Any]) -> list[str]:
    """A function's parameters as they are written, without their types."""
    found = inspect.signature(function).parameters.values()
    return [str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in found]


def made(kind: type) -> Any:
    return Subscription(Client(), 7, "subject") if kind is Subscription else kind()


class TestNats:
    @pytest.mark.parametrize("name", NATS_METHODS)
    def test_method_has_its_signature(self, name: str) -> None:
        owner, expected = NATS_METHODS[name]
        method = getattr(owner, name.partition(".")[2])

        assert parameters(method) == expected
        assert inspect.iscoroutinefunction(method) == (name in COROUTINES or name == "TcpTransport.drain")

    @pytest.mark.parametrize(
        ("kind", "name"),
        [(kind, name) for kind, names in NATS_ATTRIBUTES.items() for name in names],
        ids=lambda value: value if isinstance(value, str) else value.__name__,
    )
    def test_attribute_is_there_from_the_beginning(self, kind: type, name: str) -> None:
        expected = NATS_ATTRIBUTES[kind][name]

        assert hasattr(made(kind), name)
        assert expected is ... or getattr(made(kind), name) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "self._server_info = srv_info",
            "await self._process_info(srv_info, initial_connection=True)",
            '"tls_required" in self._server_info',
            "await self._transport.connect_tls(",
            "connect_cmd = self._connect_command()",
            "self._transport.write(connect_cmd)",
        ],
    )
    def test_connecting_takes_these_steps(self, text: str) -> None:
        assert text in inspect.getsource(Client._process_connect_init)

    def test_credentials_are_written_after_the_server_spoke_and_tls_was_agreed_on(self) -> None:
        source = inspect.getsource(Client._process_connect_init)
        places = [
            source.rindex(step)
            for step in ("_process_info(", ".connect_tls(", "_connect_command()", "write(connect_cmd)")
        ]

        assert places == sorted(places)

    def test_credentials_are_read_from_the_options_at_each_connect(self) -> None:
        source = inspect.getsource(Client._connect_command)

        assert all(f'self.options["{name}"]' in source for name in ("user", "password", "token"))
        assert "self._auth_configured" in source

    def test_client_says_which_server_it_connects_to_by_host_and_port(self) -> None:
        client = Client()
        client._setup_server_pool(["nats://a:1", "tls://b", "ws://c"][:2])

        assert [(server.uri.hostname, server.uri.port) for server in client._server_pool] == [("a", 1), ("b", 4222)]

    def test_transport_that_is_there_is_not_replaced(self) -> None:
        assert "if not self._transport:" in inspect.getsource(Client._connect_to_server)

    def test_websocket_has_its_parts(self) -> None:
        source = inspect.getsource(WebSocketTransport)

        assert all(name in source for name in ("self._ws = self._client = None", "self._using_tls = True"))
        assert "self._response = " in inspect.getsource(aiohttp.ClientWebSocketResponse.__init__)

    def test_missing_permissions_are_told_by_their_text(self) -> None:
        assert vars(nats_client)["PERMISSIONS_ERR"] == "permissions violation"
        assert "await self._error_cb(err)" in inspect.getsource(Client._process_err)

    def test_client_of_ours_overrides_what_is_there(self) -> None:
        # A method of ours whose model was renamed would never be called.
        for name in ("_connect_command", "_process_info", "close"):
            assert name in vars(nats_internals.NatsClient)
            assert parameters(getattr(nats_internals.NatsClient, name)) == parameters(getattr(Client, name))

    @pytest.mark.parametrize("name", ["_tls", "_before_connect", "receivers"])
    def test_client_of_ours_hides_nothing(self, name: str) -> None:
        assert not hasattr(Client(), name)


class TestDramatiq:
    """Of dramatiq 1.17 and of dramatiq 2 alike."""

    @pytest.fixture
    def worker(self) -> dramatiq.Worker:
        return dramatiq.Worker(StubBroker(middleware=[]), worker_threads=1)

    @pytest.fixture
    def thread(self, worker: dramatiq.Worker) -> Any:
        return vars(dramatiq_internals)["ConsumerThread"](
            broker=worker.broker, queue_name="default", prefetch=1, work_queue=worker.work_queue, worker_timeout=1
        )

    def test_consumers_thread_has_its_parts(self, thread: Any) -> None:
        assert threading.Thread in type(thread).__mro__
        assert (thread.consumer, thread.paused, thread.running) == (None, False, False)
        assert parameters(thread.handle_message) == ["message"]

    def test_message_handed_over_comes_out_of_the_workers_queue(self, worker: dramatiq.Worker, thread: Any) -> None:
        @dramatiq.actor(broker=worker.broker)
        def nothing() -> None: ...

        message = dramatiq.MessageProxy(nothing.message())

        dramatiq_internals.hand_over(thread, message)

        assert isinstance(worker.work_queue, queue.PriorityQueue)
        assert list(dramatiq_internals.take_waiting(worker)) == [message]
        assert worker.work_queue.unfinished_tasks == 0

    def test_message_holds_what_it_failed_with(self) -> None:
        message = dramatiq.MessageProxy(dramatiq.Message("default", "actor", (), {}, {}))
        assert dramatiq_internals.exception_of(message) is None

        error = ValueError()
        message.stuff_exception(error)

        assert dramatiq_internals.exception_of(message) is error

    def test_prefetch_is_a_constant_of_the_workers_module(self) -> None:
        assert dramatiq.worker.QUEUE_PREFETCH == 0
        assert not dramatiq_internals.has_chosen_prefetch()


def private_names(*modules: ModuleType) -> Iterator[str]:
    """The private names that modules define."""
    for module in modules:
        yield from filter(is_private, defined(ast.parse(inspect.getsource(module))))


def foreign_uses(path: Path, ours: frozenset[str]) -> Iterator[str]:
    """The private parts of others that a module uses.

    Parameters:
      path(Path): The module.
      ours(frozenset[str]): The private names that the package itself defines.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # Another object's part is one of ours if it is this module's, or if others have none of its name.
    known = frozenset(defined(tree)) | (ours - THEIRS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr not in (ours if own or is_super(node.value) else known):
                yield f"{path.name}:{node.lineno}: {node.attr}"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{path.name}: {alias.name}" for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "attr" in node.func.id:
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            yield from (
                f"{path.name}:{node.lineno}: {text}" for text in texts if is_private(text) and text not in known
            )


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def defined(tree: ast.AST) -> Iterator[str]:
    """The names that a module gives to functions and attributes of its own."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            if node.value.id in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


THEIRS = frozenset(
    private_names(nats_client, nats_subscription, nats_transport, dramatiq.broker, dramatiq.worker, dramatiq.message)
)


def uses_in(folder: Path) -> list[str]:
    paths = [path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).as_posix() not in ADAPTERS]
    ours = frozenset(name for path in paths for name in defined(ast.parse(path.read_text(encoding="utf-8"))))
    return [use for path in paths for use in foreign_uses(path, ours)]


def test_private_parts_of_others_are_used_in_their_adapters_only() -> None:
    assert uses_in(PACKAGE) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(message):\n    return message._exception", "module.py:2: _exception"),
        ("client._status = 3", "module.py:1: _status"),
        ("class C(Client):\n    def f(self):\n        self._pending.clear()", "module.py:3: _pending"),
        ("class C(Client):\n    def f(self):\n        super()._send_ping()", "module.py:3: _send_ping"),
        ("from dramatiq.worker import _ConsumerThread", "module.py: _ConsumerThread"),
        ("getattr(message, '_exception', None)", "module.py:1: _exception"),
        ("class C:\n    def _f(self): ...\n    def g(self): self.client._f._transport", "module.py:3: _transport"),
    ],
)
def test_use_of_a_private_part_is_found(tmp_path: Path, source: str, expected: str) -> None:
    (tmp_path / "module.py").write_text(source)

    assert uses_in(tmp_path) == [expected]


@pytest.mark.parametrize(
    "source",
    [
        "class C:\n    def __init__(self):\n        self._a = 1\n    def same(self, other):\n        return other._a",
        "row._replace(a=1)._asdict()",
        "import os\nos._exit(1)",
        "class C:\n    _a: int = 1\n    def f(self):\n        return self._a",
        "from .module import _private",
    ],
)
def test_private_part_of_ones_own_is_no_breach(tmp_path: Path, source: str) -> None:
    (tmp_path / "module.py").write_text(source)

    assert uses_in(tmp_path) == []


@pytest.mark.parametrize("module", ADAPTERS)
def test_adapter_names_each_part_that_it_uses(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    said = ast.get_docstring(tree) or ""
    mine = frozenset(defined(tree))

    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)}

    assert sorted(name for name in used - mine if f"{name}`" not in said) == []
