"""Secrets are not shown: in objects, errors with their frames, logs, screens, and arguments of processes."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import pickle
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.abort import JetStreamBackend as AbortBackend
from dramatiq_jetstream.cli import main
from dramatiq_jetstream.errors import BrokerConnectionError
from dramatiq_jetstream.rate_limits import JetStreamBackend as LimiterBackend
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from tests.support.bw import ROOT, environment
from tests.support.impostor import Impostor
from tests.support.ports import free_ports
from tests.support.secrecy import everything_logged, everything_of, everything_shown, found

PASSWORD = "zq7/Hunter@2:x%25=="
TOKEN = "zq8/Tok@en%20n"
SEED = "SUAZQ9" + "B7" * 26
JWT = "eyJzq10.eyJzdWIiOiJ6cTExIn0.zq12_signature"
CREDENTIALS = f"-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n\n{SEED}\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEzq13private\n-----END PRIVATE KEY-----\n"
QUERY = "jwt=zq14query"
HEADER = "Bearer zq15header"

SECRETS = (PASSWORD, "Hunter@2", TOKEN, SEED, JWT, "MIIEzq13private", "zq14query", "zq15header")

#: Ways to say who we are; PORT is the server's.
GIVEN: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "password": (f"nats://adm:{PASSWORD}@127.0.0.1:PORT", {}),
    "encoded password": (f"nats://adm:{quote(PASSWORD, safe='')}@127.0.0.1:PORT", {}),
    "token": (f"nats://{quote(TOKEN, safe='')}@127.0.0.1:PORT", {}),
    "several": (f"nats://adm:{PASSWORD}@127.0.0.1:PORT,nats://{TOKEN}@127.0.0.1:PORT", {}),
    "list": ([f"nats://adm:{PASSWORD}@127.0.0.1:PORT", f"{quote(TOKEN, safe='')}@127.0.0.1:PORT"], {}),
    "user, password": ("nats://127.0.0.1:PORT", {"user": "adm", "password": PASSWORD}),
    "option token": ("nats://127.0.0.1:PORT", {"token": TOKEN}),
    "seed": ("nats://127.0.0.1:PORT", {"nkeys_seed_str": SEED}),
    "seed for its file": ("nats://127.0.0.1:PORT", {"nkeys_seed": SEED}),
    "credentials for their file": ("nats://127.0.0.1:PORT", {"user_credentials": CREDENTIALS}),
    "websocket query": (f"ws://adm:{PASSWORD}@127.0.0.1:PORT/in?{QUERY}", {}),
    "websocket header": ("ws://127.0.0.1:PORT", {"ws_connection_headers": {"Authorization": [HEADER]}}),
}

MAKERS: dict[str, Callable[..., Any]] = {
    "broker": JetStreamBroker,
    "results": ResultBackend,
    "rate limits": LimiterBackend,
    "aborts": AbortBackend,
}


def to(port: int, url: Any) -> Any:
    return [to(port, one) for one in url] if isinstance(url, list) else url.replace("PORT", str(port))


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    """A server that nobody's secret lets in."""
    with NatsServer(
        config="authorization { user: nobody, password: other }\nwebsocket { port: -1, no_tls: true }"
    ) as server:
        yield server


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What a test collects; at its end, with everything that was logged, it must show no secret."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    yield texts
    texts += everything_logged(caplog.get_records("call"))
    assert texts
    assert found(SECRETS, texts) == []


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("maker", MAKERS)
def test_objects_do_not_show_secrets(given: str, maker: str, told: list[str]) -> None:
    url, options = GIVEN[given]
    made = MAKERS[maker](url=to(4222, url), **options)
    connection = made.connection if maker == "broker" else made._bucket.values._connection
    settings = connection.settings

    for value in (made, connection, settings, settings.url, settings.connect_options, settings.addresses()):
        told += everything_shown(value)
    told += [repr(dataclasses.asdict(settings)), repr(copy.copy(settings)), repr(copy.deepcopy(settings.url))]
    told += [*settings.servers(), repr(dataclasses.replace(settings, timeout=1))]


@pytest.mark.parametrize("given", GIVEN)
def test_settings_with_credentials_are_not_pickled(given: str, told: list[str]) -> None:
    url, options = GIVEN[given]
    settings = JetStreamBroker(to(4222, url), **options).settings

    with pytest.raises(TypeError, match="credentials are not pickled") as raised:
        pickle.dumps(settings)
    told += everything_of(raised.value)


