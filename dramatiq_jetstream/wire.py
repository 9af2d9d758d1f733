"""A dramatiq message as subject, headers and body, and back."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote

from dramatiq import Actor, JSONEncoder, Message, MessageProxy
from dramatiq.errors import DecodeError
from dramatiq.message import get_encoder

from .errors import MessageTooLarge, UnsupportedMessage

AnyMessage = Message[Any] | MessageProxy
Headers = Mapping[str, str]
Actors = Mapping[str, "Actor[..., Any]"]

MSG_ID = "Nats-Msg-Id"
TTL = "Nats-TTL"
BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
EXPECTED_LAST_ID = "Nats-Expected-Last-Msg-Id"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Sequence"
SCHEDULE = "Nats-Schedule"
SCHEDULE_TARGET = "Nats-Schedule-Target"
#: On what the server's scheduler delivers.
SCHEDULER = "Nats-Scheduler"

ACTOR = "Dramatiq-Actor"
MESSAGE_ID = "Dramatiq-Message-Id"
OPTIONS = "Dramatiq-Options"
TIMESTAMP = "Dramatiq-Timestamp"

#: A Nats-Msg-Id that carries the id of a dramatiq message, to spare a header of its own where
#: headers count toward a small limit.
_CARRYING_MSG_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.[0-9a-f]{8}")

#: The longest description of an error in characters: dramatiq's own holds the whole body.
MAX_TEXT = 300

#: A message published this many milliseconds after it was made says when that was; of others the
#: time it was stored says enough.
_TIMESTAMP_SLACK = 1_000

#: How deeply lists and objects may be nested.  dramatiq's threads log what they run, and Python's
#: recursion limit, met there, ends the thread.  A pipeline takes two levels for each step.
MAX_NESTING = 500

_NESTING = (dict, list, tuple)
_NUMBER = (int, float)
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "retries": (int,),
    "max_retries": (int,),
    "min_backoff": _NUMBER,
    "max_backoff": _NUMBER,
    "max_age": _NUMBER,
    "time_limit": _NUMBER,
    "on_retry_exhausted": (str,),
    "pipe_target": (dict,),
    "group_completion_callbacks": (list,),
    "throws": (type, tuple),
    "dead_message_ttl": (int,),
    "handoff_failures": (int,),
    "unknown_actor_since": (int,),
    "not_before": (int,),
    "origin": (str,),
}

#: Options of which infinity is a value.
_UNBOUNDED = frozenset({"max_age", "time_limit"})


class _Ids:
    """Where ids come from: a random part for each process, and a count."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.prefix = secrets.token_hex(12)
        self.count = itertools.count()


_ids = _Ids()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.restart)


def new_id() -> str:
    """A Nats-Msg-Id that nobody else has."""
    return f"{_ids.prefix}{next(_ids.count):x}"


class Publication(NamedTuple):
    """One message as the server takes it."""

    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def size(self) -> int:
        """The bytes that count toward ``max_msg_size``: headers and body."""
        lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in self.headers.items())
        return len(self.body) + (len(b"NATS/1.0\r\n\r\n") + lines if self.headers else 0)

    def may_exceed(self, limit: int) -> bool:
        """Whether it could be larger than so many bytes: quick, and sometimes wrong with a yes."""
        text = sum(map(len, self.headers)) + sum(map(len, self.headers.values()))
        return len(self.body) + 4 * text + 64 + 4 * len(self.headers) > limit

    def named(self, msg_id: str) -> Publication:
        """The same message under a Nats-Msg-Id of the caller's choice."""
        headers = {**self.headers, MSG_ID: msg_id}
        carried = _carried_message_id(self.headers)
        if carried is not None:
            headers.setdefault(MESSAGE_ID, carried)
        return self._replace(headers=headers)

    def check_size(self, limit: int | None, where: str) -> None:
        """Raise MessageTooLarge if the message exceeds a limit in bytes."""
        if limit is not None and self.may_exceed(limit) and self.size > limit:
            raise MessageTooLarge(
                f"the message takes {self.size} bytes ({len(self.body)} of body, {self.size - len(self.body)} of "
                f"headers), but {where} takes at most {limit}; send a reference to large data instead"
            )


class Origin(NamedTuple):
    """Where a delivered message stands, read from its acknowledgement subject."""

    stream: str
    consumer: str
    deliveries: int
    sequence: int
    timestamp: int

    @classmethod
    def parse(cls, reply: str) -> Origin:
        """Read ``$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<…>.<nanoseconds>.<pending>``.

        Newer servers put the domain and the account's hash before the stream.
        """
        tokens, start = _tokens(reply)
        stream, consumer, deliveries, sequence, _, timestamp = tokens[start : start + 6]
        return cls(stream, consumer, int(deliveries), int(sequence), int(timestamp))

    @property
    def milliseconds(self) -> int:
        """When the message was stored, as dramatiq counts time."""
        return self.timestamp // 1_000_000


