"""The layers of the package: folders in one order, imports downwards only, nats-py in one folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import dramatiq_jetstream

PACKAGE = "dramatiq_jetstream"

#: Folders and single modules, from the bottom to the top. What stands in one row may not import what stands
#: beside it; a module may import what is below its row, and what is in its own folder.
ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "logs", "names", "options", "hidden"),
    ("addresses",),
    ("settings", "wire"),
    ("client", "embedded"),
    ("streams",),
    ("deliveries", "sending"),
    ("dead_letters",),
    ("worker",),
    ("assembly",),
    ("broker",),
    ("backends",),
    ("results", "rate_limits", "abort"),
    ("admin",),
    ("cli",),
    ("__main__",),
)

#: Inside a folder, from the bottom to the top; each module may import what stands before it.
FOLDERS: dict[str, tuple[str, ...]] = {
    "wire": ("headers", "origin", "publication", "checks", "payloads"),
    "client": (
        *(
            "commands",
            "border",
            "server_errors",
            "threads",
            "framing",
            "shared_socket",
            "nats_internals",
            "supervision",
            "loop_thread",
        ),
        *("reconnecting_client", "subscriptions", "requests", "outbox", "publisher", "session", "connection"),
    ),
    "embedded": ("server_process", "server"),
    "streams": (
        *("route", "helpers", "differences", "required", "reading", "counts"),
        *("bucket_access", "changes", "words", "key_value"),
    ),
    "deliveries": ("prefetch", "bookkeeping", "delivery", "attempts", "actor_options", "after_actor", "puller"),
    "sending": ("queue", "entry", "batch", "atomic_batch", "outgoing", "scheduled"),
    "dead_letters": (
        *("letter", "storing", "entry", "archive", "advisories"),
        *("exhausted_letters", "generations", "sweeping", "exhausted"),
    ),
    "worker": ("dramatiq_internals", "fatal", "redelivery", "keeping", "handling", "consumer", "consumers"),
    "backends": ("bucket", "windows"),
    "admin": (
        *("nats_cli", "plan", "outside", "leases", "delivered", "queues", "messages", "attempts", "dead", "delays"),
        *("events", "roles", "finding", "grouping", "doctor", "waiting"),
    ),
    "cli": (
        *(
            "terminal",
            "failures",
            "values",
            "contexts",
            "options",
            "listing",
            "output",
            "applications",
            "operator",
            "choosing",
            "command",
            "root",
        ),
        *("completion", "messages", "dead", "delayed", "diagnosis", "queues", "server", "setup"),
    ),
}

#: The only folder that may import nats-py.
NATS = "client"

LEVELS = {name: level for level, row in enumerate(ROWS) for name in row}


def breaches(folder: Path) -> list[str]:
    """The imports below a package's folder that the layers do not allow, each as a sentence."""
    return [breach for path in sorted(folder.rglob("*.py")) for breach in breaches_of(path, folder)]


def breaches_of(path: Path, folder: Path) -> Iterator[str]:
    parts = path.relative_to(folder).with_suffix("").parts
    module = ".".join(parts).removesuffix(".__init__")
    if module == "__init__":
        return
    if not has_place(module):
        yield f"{module} has no layer: give it one in ROWS, or in FOLDERS"
        return
    for name in imports(ast.parse(path.read_text(encoding="utf-8")), parts[:-1]):
        top, _, imported = name.partition(".")
        if top == "nats" and module.split(".")[0] != NATS:
            yield f"{module} imports {name}, but only {NATS}/ may"
        elif top == "bw_tasks":
            yield f"{module} imports {name}, an application of this package"
        elif top == PACKAGE and not may_import(module, imported):
            yield f"{module} imports {name}, which is not below it"


def has_place(module: str) -> bool:
    folder, _, inner = module.partition(".")
    return folder in LEVELS and (not inner or inner in FOLDERS.get(folder, ()))


def may_import(module: str, imported: str) -> bool:
    mine, theirs = module.partition("."), imported.partition(".")
    if mine[0] != theirs[0]:
        return LEVELS.get(theirs[0], len(ROWS)) < LEVELS[mine[0]]
    inside = FOLDERS.get(mine[0], ())
    # A folder's own face hands on what is in it.
    return theirs[2] in inside and (not mine[2] or inside.index(theirs[2]) < inside.index(mine[2]))


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


def test_every_folder_says_in_a_sentence_what_it_is_for() -> None:
    package = Path(dramatiq_jetstream.__file__).parent

    said = {name: ast.get_docstring(ast.parse((package / name / "__init__.py").read_text())) for name in FOLDERS}

    assert [name for name, sentence in said.items() if not sentence] == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("errors", "from .broker import JetStreamBroker", "errors imports dramatiq_jetstream.broker"),
        ("streams.route", "from .. import worker", "streams.route imports dramatiq_jetstream.worker"),
        ("streams.route", "from . import required", "streams.route imports dramatiq_jetstream.streams.required"),
        ("names", "import dramatiq_jetstream.wire", "names imports dramatiq_jetstream.wire"),
        ("wire.headers", "from ..settings import WorkQueue", "wire.headers imports dramatiq_jetstream.settings"),
        ("sending.queue", "from ..deliveries import Delivery", "sending.queue imports dramatiq_jetstream.deliveries"),
        ("deliveries.puller", "from ..sending.queue import Queue", "deliveries.puller imports dramatiq_jetstream.send"),
        ("client.loop_thread", "from .connection import Connection", "client.loop_thread imports dramatiq_jetstream"),
        ("client.loop_thread", "from . import Connection", "client.loop_thread imports dramatiq_jetstream.client.Con"),
        ("broker", "from dramatiq_jetstream import JetStreamBroker", "broker imports dramatiq_jetstream.Jet"),
        ("broker", "def late():\n    from .cli import main", "broker imports dramatiq_jetstream.cli"),
        ("broker", "if TYPE_CHECKING:\n    import nats.js", "broker imports nats.js"),
        ("cli.root", "from nats.errors import Error", "cli.root imports nats.errors"),
        ("streams.reading", "from nats.aio.msg import Msg", "streams.reading imports nats.aio.msg"),
        ("settings", "import nats", "settings imports nats"),
        ("embedded.server", "from bw_tasks import to_blackandwhite", "embedded.server imports bw_tasks"),
        ("helpers", "", "helpers has no layer"),
        ("client.helpers", "", "client.helpers has no layer"),
        ("admin.queues", "from ..cli import main", "admin.queues imports dramatiq_jetstream.cli"),
        ("admin.queues", "from .doctor import examine", "admin.queues imports dramatiq_jetstream.admin.doctor"),
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
        ("client.connection", "import nats\nfrom .loop_thread import LoopThread\nfrom ..errors import ApiError"),
        ("worker.consumer", "from .. import client, names\nfrom .handling import QueueHandling\nimport asyncio"),
        (
            "cli.queues",
            "import click\nfrom .. import admin\nfrom ..admin import QueueView\nfrom .command import command",
        ),
        ("cli.__init__", "from . import queues\nfrom .root import main"),
        ("__init__", "from .broker import JetStreamBroker\nfrom .embedded import NatsServer"),
    ],
)
def test_import_that_points_downwards_is_allowed(tmp_path: Path, module: str, source: str) -> None:
    write(tmp_path, module, source)

    assert breaches(tmp_path) == []
