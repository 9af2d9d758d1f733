"""Addresses of servers: what is read out of them, and that their credentials are not shown."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.addresses import Address, credentials_for, parse_addresses
from dramatiq_jetstream.cli import main
from dramatiq_jetstream.errors import ServerUnreachable
from dramatiq_jetstream.settings import BrokerSettings


@pytest.mark.parametrize(
    ("text", "url", "user", "password"),
    [
        ("nats://host", "nats://host", None, None),
        ("host", "nats://host", None, None),
        ("host:4223/", "nats://host:4223", None, None),
        ("TLS://host:4222", "tls://host:4222", None, None),
        ("nats://[::1]:4222", "nats://[::1]:4222", None, None),
        ("wss://host/nats/in?x=1", "wss://host/nats/in?x=1", None, None),
        ("nats://ann:secret@host:4222", "nats://host:4222", "ann", "secret"),
        ("ann:secret@host", "nats://host", "ann", "secret"),
        ("nats://ann:a%2Fb%40c%3Ad%25e%20f%2Cg@host", "nats://host", "ann", "a/b@c:d%e f,g"),
        ("nats://a%40b:secret@host", "nats://host", "a@b", "secret"),
        ("nats://adm:ab/cd==@host", "nats://host", "adm", "ab/cd=="),
        ("nats://adm:p@ss:w?rd#1@host", "nats://host", "adm", "p@ss:w?rd#1"),
        ("nats://adm:100%@host", "nats://host", "adm", "100%"),
        ("nats://adm:a+b@host", "nats://host", "adm", "a+b"),
        ("nats://adm:ab,cd@host", "nats://host", "adm", "ab,cd"),
        ("nats://adm:nats://@host", "nats://host", "adm", "nats://"),
        ("nats://adm:@host", "nats://host", "adm", ""),
        ("nats://a%2Ftoken@host", "nats://host", "a/token", None),
        ("nats://@host", "nats://host", None, None),
    ],
)
def test_address_is_taken_apart(text: str, url: str, user: str | None, password: str | None) -> None:
    [address] = parse_addresses(text)

    assert (address.url, address.user, address.password) == (url, user, password)
    assert str(address) == url.replace("?x=1", "?…")
    assert address.host in url


def test_several_addresses_may_each_have_credentials_with_commas() -> None:
    found = parse_addresses("nats://a:4222, b:4222,ann:s,ecret@c,tls://tok%2Cen@d, nats://ann:x@y@e:1,f:2,")

    assert [str(address) for address in found] == [
        "nats://a:4222",
        "nats://b:4222",
        "nats://c",
        "tls://d",
        "nats://e:1",
        "nats://f:2",
    ]
    assert [address.password for address in found] == [None, None, "s,ecret", None, "x@y", None]


@pytest.mark.parametrize(
    "text",
    [
        "http://ann:hunter2@host",
        "nats://ann:hunter2",
        "nats://ann:hunter2@host:port",
        "nats://ann:hunter2@host:4222/path",
        "nats://ann:hunter2@host:99999",
        "nats://ann:hunter2@",
        "nats://ann:hunter2@a host",
        "nats://ann:hunter2@ho\nst",
        "nats://ann:hunter2@ho\x1b[31mst",
        "nats://ann:hunter2@[::1",
        "nats://",
        "://host",
    ],
    ids=repr,
)
def test_what_is_not_an_address_is_refused_without_showing_its_password(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a NATS server") as raised:
        BrokerSettings(url=text)

    assert "hunter2" not in str(raised.value)
    assert str(raised.value).isprintable()


def test_each_server_gets_the_credentials_of_its_own_address_and_a_discovered_one_the_first() -> None:
    addresses = parse_addresses("nats://a,nats://ann:1@b,nats://tok@c:7")

    assert credentials_for(addresses, "b", 4222) == {"user": "ann", "password": "1", "token": None}
    assert credentials_for(addresses, "c", 7) == {"user": None, "password": None, "token": "tok"}
    assert credentials_for(addresses, "elsewhere", 4222) == {"user": "ann", "password": "1", "token": None}
    assert credentials_for(addresses[:1], "a", 4222) == {}


def test_settings_and_addresses_do_not_show_secrets() -> None:
    secret = "hunter2"
    settings = BrokerSettings(
        url=f"nats://ann:{secret}/@{secret}@host,tls://{secret}@b",
        connect_options={
            "password": secret,
            "token": secret,
            "nkeys_seed_str": secret,
            "tls": None,
        },
    )

    shown = [repr(settings), str(settings), f"{settings}", repr(settings.addresses()), *settings.servers()]

    assert [text for text in shown if secret in text] == []
    assert "url=['nats://host', 'tls://b']" in repr(settings)
    assert "connect_options={'password': …, 'token': …, 'nkeys_seed_str': …, 'tls': …}" in repr(settings)


def test_address_of_the_environment_that_is_none_is_judged_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "http://ann:hunter2@host")
    settings = BrokerSettings()

    with pytest.raises(ValueError, match="is not the address of a NATS server"):
        settings.addresses()


def test_scheme_is_known() -> None:
    assert [address.scheme for address in parse_addresses("a,tls://b,wss://c")] == ["nats", "tls", "wss"]
    assert Address("ws://h", "h", None).scheme == "ws"


@pytest.mark.parametrize("application", [(), ("--app", "tests.support.apps.operated")], ids=["plain", "application"])
@pytest.mark.parametrize("url", ["http://ann:hunter2@host", "nats://ann:hunter2@host:port", "ftp://host"])
def test_command_line_says_what_is_not_an_address(application: tuple[str, ...], url: str) -> None:
    result = CliRunner().invoke(main, ["queues", *application, "--url", url])

    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "is not the address of a NATS server" in result.output
    assert "hunter2" not in result.output


def test_address_of_the_environment_that_is_none_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "http://ann:hunter2@host")
    broker = JetStreamBroker()

    with pytest.raises(ServerUnreachable) as raised:
        broker.connection.session()

    assert str(raised.value) == (
        "'http://host…' is not the address of a NATS server: it begins with nats://, tls://, ws:// or wss://; it is "
        "the broker's url, or NATS_URL from the environment"
    )
    broker.close()


@pytest.mark.parametrize("url", [["nats://ann:hunter2@host", 4222], b"nats://ann:hunter2@host", {"u": "hunter2"}])
def test_url_of_a_wrong_kind_is_refused_without_showing_what_is_in_it(url: Any) -> None:
    with pytest.raises(ValueError, match="names no server") as raised:
        BrokerSettings(url=url)

    assert "hunter2" not in str(raised.value)