def deliveries_of(reply: str) -> int:
    """How often a message was delivered, read from its acknowledgement subject."""
    tokens, start = _tokens(reply)
    return int(tokens[start + 2])


def _tokens(reply: str) -> tuple[list[str], int]:
    """The tokens of an acknowledgement subject, and where among them its stream is."""
    tokens = reply.split(".")
    if len(tokens) < 9 or not reply.startswith("$JS.ACK."):
        raise ValueError(f"not an acknowledgement subject: {reply!r}")
    return tokens, 2 if len(tokens) == 9 else 4


class Source(Protocol):
    """What a message is read from; whoever does not need all of it does not have it parsed."""

    @property
    def body(self) -> bytes: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def origin(self) -> Origin: ...


class Received(NamedTuple):
    """A source that is parsed already."""

    body: bytes
    headers: Headers
    origin: Origin


class PayloadFormat(Protocol):
    """How messages of a queue are written."""

    @property
    def is_quick(self) -> bool:
        """Whether decoding runs nobody else's code, which may take its time."""

    def encode(self, message: AnyMessage) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers, a fresh Nats-Msg-Id among them."""

    def decode(self, source: Source) -> Message[Any]:
        """Return the message, or raise dramatiq's DecodeError."""


class DramatiqPayload:
    """The body is what dramatiq's encoder makes of the whole message.

    Parameters:
      queue_name(str): The queue that messages are read from.
    """

    def __init__(self, queue_name: str) -> None:
        self.queue_name = queue_name

    @property
    def is_quick(self) -> bool:
        return type(get_encoder()) is JSONEncoder

    def encode(self, message: AnyMessage) -> tuple[bytes, dict[str, str]]:
        return message.encode(), {MSG_ID: new_id()}

    def decode(self, source: Source) -> Message[Any]:
        body = source.body
        try:
            fields = get_encoder().decode(body)
            _check_fields(fields)
            # dramatiq's worker looks consumers up by this name, and would hold a message with an
            # eta back in its own memory.
            fields["queue_name"] = self.queue_name
            fields["options"].pop("eta", None)
            return Message(**fields)
        except Exception as error:
            raise DecodeError(f"not a dramatiq message: {error!s:.{MAX_TEXT}}", body, error) from error


