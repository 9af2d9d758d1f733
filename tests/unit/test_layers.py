"""The layers of the package: imports point downwards only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import dramatiq_jetstream

PACKAGE = "dramatiq_jetstream"

#: From the bottom to the top; within a layer, from left to right. A module may import what is below
#: it, and what stands to its left.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "names", "settings", "prefetch", "protocol", "wire"),
    (
        *("threads", "loop_thread", "framing", "transport", "outbox", "publisher", "link", "session", "connection"),
        *("topology", "server_process"),
    ),
    (
        *("blueprint", "server", "delivery", "finishing", "stored", "counts", "key_value", "attempts", "policy"),
        *("burial", "delays", "puller", "consumer", "handling", "queues", "batch", "delayed", "dead_letters"),
        *("parked", "consumers"),
    ),
    (
        *("broker", "backend", "results", "rate_limits", "abort"),
        *("admin.nats_cli", "admin.plan", "admin.queues", "admin.messages", "admin.dead", "admin.delays"),
        *("admin.events", "admin.roles", "admin.doctor", "admin"),
    ),
    (
        *("cli.failures", "cli.values", "cli.contexts", "cli.options", "cli.output", "cli.applications"),
        *("cli.operator", "cli.command", "cli.root", "cli.completion", "cli.messages", "cli.dead", "cli.delayed"),
        *("cli.diagnosis", "cli.queues", "cli.server", "cli.setup", "cli", "__main__"),
    ),
)

MAY_IMPORT_NATS = {*LAYERS[1], *LAYERS[2]}

#: A module's place: its layer, and where it stands in it.
PLACES = {module: (level, place) for level, layer in enumerate(LAYERS) for place, module in enumerate(layer)}
TOP = (len(LAYERS), 0)


def breaches(folder: Path) -> list[str]:
    """The imports below a package's folder that the layers do not allow, each as a sentence."""
    return [breach for path in sorted(folder.rglob("*.py")) for breach in breaches_of(path, folder)]


def breaches_of(path: Path, folder: Path) -> Iterator[str]:
    module = ".".join(path.relative_to(folder).with_suffix("").parts)
    if module == "__init__":
        return
    package = path.parent.relative_to(folder).parts
    module = module.removesuffix(".__init__")
    if module not in PLACES:
        yield f"{module} has no layer: give it one in LAYERS"
        return
    for name in imports(ast.parse(path.read_text(encoding="utf-8")), package):
        top, _, imported = name.partition(".")
        if top == "nats" and module not in MAY_IMPORT_NATS:
            yield f"{module} imports {name}, but only layers 1 and 2 may"
        elif top == "bw_tasks":
            yield f"{module} imports {name}, an application of this package"
        elif top == PACKAGE and not may_import(module, imported):
            yield f"{module} imports {name}, which is not below it"


def may_import(module: str, imported: str) -> bool:
    return PLACES.get(imported, TOP) < PLACES[module]


def imports(tree: ast.Module, package: Sequence[str] = ()) -> Iterator[str]:
    """Every module that a module of the package imports, wherever in it and for whatever use.

    Parameters:
      tree(Module): The module.
      package(Sequence[str]): The packages below ours that it is in.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = [PACKAGE, *package][: len(package) + 2 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            if source == PACKAGE or (node.level and not node.module):
                yield from (f"{source}.{alias.name}" for alias in node.names)
            else:
                yield source


def write(folder: Path, module: str, source: str) -> None:
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)


def test_imports_point_downwards_only() -> None:
    assert breaches(Path(dramatiq_jetstream.__file__).parent) == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("errors", "from .broker import JetStreamBroker", "errors imports dramatiq_jetstream.broker"),
        ("topology", "from . import consumer", "topology imports dramatiq_jetstream.consumer"),
        ("names", "import dramatiq_jetstream.wire", "names imports dramatiq_jetstream.wire"),
        ("delays", "from dramatiq_jetstream.admin import Queue", "delays imports dramatiq_jetstream.admin"),
        ("loop_thread", "from .connection import Connection", "loop_thread imports dramatiq_jetstream.connection"),
        ("broker", "from dramatiq_jetstream import JetStreamBroker", "broker imports dramatiq_jetstream.Jet"),
        ("broker", "def late():\n    from .cli import main", "broker imports dramatiq_jetstream.cli"),
        ("broker", "if TYPE_CHECKING:\n    import nats.js", "broker imports nats.js"),
        ("cli", "from nats.errors import Error", "cli imports nats.errors"),
        ("settings", "import nats", "settings imports nats"),
        ("server", "from bw_tasks import to_blackandwhite", "server imports bw_tasks"),
        ("helpers", "", "helpers has no layer"),
        ("admin.queues", "from ..cli import main", "admin.queues imports dramatiq_jetstream.cli"),
        ("admin.queues", "from .doctor import examine", "admin.queues imports dramatiq_jetstream.admin.doctor"),
        ("admin.queues", "from nats.errors import Error", "admin.queues imports nats.errors"),
        ("cli.dead", "from . import server", "cli.dead imports dramatiq_jetstream.cli.server"),
    ],
)
def test_breach_of_the_layers_is_found(tmp_path: Path, module: str, source: str, expected: str) -> None:
    write(tmp_path, module, source)

    [breach] = breaches(tmp_path)

    assert breach.startswith(expected)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("connection", "import nats\nfrom .loop_thread import LoopThread\nfrom .errors import ServerUnreachable"),
        ("consumer", "from . import connection, names\nimport asyncio"),
        ("cli", "import click\nfrom .admin import Queue"),
        (
            "cli.queues",
            "import click\nfrom .. import admin\nfrom ..admin import QueueView\nfrom .command import command",
        ),
        ("__init__", "from .broker import JetStreamBroker\nfrom .server import NatsServer"),
    ],
)
def test_import_that_points_downwards_is_allowed(tmp_path: Path, module: str, source: str) -> None:
    write(tmp_path, module, source)

    assert breaches(tmp_path) == []