@pytest.mark.parametrize("wrong", [{"timeout": -1}, {"servers": []}, {"replicas": 0}, {"declare": "perhaps"}], ids=str)
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("maker", MAKERS)
def test_refused_settings_show_no_secrets(given: str, maker: str, wrong: Any, told: list[str]) -> None:
    url, options = GIVEN[given]

    with pytest.raises(ValueError, match=r".") as raised:
        MAKERS[maker](url=to(4222, url), **{**options, **wrong})
    told += everything_of(raised.value)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    "url",
    [
        f"http://adm:{PASSWORD}@host",
        f"nats://adm:{PASSWORD}",
        f"nats://adm:{PASSWORD}@",
        f"nats://adm:{PASSWORD}@host:port",
        f"nats://adm:{PASSWORD}@host:4222/path",
        f"nats://host,http://adm:{PASSWORD}@host",
        [f"nats://adm:{PASSWORD}@host", None],
        {"url": PASSWORD},
        PASSWORD.encode(),
    ],
    ids=lambda url: repr(url).replace(PASSWORD, "…"),
)
def test_invalid_address_shows_no_secrets(maker: str, url: Any, told: list[str]) -> None:
    with pytest.raises(ValueError, match=r"NATS server|names no server") as raised:
        MAKERS[maker](url=url)
    told += everything_of(raised.value)


def test_backend_with_a_broker_and_an_address_shows_no_secrets(told: list[str]) -> None:
    broker = JetStreamBroker()
    for backend in (ResultBackend, LimiterBackend, AbortBackend):
        with pytest.raises(ValueError, match="not both") as raised:
            backend(broker=broker, url=f"nats://adm:{PASSWORD}@host", token=TOKEN)
        told += everything_of(raised.value)


@pytest.mark.parametrize("where", ["refused", "absent", "without TLS"])
@pytest.mark.parametrize("given", GIVEN)
def test_failing_connect_shows_no_secrets(given: str, where: str, guarded: NatsServer, told: list[str]) -> None:
    url, options = GIVEN[given]
    [nobody] = free_ports(1)
    with Impostor() as impostor:
        port = {"refused": guarded.port, "absent": nobody, "without TLS": impostor.port}[where]
        tls = ssl.create_default_context() if where == "without TLS" else None
        broker = JetStreamBroker(to(port, url), timeout=500, tls=tls, **options)
        with pytest.raises(BrokerConnectionError) as raised:
            broker.connection.session()
        told += everything_of(raised.value)
        broker.close()


def test_file_that_holds_no_credentials_is_not_shown(tmp_path: Path, guarded: NatsServer, told: list[str]) -> None:
    path = tmp_path / "broken.creds"
    for text in (CREDENTIALS, SEED, f"{SEED}x", JWT, f"-----BEGIN NATS USER JWT-----\n{JWT}", ""):
        path.write_text(text)
        for option in ("user_credentials", "nkeys_seed"):
            given: dict[str, Any] = {option: str(path)}
            broker = JetStreamBroker(guarded.url, timeout=500, **given)
            with pytest.raises(BrokerConnectionError) as raised:
                broker.connection.session()
            told += everything_of(raised.value)
            broker.close()


def test_lost_connection_shows_no_secrets(told: list[str]) -> None:
    config = f"authorization {{ user: adm, password: {json.dumps(PASSWORD)} }}"
    with NatsServer(config=config) as server:
        broker = JetStreamBroker(f"nats://adm:{quote(PASSWORD)}@127.0.0.1:{server.port}", timeout=1_000)
        broker.declare_queue("default")
        broker.setup()
        session = broker.connection.session()
        told += [*everything_shown(session), repr(session.client), str(session.client), session.address]
        server.stop()
        with pytest.raises(BrokerConnectionError) as raised:
            broker.setup()
        told += everything_of(raised.value)
        broker.close()


COMMANDS = (
    ["queues"],
    ["queues", "--json", "--verbose"],
    ["doctor"],
    ["doctor", "--json", "--role", "worker"],
    ["dead", "list"],
    ["delayed", "list"],
    ["setup", "tests.support.apps.operated"],
    ["setup", "tests.support.apps.operated", "--check", "--json"],
    ["setup", "tests.support.apps.operated", "--dry-run", "--verbose"],
    ["setup", "tests.support.apps.operated", "--print", "nats"],
    ["events", "--for", "1ms"],
    ["queues", "--app", "tests.support.apps.operated"],
    ["doctor", "--app", "tests.support.apps.operated", "--verbose"],
)

