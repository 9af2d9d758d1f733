"""The server's error numbers, and what each means for the caller.

The numbers are nats-server's own (``server/errors.json`` of its source, read for 2.15).  An answer is *final* if
a repeated request gets the same answer, and *passing* if it may soon get another; answers not listed as passing
are final.  The outcome of a publish is *unknown* if it got only passing errors or no answer, or if a repeated
copy is refused because of what is stored: an earlier copy may be stored.
"""

from __future__ import annotations

from typing import Any

from ..errors import ApiError, BrokerError, ConsumerNotFound, StreamNotFound, UnsupportedServer

CONSUMER_NOT_FOUND = 10014
STREAM_NOT_FOUND = 10059
MESSAGE_NOT_FOUND = 10037
#: Deleting a message that no longer exists.
SEQUENCE_NOT_FOUND = 10057
#: The stream or consumer was created by another process in the meantime.
ALREADY_EXISTS = frozenset({10013, 10058, 10065, 10105, 10148})

MESSAGE_TOO_LARGE = 10054
NO_ATOMIC_BATCHES = 10174
#: A message of an atomic batch is missing or was refused; the server does not say which.
BATCH_INCOMPLETE = 10176
DUPLICATE_IN_BATCH = 10201
#: Delays are switched off for the stream, or the schedule is not understood.
NO_SCHEDULES = frozenset({10188, 10189, 10190})
#: A lost race; the second is a cluster's, while the winner's write is in progress.
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})

#: An account, or a server, without JetStream.
_NO_JETSTREAM = frozenset({10039, 10076})

#: Statuses by which a newer server may answer with numbers that are not listed here: unavailable, too many requests.
_PASSING_STATUSES = frozenset({429, 503})

#: Passing, whatever their status.
_PASSING = frozenset(
    {
        10004,  # incomplete results: not all servers answered
        10006,  # JetStream not in clustered mode: it starts
        10007,  # JetStream cluster not assigned to this server: it moves
        10008,  # JetStream system temporarily unavailable: no quorum, or no leader
        10009,  # JetStream cluster can not handle request: not the leader
        10041,  # a raft group's error, such as "raft: not leader"
        10063,  # expected stream sequence does not match: this server is behind
        10118,  # stream is offline
        10119,  # consumer is offline
        10158,  # duplicate message id is in process: an earlier copy is on its way through the cluster
        10163,  # expected last sequence per subject temporarily unavailable
        10167,  # too many requests
        10202,  # cluster member change is in progress
        10210,  # atomic publish too many inflight
        10211,  # batch publish too many inflight
    }
)

#: Final, though their status is 503.
_FINAL = frozenset(
    {
        10010,  # JetStream clustering support required
        10023,  # insufficient resources: the server is full
        10035,  # account not found
        10036,  # not currently supported in clustered mode
        10039,  # JetStream not enabled for account
        10075,  # peer remap failed
        10076,  # JetStream not enabled
        10077,  # the stream does not store it: it is full, or the disk is
    }
)

#: Final numbers whose text may tell of something that passes.
_PASSING_TEXTS = {
    10049: "error creating store",  # what was deleted under this name is still being removed
    10077: "store is closed",  # the stream's server stops just then
}
_NO_SPACE = "no space"

#: Final, but due to what is stored, or to how much: an earlier copy of the message may be the very reason.
_OF_STATE = frozenset({10002, 10023, 10028, 10047, 10070, 10071, 10077, 10109, 10164, 10201})


def is_passing(error: BaseException) -> bool:
    """Whether asking again may get another answer soon."""
    if not isinstance(error, ApiError):
        return False
    if error.err_code in _PASSING or _says_that_it_passes(error):
        return True
    return error.code in _PASSING_STATUSES and error.err_code not in _FINAL


def _says_that_it_passes(error: ApiError) -> bool:
    text = _PASSING_TEXTS.get(error.err_code)
    return text is not None and text in error.description and _NO_SPACE not in error.description


def is_unknown(error: ApiError) -> bool:
    """Whether a publish that ended with this error may be stored all the same, in an earlier copy."""
    return error.repeated and error.err_code in _OF_STATE


def error_of(what: str, answer: dict[str, Any], address: str) -> BrokerError:
    """The error that an answer of the server stands for.

    Parameters:
      what(str): What was requested.
      answer(dict): The answer's field ``error``.
      address(str): The server's address.
    """
    number = answer.get("err_code", 0)
    if number in _NO_JETSTREAM:
        return UnsupportedServer(
            f"the server at {address} does not let this account use JetStream: switch it on for the account "
            "('jetstream: enabled'), or give the broker the credentials of another"
        )
    if number == STREAM_NOT_FOUND:
        missing = StreamNotFound(f"{what}: the stream does not exist")
        missing.confirmed = True
        return missing
    if number == CONSUMER_NOT_FOUND:
        return ConsumerNotFound(f"{what}: the consumer does not exist")
    return ApiError(what, answer.get("code", 0), number, answer.get("description", ""))
