"""Settings as frozen dataclasses: defaults, validation, times in milliseconds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .addresses import Address, parse_addresses
from .hidden import Hidden, hidden_options, revealed, texts_in
from .names import covers
from .options import LONGEST

Payload = Literal["dramatiq", "json"]
Declare = Literal["auto", "never"]
DeadLetterMode = Literal["move", "keep"]
Discard = Literal["old", "new"]

#: How long the server waits for an acknowledgement or a progress report before it delivers a
#: message again, in milliseconds.  This is also the server's default.
DEFAULT_ACK_WAIT = 30_000

#: How long the server remembers message ids, in milliseconds, so that a repeated publish is stored
#: once.  The server's default; it keeps every id of the window in memory.
DEFAULT_DUPLICATE_WINDOW = 120_000

#: How long a call waits for an unreachable server, in milliseconds: twice what a leader election takes.
DEFAULT_TIMEOUT = 10_000

#: How long dead letters are kept, in milliseconds: dramatiq's default for RabbitMQ and Redis.
DEFAULT_DEAD_MESSAGE_TTL = 86_400_000 * 7

#: The environment variable for it; dramatiq's RabbitmqBroker reads the same one.
DEAD_MESSAGE_TTL_VARIABLE = "dramatiq_dead_message_ttl"

#: How long a message waits for a worker that declares its actor, in milliseconds.
DEFAULT_UNKNOWN_ACTOR_GRACE = 300_000

DEFAULT_URL = "nats://127.0.0.1:4222"

#: The connect options whose texts are secrets; files are named by others.
SECRET_OPTIONS = frozenset({"password", "token", "nkeys_seed_str", "ws_connection_headers"})

#: The largest values that the server accepts; None if there is no limit here.
_MOST = {
    "max_deliver": None,
    "max_msg_size": 2**31 - 1,
    "max_msgs": 2**63 - 1,
    "max_bytes": 2**63 - 1,
    "replicas": 2**31 - 1,
}

#: What the server accepts as the name of a stream or a durable consumer.
_NAME = re.compile(r"[^\s.*>/\\]{1,255}")
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, kw_only=True)
class WorkQueue:
    """How a dramatiq queue is kept on the server.

    Without ``stream``, this package creates and owns the queue's stream.  With ``stream``,
    ``subject`` and ``consumer``, the queue is bound to a stream and a durable consumer owned by
    others; settings left at ``None`` are then neither checked on the server nor changed.

    Parameters:
      stream(str): The stream to bind to.  Defaults to a stream owned by this package.
      subject(str): The subject of this queue's messages in that stream.
      consumer(str): The durable consumer that delivers them.
      stream_subjects(Sequence[str]): The subjects of the stream, used if it has to be created.
        Defaults to the queue's subject.
      payload(str): ``"dramatiq"`` for dramatiq's own encoding, the default in streams owned by
        this package; ``"json"`` for one plain JSON object, the actor's keyword arguments, the
        default in streams owned by others.
      actor(str): The actor of messages that do not name one.  Defaults to the only actor declared
        on the queue.
      ack_wait(int): The time, in milliseconds, without an acknowledgement or a progress report
        after which a message is delivered again.  Workers report progress while they hold a
        message.  Defaults to 30 seconds.
      max_deliver(int): How many times a message is delivered at most.  Defaults, in streams owned
        by this package, to one more than the largest ``max_retries`` of the queue's actors.
      max_msg_size(int): The largest message in bytes, headers included.  Unlimited by default.
      max_msgs(int): How many messages the stream holds at most.  Unlimited by default.
      max_bytes(int): How many bytes the stream holds at most.  Unlimited by default.
      discard(str): What a full stream does: ``"new"`` refuses new messages, ``"old"`` drops the
        oldest.  Defaults to ``"old"``, which a limited stream owned by this package does not
        accept.
      duplicate_window(int): The time, in milliseconds, for which the server remembers message ids.
        Defaults to 2 minutes.
      replicas(int): How many servers of a cluster store the stream.  Defaults to the broker's.
      dead_letters(str): ``"move"`` moves a message that cannot be handled to the dead-letter
        stream, the default in streams owned by this package; ``"keep"`` leaves it in its stream
        without further attempts, the default in streams owned by others.
      confirm_acks(bool): Wait for the server to confirm each acknowledgement.  Defaults to False.

    Raises:
      ValueError: If the settings contradict each other or are out of range.
    """

    stream: str | None = None
    subject: str | None = None
    consumer: str | None = None
    stream_subjects: Sequence[str] = ()
    payload: Payload | None = None
    actor: str | None = None
    ack_wait: int | None = None
    max_deliver: int | None = None
    max_msg_size: int | None = None
    max_msgs: int | None = None
    max_bytes: int | None = None
    discard: Discard | None = None
    duplicate_window: int | None = None
    replicas: int | None = None
    dead_letters: DeadLetterMode | None = None
    confirm_acks: bool = False

    def __post_init__(self) -> None:
        bound = (self.stream, self.subject, self.consumer)
        if any(bound) and not all(bound):
            raise ValueError("a WorkQueue needs stream, subject and consumer together, or none of them")
        self._check_names()
        if not self.bound and (self.payload == "json" or self.stream_subjects or self.dead_letters == "keep"):
            raise ValueError("payload='json', stream_subjects and dead_letters='keep' need a bound stream")
        if not self.bound and self.discard != "new" and (self.max_msgs or self.max_bytes):
            raise ValueError("a limited queue would silently drop its oldest messages: add discard='new'")
        if (
            self.subject
            and self.stream_subjects
            and not any(covers(wide, self.subject) for wide in self.stream_subjects)
        ):
            raise ValueError(
                f"stream_subjects {self.stream_subjects!r} must cover the queue's subject {self.subject!r}"
            )
        self._check_ranges()

    def _check_names(self) -> None:
        for name in ("stream", "subject", "consumer", "actor"):
            _text(name, getattr(self, name))
        for name in ("stream", "consumer"):
            value = getattr(self, name)
            if value is not None and not _NAME.fullmatch(value):
                raise ValueError(f"{name} {value!r} must be a name without spaces, dots, wildcards and slashes")
        if isinstance(self.stream_subjects, str):
            raise ValueError(f"stream_subjects must be a list of subjects, not the text {self.stream_subjects!r}")
        if self.subject is not None and not {"*", ">"}.isdisjoint(self.subject.split(".")):
            raise ValueError(f"subject {self.subject!r} must be a full subject: messages are published to it")
        for subject in (self.subject, *self.stream_subjects):
            if subject is not None and ("" in subject.split(".") or _SPACE.search(subject)):
                raise ValueError(f"{subject!r} is not a subject: tokens between dots, without spaces")

    def _check_ranges(self) -> None:
        _one_of("payload", self.payload, get_args(Payload))
        _one_of("discard", self.discard, get_args(Discard))
        _one_of("dead_letters", self.dead_letters, get_args(DeadLetterMode))
        _at_least("ack_wait", self.ack_wait, 1_000)
        _at_least("duplicate_window", self.duplicate_window, 100)
        for name, most in _MOST.items():
            _at_least(name, getattr(self, name), 1, most)
        if not isinstance(self.confirm_acks, bool):
            raise ValueError(f"confirm_acks must be True or False, not {self.confirm_acks!r:.80}")

    @property
    def bound(self) -> bool:
        """Whether the stream is owned by others."""
        return self.stream is not None

    @property
    def plain_json(self) -> bool:
        """Whether a message's body is one JSON object, the actor's keyword arguments."""
        return self.payload == "json" or (self.bound and self.payload is None)

    @property
    def keeps_dead_letters(self) -> bool:
        """Whether a message that cannot be handled stays in its stream."""
        return self.dead_letters == "keep" or (self.bound and self.dead_letters is None)

    @property
    def allows_delays(self) -> bool:
        """Whether the stream is one of ours with the server's message scheduler switched on.

        The scheduler and ``discard="new"`` exclude each other on the server.
        """
        return not self.bound and self.discard != "new"


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """The settings of a broker, checked once.  See :class:`JetStreamBroker` for each parameter.

    Addresses with credentials and all connect options are kept hidden.
    """

    url: Any = None
    namespace: str = "dramatiq"
    queues: Mapping[str, WorkQueue] = field(default_factory=dict)
    declare: Declare = "auto"
    replicas: int = 1
    domain: str | None = None
    timeout: int = DEFAULT_TIMEOUT
    dead_message_ttl: int | None = None
    unknown_actor_grace: int = DEFAULT_UNKNOWN_ACTOR_GRACE
    connect_options: Mapping[str, Any] | Hidden[Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "connect_options", hidden_options(self.connect_options))
        for name in ("declare", "replicas", "timeout", "unknown_actor_grace"):
            _given(name, getattr(self, name))
        _one_of("declare", self.declare, get_args(Declare))
        _text("domain", self.domain)
        self._check_url()
        for queue_name, queue in self.queues.items():
            if not isinstance(queue, WorkQueue):
                raise ValueError(f"queues[{queue_name!r}] must be a WorkQueue, not {queue!r:.80}")
        _at_least("replicas", self.replicas, 1)
        _at_least("timeout", self.timeout, 1)
        _at_least("dead_message_ttl", self.dead_message_ttl, 0)
        _at_least("unknown_actor_grace", self.unknown_actor_grace, 0)

    def _check_url(self) -> None:
        """Hide the address if it holds credentials, and until that is known.  Raises ValueError."""
        given = Hidden(revealed(self.url)) if self.url else None
        object.__setattr__(self, "url", given)
        if given is None:
            return
        if not (_is_text_or_texts(given.reveal()) and self.servers()):
            raise ValueError(f"url {_without_texts(given.reveal())!r} names no server")
        secret = any(address.secrets for address in self.addresses())
        object.__setattr__(self, "url", Hidden(given.reveal(), repr(self.servers())) if secret else given.reveal())

    @classmethod
    def of(cls, url: Hidden[Any], options: Hidden[Mapping[str, Any]]) -> BrokerSettings:
        """Settings of a connection; options that are not the broker's are passed to ``nats.connect``."""
        given = options.reveal()
        ours = {name: given[name] for name in ("declare", "replicas", "domain", "timeout") if name in given}
        rest = hidden_options({name: value for name, value in given.items() if name not in ours})
        del given
        return cls(url=url, connect_options=rest, **ours)

    def queue(self, queue_name: str) -> WorkQueue:
        """The settings of a queue, or the defaults if none are given for it."""
        return self.queues.get(queue_name) or WorkQueue()

    def addresses(self) -> list[Address]:
        """The servers; ``NATS_URL`` is read now, not at import.

        Raises:
          ValueError: If one of the addresses is invalid.
        """
        return parse_addresses(self.url or os.environ.get("NATS_URL") or DEFAULT_URL)

    def options(self) -> Mapping[str, Any]:
        """What is passed to ``nats.connect``, credentials included."""
        return revealed(self.connect_options)

    def secrets(self) -> list[str]:
        """The texts in addresses and connect options that must not be shown.  Raises ValueError."""
        given = [value for name, value in self.options().items() if name in SECRET_OPTIONS]
        return [*texts_in(given), *(secret for address in self.addresses() for secret in address.secrets)]

    def servers(self) -> list[str]:
        """The servers' addresses, without credentials."""
        return [str(address) for address in self.addresses()]

    def dead_letter_ttl(self) -> int:
        """The time to keep dead letters, in milliseconds; 0 for ever.  Reads dramatiq's environment variable."""
        if self.dead_message_ttl is not None:
            return self.dead_message_ttl
        given = os.environ.get(DEAD_MESSAGE_TTL_VARIABLE, str(DEFAULT_DEAD_MESSAGE_TTL))
        if not given.isdecimal():
            raise ValueError(f"{DEAD_MESSAGE_TTL_VARIABLE} in the environment must be milliseconds, not {given!r}")
        return int(given)


def _is_text_or_texts(url: object) -> bool:
    return isinstance(url, str) or (isinstance(url, Sequence) and all(isinstance(part, str) for part in url))


def _without_texts(url: object) -> object:
    """What may be shown of an invalid address: strings may contain a password."""
    if isinstance(url, (list, tuple)):
        return ["…" if isinstance(part, str) else part for part in url]
    return url if isinstance(url, (str, int)) else type(url).__name__


def _one_of(name: str, value: object, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def _at_least(name: str, value: float | None, minimum: int, maximum: int | None = LONGEST) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} must be a whole number, at least {minimum}, not {value!r}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be a whole number, at most {maximum}")


def _given(name: str, value: object) -> None:
    if value is None:
        raise ValueError(f"{name} must not be None; leave it out for its default")


def _text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r:.80}")
