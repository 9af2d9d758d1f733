"""Credentials in addresses: decoded, each server's own, and never shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.cli import main
from dramatiq_jetstream.errors import AuthenticationFailed, ServerUnreachable
from tests.support.bw import command_line
from tests.support.ports import free_ports

#: Users and their passwords, with what an address gives a meaning to, and a character that is not ASCII.
USERS = {
    "plain": "secret",
    "slash": "ab/cd==",
    "at@sign": "p@ss@word",
    "colon": "a:b:c",
    "percent": "100%25%",
    "space": "two words",
    "comma": "a,b,c",
    "question#": "wh?at#now",
    "plus": "a+b",
    "umlaut": "pässword€",
}
TOKEN = "to/k@e:n %"

#: What may stand in an address as it is.
AS_IT_IS = ["plain", "slash", "colon", "plus", "umlaut"]


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    users = [{"user": user, "password": password} for user, password in USERS.items()]
    with NatsServer(config=f"authorization {{ users: {json.dumps(users, ensure_ascii=False)} }}") as server:
        yield server


def address(server: NatsServer, user: str, *, encoded: bool = True, password: str | None = None) -> str:
    given = USERS[user] if password is None else password
    userinfo = f"{quote(user, safe='')}:{quote(given, safe='')}" if encoded else f"{user}:{given}"
    return f"nats://{userinfo}@127.0.0.1:{server.port}"


@pytest.mark.parametrize("user", USERS)
def test_broker_decodes_user_and_password(guarded: NatsServer, user: str, namespace: str) -> None:
    broker = JetStreamBroker(address(guarded, user), namespace=namespace, timeout=5_000)

    assert broker.connection.session().client.is_connected
    broker.close()


@pytest.mark.parametrize("user", AS_IT_IS)
def test_what_has_a_meaning_in_addresses_may_stand_in_a_password_as_it_is(guarded: NatsServer, user: str) -> None:
    broker = JetStreamBroker(address(guarded, user, encoded=False), timeout=5_000)

    assert broker.connection.session().client.is_connected
    broker.close()


@pytest.mark.parametrize("user", USERS)
def test_command_line_decodes_user_and_password(guarded: NatsServer, user: str) -> None:
    given = CliRunner().invoke(main, ["queues", "--json", "--url", address(guarded, user)])
    inherited = CliRunner().invoke(main, ["queues", "--json"], env={"NATS_URL": address(guarded, user)})

    assert (given.exit_code, inherited.exit_code) == (0, 0), given.output + inherited.output


def test_image_service_decodes_user_and_password(guarded: NatsServer) -> None:
    done = command_line("setup", "--url", address(guarded, "slash"))

    assert done.returncode == 0, done.stderr


def test_token_is_decoded() -> None:
    with NatsServer(config=f"authorization {{ token: {json.dumps(TOKEN)} }}") as server:
        broker = JetStreamBroker(f"nats://{quote(TOKEN, safe='')}@127.0.0.1:{server.port}", timeout=5_000)

        assert broker.connection.session().client.is_connected
        broker.close()


def test_options_come_before_what_the_address_says(guarded: NatsServer) -> None:
    url = address(guarded, "plain", password="wrong")
    broker = JetStreamBroker(url, user="slash", password=USERS["slash"], timeout=5_000)

    assert broker.connection.session().client.is_connected
    broker.close()


def test_each_server_gets_its_own_credentials(guarded: NatsServer) -> None:
    [nobody] = free_ports(1)
    elsewhere = f"nats://ann:other@127.0.0.1:{nobody}"
    for url in (f"{elsewhere},{address(guarded, 'slash')}", f"{address(guarded, 'slash')},{elsewhere}"):
        broker = JetStreamBroker(url, timeout=5_000)
        assert broker.connection.session().client.is_connected
        broker.close()


def test_reconnect_uses_the_credentials_again(namespace: str) -> None:
    config = f"authorization {{ user: app, password: {json.dumps(USERS['slash'])} }}"
    with NatsServer(config=config) as server:
        broker = JetStreamBroker(f"nats://app:{USERS['slash']}@127.0.0.1:{server.port}", namespace=namespace)
        broker.declare_queue("default")
        broker.setup()
        server.restart()
        broker.setup()
        broker.close()


@pytest.mark.parametrize(
    "password", ["hunter2/x@y==", "hunter2", "a@hunter2", "a:hunter2", "x/hunter2?#@", "a,hunter2"]
)
def test_passwords_are_not_shown(
    guarded: NatsServer, password: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    [nobody] = free_ports(1)
    refusing = address(guarded, "plain", encoded=False, password=password)
    absent = f"nats://adm:{password}@127.0.0.1:{nobody}"
    shown = []
    for url, error in ((refusing, AuthenticationFailed), (absent, ServerUnreachable)):
        broker = JetStreamBroker(url, timeout=1_000)
        with pytest.raises(error) as raised:
            broker.connection.session()
        shown += [str(raised.value), repr(broker.settings)]
        for command in (["queues"], ["doctor"], ["doctor", "--json"], ["queues", "--verbose"]):
            result = CliRunner().invoke(main, [*command, "--timeout", "1s", "--url", url])
            assert result.exit_code != 0
            shown.append(result.output)
        broker.close()
    captured = capfd.readouterr()

    assert [text for text in (*shown, caplog.text, captured.out, captured.err) if "hunter2" in text] == []
    assert f"127.0.0.1:{nobody}" in shown[-1] + captured.err
