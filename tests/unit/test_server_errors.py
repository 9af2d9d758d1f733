"""What each of the server's error numbers means for whoever asked."""

from __future__ import annotations

import pytest

from dramatiq_jetstream.client.server_errors import error_of, is_passing, is_unknown
from dramatiq_jetstream.errors import ApiError, ConsumerNotFound, StreamNotFound, UnsupportedServer

#: Numbers, statuses and texts as nats-server 2.15 gives them.
PASSING = [
    (10004, 503, "incomplete results"),
    (10006, 500, "JetStream not in clustered mode"),
    (10007, 500, "JetStream cluster not assigned to this server"),
    (10008, 503, "JetStream system temporarily unavailable"),
    (10009, 500, "JetStream cluster can not handle request"),
    (10041, 500, "raft: not leader"),
    (10049, 500, "error creating store for stream - open /store/meta.tmp: no such file or directory"),
    (10063, 503, "expected stream sequence does not match"),
    (10077, 503, "store is closed"),
    (10118, 500, "stream is offline"),
    (10119, 500, "consumer is offline"),
    (10158, 409, "duplicate message id is in process"),
    (10163, 503, "expected last sequence per subject temporarily unavailable"),
    (10167, 429, "too many requests"),
    (10202, 400, "cluster member change is in progress"),
    (10210, 429, "atomic publish too many inflight"),
    (10211, 429, "batch publish too many inflight"),
    # Of a server that is newer than this table.
    (19999, 503, "not yet"),
    (19999, 429, "not so fast"),
    (0, 503, ""),
]
FINAL = [
    (10002, 400, "resource limits exceeded for account"),
    (10003, 400, "bad request"),
    (10010, 503, "JetStream clustering support required"),
    (10023, 503, "insufficient resources"),
    (10028, 500, "insufficient memory resources available"),
    (10036, 503, "not currently supported in clustered mode"),
    (10047, 500, "insufficient storage resources available"),
    (10049, 500, "stream name in use"),
    (10049, 500, "error creating store for stream - no space left on device"),
    (10054, 400, "message size exceeds maximum allowed"),
    (10058, 400, "stream name already in use with a different configuration"),
    (10071, 400, "wrong last sequence: 7"),
    (10075, 503, "peer remap failed"),
    (10077, 503, "maximum messages exceeded"),
    (10077, 503, "no space left on device"),
    (10109, 400, "invalid operation on sealed stream"),
    (10164, 400, "wrong last sequence"),
    (10174, 400, "atomic publish is disabled"),
    (10176, 400, "atomic publish batch is incomplete"),
    (10188, 400, "message schedules is disabled"),
    (10194, 500, "stream is offline: unsupported"),
    (10201, 400, "atomic publish batch contains duplicate message id"),
    (19999, 400, "never heard of"),
    (19999, 500, "broken"),
]


def answer(number: int, status: int, text: str) -> ApiError:
    error = error_of("publishing", {"err_code": number, "code": status, "description": text}, "nats://here")
    assert isinstance(error, ApiError)
    return error


@pytest.mark.parametrize(("number", "status", "text"), PASSING)
def test_answer_that_may_change_soon_is_passing(number: int, status: int, text: str) -> None:
    assert is_passing(answer(number, status, text))


@pytest.mark.parametrize(("number", "status", "text"), FINAL)
def test_answer_that_stays_is_final(number: int, status: int, text: str) -> None:
    assert not is_passing(answer(number, status, text))


@pytest.mark.parametrize("number", [10002, 10023, 10047, 10071, 10077, 10109])
def test_refusal_for_what_is_stored_leaves_open_whether_an_earlier_copy_is(number: int) -> None:
    error = answer(number, 400, "full")
    assert not is_unknown(error)

    error.repeated = True

    assert is_unknown(error)


@pytest.mark.parametrize("number", [10054, 10165, 10174, 10188, 10189])
def test_refusal_for_the_message_itself_was_one_for_every_copy(number: int) -> None:
    error = answer(number, 400, "bad")
    error.repeated = True

    assert not is_unknown(error)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(10014, ConsumerNotFound), (10059, StreamNotFound), (10039, UnsupportedServer), (10076, UnsupportedServer)],
)
def test_errors_with_a_class_of_their_own_are_final(number: int, kind: type[Exception]) -> None:
    error = error_of("asking", {"err_code": number, "code": 503, "description": ""}, "nats://here")

    assert isinstance(error, kind)
    assert not is_passing(error)