#: How the command line is told who we are: options, and variables of the environment.
TYPED: dict[str, tuple[list[str], dict[str, str]]] = {
    "url": (["--url", f"nats://adm:{PASSWORD}@127.0.0.1:PORT,nats://{TOKEN}@127.0.0.1:PORT"], {}),
    "NATS_URL": ([], {"NATS_URL": f"nats://adm:{quote(PASSWORD, safe='')}@127.0.0.1:PORT"}),
    "user": (["--url", "127.0.0.1:PORT", "--user", "adm", "--password", PASSWORD], {}),
    "token": (["--url", "127.0.0.1:PORT", "--token", TOKEN], {}),
    "variables": (["--url", "127.0.0.1:PORT"], {"NATS_USER": "adm", "NATS_PASSWORD": PASSWORD}),
    "context": (["--context", "secret"], {}),
    "seed": (["--url", "127.0.0.1:PORT", "--nkey", SEED], {}),
    "seed in a variable": (["--url", "127.0.0.1:PORT"], {"NATS_NKEY": SEED, "NATS_CREDS": CREDENTIALS}),
    "key": (["--url", "127.0.0.1:PORT", "--tls-cert", KEY, "--tls-key", KEY], {}),
}


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return folder


def run(arguments: list[str], variables: Mapping[str, str], told: list[str]) -> int:
    result = CliRunner().invoke(main, arguments, env=dict(variables))
    told += [result.output, result.stderr, repr(result.exception)]
    return result.exit_code


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("let_in", [True, False], ids=["let in", "refused"])
def test_command_line_shows_no_secrets(typed: str, let_in: bool, contexts: Path, told: list[str]) -> None:
    password = PASSWORD if let_in else "other"
    with NatsServer(config=f"authorization {{ user: adm, password: {json.dumps(password)} }}") as server:
        url = f"nats://adm:{PASSWORD}@127.0.0.1:{server.port}"
        fields = {"url": url, "user": "adm", "password": PASSWORD, "token": TOKEN}
        (contexts / "secret.json").write_text(json.dumps(fields))
        options, variables = TYPED[typed]
        given = [to(server.port, option) for option in options]
        variables = {name: to(server.port, value) for name, value in variables.items()}
        statuses = [run([*command, *given, "--timeout", "500ms"], variables, told) for command in COMMANDS]

    assert any(statuses) or let_in


@pytest.mark.parametrize(
    "text",
    [f'{{"password": "{PASSWORD}"', f'["{PASSWORD}"]', f'"{PASSWORD}"', f'{{"url": "http://adm:{PASSWORD}@host"}}'],
    ids=["cut off", "list", "text", "wrong url"],
)
def test_unreadable_context_shows_no_secrets(text: str, contexts: Path, told: list[str]) -> None:
    (contexts / "odd.json").write_text(text)
    (contexts / "bytes.json").write_bytes(text.encode() + b"\xff")

    for name in ("odd", "bytes"):
        result = CliRunner().invoke(main, ["queues", "--context", name], standalone_mode=False)
        assert result.exception is not None
        assert "Traceback" not in result.output
        told += [
            result.output,
            repr(result.exception),
            str(result.exception.__cause__),
            repr(result.exception.__context__),
        ]


def test_image_service_shows_no_secrets(guarded: NatsServer, told: list[str]) -> None:
    for scheme in ("nats", "http"):
        url = f"{scheme}://adm:{PASSWORD}@127.0.0.1:{guarded.port}"
        command = [sys.executable, "-m", "bw_tasks", "setup", "--url", url]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        told += [done.stdout, done.stderr]


def test_worker_that_cannot_connect_logs_no_secrets(guarded: NatsServer, told: list[str]) -> None:
    variables = environment(
        NATS_URL=f"nats://adm:{PASSWORD}@127.0.0.1:{guarded.port}", PYTHONASYNCIODEBUG="1", PYTHONDEVMODE="1"
    )
    command = [*(sys.executable, "-m", "dramatiq", "tests.support.apps.operated", "-v"), *("--processes", "1")]
    worker = subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert worker.stdout is not None
    lines = []
    for line in worker.stdout:
        lines.append(line)
        if "does not let us in" in line:
            break
    worker.terminate()
    rest, _ = worker.communicate(timeout=60)
    told += [*lines, rest]


def test_processes_have_no_secrets_among_their_arguments(tmp_path: Path, told: list[str]) -> None:
    config = f"authorization {{ user: adm, password: {json.dumps(PASSWORD)} }}"
    with NatsServer(config=config, store=tmp_path / "store") as server:
        listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True, timeout=30)
        written = [path for path in server.log_path.parent.iterdir() if path.suffix == ".conf"]
        assert [path.stat().st_mode & 0o077 and path.parent.stat().st_mode & 0o077 for path in written] == [0]
        told += [line for line in listed.stdout.splitlines() if str(os.getpid()) in line.split()[:2]]
        told += [str(server), server.url, server.log_path.read_text()]
