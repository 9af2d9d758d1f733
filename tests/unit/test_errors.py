from __future__ import annotations

import warnings

import dramatiq.errors
import pytest

from dramatiq_jetstream import errors
from dramatiq_jetstream.errors import ApiError, ConfigMismatch, Difference, JetStreamError

OWN = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, JetStreamError)]

#: What dramatiq's worker and command line tell apart.
CONNECTION = [
    errors.ServerUnreachable,
    errors.AuthenticationFailed,
    errors.UnsupportedServer,
    errors.PermissionDenied,
    errors.CallTimeout,
]
REFUSALS = [
    errors.ApiError,
    errors.ConfigMismatch,
    errors.DelayNotSupported,
    errors.EnqueueRejected,
    errors.MessageTooLarge,
    errors.UnsupportedMessage,
]
MISSING = [errors.StreamNotFound, errors.ConsumerNotFound]


def test_connection_error_is_dramatiqs_own_under_either_of_its_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old_name = getattr(dramatiq.errors, "ConnectionError", None)

    assert errors.BrokerConnectionError is getattr(dramatiq.errors, "BrokerConnectionError", old_name)


@pytest.mark.parametrize("error", CONNECTION)
def test_connection_error_makes_dramatiq_try_again(error: type[Exception]) -> None:
    assert issubclass(error, errors.BrokerConnectionError)


@pytest.mark.parametrize("error", [*REFUSALS, *MISSING])
def test_refusal_is_a_broker_error_that_is_not_tried_again(error: type[Exception]) -> None:
    assert issubclass(error, dramatiq.errors.BrokerError)
    assert not issubclass(error, errors.BrokerConnectionError)


@pytest.mark.parametrize("error", MISSING)
def test_missing_stream_or_consumer_is_a_queue_not_found(error: type[Exception]) -> None:
    assert issubclass(error, dramatiq.errors.QueueNotFound)


def test_every_error_is_listed_and_under_dramatiqs() -> None:
    assert {error.__name__ for error in OWN} <= set(errors.__all__)
    assert all(issubclass(error, dramatiq.errors.DramatiqError) for error in OWN)
    assert sorted(errors.__all__) == errors.__all__
    assert all(hasattr(errors, name) for name in errors.__all__)


@pytest.mark.parametrize("error", [error for error in OWN if error.__init__ is JetStreamError.__init__])
def test_text_of_an_error_is_its_message(error: type[JetStreamError]) -> None:
    raised = error("the server did not answer")

    assert str(raised) == raised.message == "the server did not answer"


def test_answer_of_the_server_is_kept_with_its_numbers() -> None:
    error = ApiError("STREAM.CREATE.IMAGES", 400, 10065, "subjects overlap with an existing stream")

    assert (error.code, error.err_code, error.description) == (400, 10065, "subjects overlap with an existing stream")
    assert str(error) == (
        "STREAM.CREATE.IMAGES: the server answered 'subjects overlap with an existing stream' (error 10065)"
    )


def test_answer_without_a_number_of_its_own_shows_the_status() -> None:
    assert str(ApiError("asking", 503, 0, "no leader")) == "asking: the server answered 'no leader' (error 503)"


def test_mismatch_keeps_each_difference() -> None:
    difference = Difference("retention", "workqueue", "limits")

    error = ConfigMismatch("the stream 'IMAGES'", [difference], "Change one.")

    assert error.differences == (difference,)
    assert (error.what, error.advice) == ("the stream 'IMAGES'", "Change one.")
    assert "retention: expected 'workqueue', found 'limits'" in str(error)


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class _OddText(str):
    __slots__ = ()

    def __getitem__(self, key: object) -> str:
        raise RuntimeError("not sliced")


class _Raising(Exception, metaclass=_Nameless):
    def __str__(self) -> str:
        raise SystemExit(3)


class _Odd(Exception):
    def __str__(self) -> str:
        return _OddText("odd")


def test_text_of_an_exception_is_had_whatever_its_methods_do() -> None:
    assert errors.described(ValueError("a text")) == "ValueError: a text"
    assert errors.described(_Raising()) == "<a class without a name>: <its text cannot be had: SystemExit>"
    assert type(errors.text_of(_Odd())) is str
