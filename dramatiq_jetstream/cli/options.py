"""The options that commands share, and what they say about the connection."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import click

from ..hidden import redacted
from .contexts import read_context
from .failures import USAGE, Failure
from .values import DURATION


class _File(click.Path):
    """A file that exists; a secret that was given in place of its file is not shown."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise click.BadParameter(redacted(error.message), ctx, param) from None


_FILE = _File(exists=True, dir_okay=False)

SHARED: tuple[click.Option, ...] = (
    click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object a line, for machines."),
    click.Option(["--verbose"], is_flag=True, help="Log on stderr what happens on the connection."),
)

CONNECTION: tuple[click.Option, ...] = (
    click.Option(
        ["--url"], metavar="URL", help="The NATS server, or several with commas between.  [env var: NATS_URL]"
    ),
    click.Option(
        ["--context"], envvar="NATS_CONTEXT", metavar="NAME", help="A context of the nats tool.", show_envvar=True
    ),
    click.Option(["--creds"], envvar="NATS_CREDS", type=_FILE, help="A credentials file.", show_envvar=True),
    click.Option(["--nkey"], envvar="NATS_NKEY", type=_FILE, help="A file with an nkey's seed.", show_envvar=True),
    click.Option(["--user"], envvar="NATS_USER", help="A user's name.", show_envvar=True),
    click.Option(["--password"], envvar="NATS_PASSWORD", help="The user's password.", show_envvar=True),
    click.Option(["--token"], envvar="NATS_TOKEN", help="A token.", show_envvar=True),
    click.Option(["--tls"], is_flag=True, help="Speak TLS, and trust the system's certificates."),
    click.Option(["--tls-ca"], envvar="NATS_CA", type=_FILE, help="Trust this authority instead.", show_envvar=True),
    click.Option(["--tls-cert"], envvar="NATS_CERT", type=_FILE, help="Show this certificate.", show_envvar=True),
    click.Option(["--tls-key"], envvar="NATS_KEY", type=_FILE, help="The certificate's key.", show_envvar=True),
    click.Option(["--inbox-prefix"], metavar="SUBJECT", help="Where answers may arrive, if not anywhere."),
    click.Option(["--domain"], metavar="NAME", help="The JetStream domain."),
    click.Option(["--timeout"], type=DURATION, help="How long to wait for the server.  [default: 10s]"),
)

NAMESPACE: tuple[click.Option, ...] = (
    click.Option(["--namespace"], metavar="NAME", help="The application's namespace.  [default: dramatiq]"),
)

IMPORTING: tuple[click.Option, ...] = (
    click.Option(["--path"], multiple=True, metavar="FOLDER", help="Where to import from.  [default: .]"),
    click.Option(["--import", "modules"], multiple=True, metavar="MODULE", help="A further module with actors."),
)

APPLICATION: tuple[click.Option, ...] = (
    click.Option(["--app"], metavar="APP", help="The application, as for 'dramatiq': MODULE or MODULE:BROKER."),
)

#: Of what the environment says, an application's own settings come first.
CHOSEN_BY_APPLICATION = frozenset(
    {"context", "creds", "nkey", "user", "password", "token", "tls_ca", "tls_cert", "tls_key"}
)


def resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete what was given with what its context says."""
    given = {name: value for name, value in values.items() if value not in (None, False, ())}
    context = given.pop("context", None)
    return {**read_context(context), **given} if context else given


def connect_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of credentials and TLS, as ``nats.connect`` takes it.

    Raises:
      Failure: If the files do not go together.
    """
    names = {"creds": "user_credentials", "nkey": "nkeys_seed"}
    plain = ("creds", "nkey", "user", "password", "token", "inbox_prefix")
    options = {names.get(name, name): given[name] for name in plain if name in given}
    if any(name in given for name in ("tls", "tls_ca", "tls_cert")):
        options["tls"] = _tls(given)
    return options


def _tls(given: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=given.get("tls_ca"))
        if "tls_cert" in given:
            context.load_cert_chain(given["tls_cert"], given.get("tls_key"))
    except (OSError, ssl.SSLError) as error:
        raise Failure(
            f"the TLS files do not work: {error}; give --tls-ca, and --tls-cert with its --tls-key", USAGE
        ) from error
    return context