class JsonPayload:
    """The body is one JSON object, the actor's keyword arguments; anyone can write it.

    Parameters:
      queue_name(str): The queue that messages are read from.
      actor_name(Callable): Gives the actor of messages that name none, or None.
      actors(Callable): Gives the declared actors, for their signatures.
    """

    is_quick = True

    def __init__(self, queue_name: str, actor_name: Callable[[], str | None], actors: Callable[[], Actors]) -> None:
        self.queue_name = queue_name
        self.actor_name = actor_name
        self.actors = actors

    def encode(self, message: AnyMessage) -> tuple[bytes, dict[str, str]]:
        try:
            kwargs = self._keyword_arguments(message)
            body = json.dumps(kwargs, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
            headers = self._headers(message)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnsupportedMessage(
                f"queue {self.queue_name!r} takes plain JSON, and {message.actor_name!r} was sent what it cannot "
                f"express: {error}"
            ) from error
        return body, headers

    def decode(self, source: Source) -> Message[Any]:
        body, headers, origin = source.body, source.headers, source.origin
        try:
            actor_name = self._actor_of(headers)
            return Message(
                queue_name=self.queue_name,
                actor_name=actor_name,
                args=(),
                kwargs=self._accepted(actor_name, _json_object(body)),
                options=_read_options(headers),
                message_id=_message_id(headers) or f"{origin.stream}-{origin.sequence}",
                message_timestamp=int(headers.get(TIMESTAMP, origin.milliseconds)),
            )
        except Exception as error:
            raise DecodeError(f"not a plain JSON message: {error!s:.{MAX_TEXT}}", body, error) from error

    def _keyword_arguments(self, message: AnyMessage) -> dict[str, Any]:
        if not message.args:
            return dict(message.kwargs)

        actor = self.actors().get(message.actor_name)
        if actor is None:
            raise TypeError("positional arguments of an actor that is not declared here; pass them by name")
        signature = _signature(actor.fn)
        arguments = signature.bind(*message.args, **message.kwargs).arguments
        for name in list(arguments):
            kind = signature.parameters[name].kind
            if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                raise TypeError(f"parameter {name!r} takes positional arguments only")
            if kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name))
        return dict(arguments)

    def _accepted(self, actor_name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments, if the actor takes them: strangers publish here, and need to be told."""
        actor = self.actors().get(actor_name)
        if actor is not None:
            try:
                _signature(actor.fn).bind(**kwargs)
            except TypeError as error:
                raise ValueError(f"the actor {actor_name!r} cannot take it: {error}") from error
        return kwargs

    def _headers(self, message: AnyMessage) -> dict[str, str]:
        carrying = f"{message.message_id}.{secrets.token_hex(4)}"
        headers = {MSG_ID: carrying}
        if not _CARRYING_MSG_ID.fullmatch(carrying):
            headers = {MSG_ID: new_id(), MESSAGE_ID: quote_text(message.message_id)}
        if message.actor_name != self.actor_name():
            headers[ACTOR] = quote_text(message.actor_name)
        if message.options:
            headers[OPTIONS] = json.dumps(message.options, separators=(",", ":"))
        if abs(time.time() * 1000 - message.message_timestamp) > _TIMESTAMP_SLACK:
            headers[TIMESTAMP] = str(message.message_timestamp)
        return headers

    def _actor_of(self, headers: Headers) -> str:
        name = unquote_text(headers[ACTOR]) if ACTOR in headers else self.actor_name()
        if name is None:
            raise ValueError(f"it names no actor, and queue {self.queue_name!r} has not exactly one")
        return name


@lru_cache(maxsize=1024)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def quote_text(text: str) -> str:
    """Any text as a header's value, where line breaks and edge spaces would not survive."""
    return quote(text, safe="/:", errors="surrogatepass")


def unquote_text(value: str) -> str:
    """The text that :func:`quote_text` made a header's value of."""
    return unquote(value, errors="surrogatepass")


def _message_id(headers: Headers) -> str | None:
    if MESSAGE_ID in headers:
        return unquote_text(headers[MESSAGE_ID])
    return _carried_message_id(headers)


def _carried_message_id(headers: Headers) -> str | None:
    match = _CARRYING_MSG_ID.fullmatch(headers.get(MSG_ID, ""))
    return match[1] if match else None


def _json_object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    _check_nesting(value)
    return value


def _read_options(headers: Headers) -> dict[str, Any]:
    options = _json_object(headers[OPTIONS].encode()) if OPTIONS in headers else {}
    _check_options(options)
    options.pop("eta", None)
    return options


_FIELD_TYPES: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("queue_name", (str,)),
    ("actor_name", (str,)),
    ("args", (list, tuple)),
    ("kwargs", (dict,)),
    ("options", (dict,)),
    ("message_id", (str,)),
    ("message_timestamp", (int,)),
)


def _check_fields(fields: Any) -> None:
    """Refuse what would pass dramatiq's decoder and then fail in its threads."""
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object, found {type(fields).__name__}")
    for name, types in _FIELD_TYPES:
        if not isinstance(fields.get(name), types):
            raise ValueError(f"{name} must be {types[0].__name__}, found {fields.get(name)!r:.80}")
    args, kwargs, options = fields["args"], fields["kwargs"], fields["options"]
    if args or kwargs or options:
        if not all(isinstance(name, str) for name in kwargs):
            raise ValueError("kwargs must have names for keys")
        _check_nesting(fields)
        _check_options(options)


def _check_options(options: dict[str, Any]) -> None:
    """Refuse options that dramatiq's own middleware would trip over after the actor ran.

    Null says nothing, so it goes; except that there may be no limit to retries.
    """
    for name in _OPTION_TYPES.keys() & options.keys():
        types, value = _OPTION_TYPES[name], options[name]
        if value is None:
            if name != "max_retries":
                del options[name]
        elif not isinstance(value, types):
            raise ValueError(f"option {name} must be {types[0].__name__}, found {value!r:.80}")
        elif isinstance(value, _NUMBER) and not _in_range(name, value):
            raise ValueError(f"option {name} is out of range")


def _in_range(name: str, value: float) -> bool:
    return abs(value) <= 2**63 or (name in _UNBOUNDED and value == math.inf)


def _check_nesting(value: Any) -> None:
    """Refuse what is nested too deeply, without recursion; level by level, each value once."""
    level = [value]
    for _ in range(MAX_NESTING):
        inner = [item for outer in level for item in _items(outer) if isinstance(item, _NESTING)]
        if not inner:
            return
        level = list({id(item): item for item in inner}.values())
    raise ValueError(f"it is nested more than {MAX_NESTING} levels deep")


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
