"""A dramatiq message as body and headers, and back: dramatiq's own encoding, or plain JSON."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol

from dramatiq import Actor, JSONEncoder, Message, MessageProxy
from dramatiq.errors import DecodeError
from dramatiq.message import get_encoder

from ..errors import UnsupportedMessage
from .checks import check_fields, check_nesting, check_options, check_targets
from .headers import ACTOR, MESSAGE_ID, MSG_ID, OPTIONS, TIMESTAMP, Headers, quote_text, unquote_text
from .origin import Source
from .publication import carrying_id, message_id_of, new_id

AnyMessage = Message[Any] | MessageProxy
Actors = Mapping[str, "Actor[..., Any]"]

#: The maximum length of an error's description in characters: dramatiq's own contains the whole body.
MAX_TEXT = 300

#: A message published more than this many milliseconds after it was created carries its timestamp in a
#: header; for others, the time at which the stream stored it is used.
_TIMESTAMP_SLACK = 1_000


#: The parameter that ``Actor.__call__`` has in addition to those of its function.
_OWN_PARAMETER = "self"


class PayloadFormat(Protocol):
    """How messages of a queue are encoded."""

    @property
    def is_quick(self) -> bool:
        """Whether decoding runs no application code, which may be slow."""

    def encode(self, message: AnyMessage) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers, including a new Nats-Msg-Id."""

    def decode(self, source: Source) -> Message[Any]:
        """Return the message, or raise dramatiq's DecodeError."""


class DramatiqPayload:
    """The body is the whole message, encoded by dramatiq's encoder.

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
            check_fields(fields)
            # dramatiq's worker looks up consumers by this name, and would keep a message with an eta
            # in its own memory until it is due.
            fields["queue_name"] = self.queue_name
            fields["options"].pop("eta", None)
            return Message(**fields)
        except Exception as error:
            raise DecodeError(f"not a dramatiq message: {error!s:.{MAX_TEXT}}", body, error) from error


class JsonPayload:
    """The body is one JSON object, the actor's keyword arguments; any program can write it.

    Parameters:
      queue_name(str): The queue that messages are read from.
      actor_name(Callable): Returns the actor of messages that do not name one, or None.
      actors(Callable): Returns the declared actors, for their signatures.
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
            options = _read_options(headers)
            check_targets(options, self.actors())
            return Message(
                queue_name=self.queue_name,
                actor_name=actor_name,
                args=(),
                kwargs=self._accepted(actor_name, _json_object(body)),
                options=options,
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
        """The arguments, if they fit the actor's signature; senders without dramatiq cannot check them."""
        actor = self.actors().get(actor_name)
        if actor is None:
            return kwargs
        signature = _signature(actor.fn)
        try:
            signature.bind(**kwargs)
        except TypeError as error:
            raise ValueError(f"the actor {actor_name!r} cannot take it: {error}") from error
        return _passable(actor_name, signature, kwargs)

    def _headers(self, message: AnyMessage) -> dict[str, str]:
        carrying = carrying_id(message.message_id)
        headers = {MSG_ID: carrying or new_id()}
        if carrying is None:
            headers[MESSAGE_ID] = quote_text(message.message_id)
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


def _passable(actor_name: str, signature: inspect.Signature, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that dramatiq can pass to an actor: its own call has a parameter ``self``."""
    if _OWN_PARAMETER not in kwargs:
        return kwargs
    if _OWN_PARAMETER in signature.parameters:
        raise ValueError(f"the actor {actor_name!r} cannot take it: dramatiq passes no argument called 'self'")
    return {name: value for name, value in kwargs.items() if name != _OWN_PARAMETER}


@lru_cache(maxsize=1024)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _message_id(headers: Headers) -> str | None:
    if MESSAGE_ID in headers:
        return unquote_text(headers[MESSAGE_ID])
    return message_id_of(headers)


def _json_object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    check_nesting(value)
    return value


def _read_options(headers: Headers) -> dict[str, Any]:
    options = _json_object(headers[OPTIONS].encode()) if OPTIONS in headers else {}
    check_options(options)
    options.pop("eta", None)
    return options
