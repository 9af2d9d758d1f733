"""The server's error numbers, and what each means for whoever asked.

The numbers are nats-server's own (``server/errors.json`` of its source).  An answer is *final* if asking again
gets the same answer, *passing* if it may get another one soon.  A publish that was only ever answered with
passing errors, or not at all, is of *unknown* outcome: an earlier copy of it may be stored.
"""

from __future__ import annotations

from typing import Any

from ..errors import ApiError, BrokerError, ConsumerNotFound, StreamNotFound, UnsupportedServer

CONSUMER_NOT_FOUND = 10014
STREAM_NOT_FOUND = 10059
MESSAGE_NOT_FOUND = 10037
#: Deleting a message that is gone.
SEQUENCE_NOT_FOUND = 10057
#: The stream or consumer was made by somebody else in the meantime.
ALREADY_EXISTS = frozenset({10013, 10058, 10065, 10105, 10148})

MESSAGE_TOO_LARGE = 10054
NO_ATOMIC_BATCHES = 10174
#: A message of an atomic batch is missing or was refused; the server does not say which.
BATCH_INCOMPLETE = 10176
DUPLICATE_IN_BATCH = 10201
#: Delays are switched off for the stream, or the schedule is not understood.
NO_SCHEDULES = frozenset({10188, 10189, 10190})
#: A lost race; the second is a cluster's, while the winner's write is under way.
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})

#: An account, or a server, without JetStream.
_NO_JETSTREAM = frozenset({10039, 10076})

_UNAVAILABLE = 503

#: Passing, though their status does not say so: no quorum, no leader, a raft group that starts, or the same
#: message id of an earlier attempt still on its way through the cluster.
_PASSING = frozenset({10004, 10006, 10007, 10008, 10009, 10041, 10118, 10119, 10158, 10167})

#: Final, though their status is 503: full streams, disks and accounts, and features that are off.
_FINAL = frozenset({10002, 10023, 10026, 10027, 10028, 10035, 10039, 10047, 10072, 10076, 10077})


def is_passing(error: BaseException) -> bool:
    """Whether asking again may get another answer soon."""
    if not isinstance(error, ApiError):
        return False
    return error.err_code in _PASSING or (error.code == _UNAVAILABLE and error.err_code not in _FINAL)


def error_of(what: str, answer: dict[str, Any], address: str) -> BrokerError:
    """The error that an answer of the server stands for.

    Parameters:
      what(str): What was asked.
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
