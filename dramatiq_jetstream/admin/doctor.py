"""Looking for what is wrong, and saying what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from dramatiq.common import current_millis

from ..broker import JetStreamBroker
from ..client import Session
from ..errors import BrokerError, ConnectionFailed, PermissionDenied
from ..streams import Route, counts, limits, reading
from . import plan, queues
from .finding import Finding
from .grouping import listed
from .outside import is_empty, namespaces, unseen
from .queues import QueueView, views
from .roles import Probe, probe

#: Milliseconds by which clocks may differ.  Delays are due by the sender's clock.
MAX_SKEW = 1_000

#: The part of a limit that may be used before it is worth a word.
NEARLY_FULL = 0.8

#: Milliseconds without a delivery or an acknowledgement until new messages that nobody asks for are a problem: workers
#: may be restarted meanwhile, as in a deployment.
SILENT = 60_000

#: Seconds between two looks that both have to find nobody at work: a worker asks for messages again at once.
SECOND_LOOK = 1.0


def examine(broker: JetStreamBroker, roles: Sequence[str] = (), *, drift: bool = True) -> Iterator[Finding]:
    """Look at everything that is known to go wrong.

    Parameters:
      broker(JetStreamBroker): The broker.
      roles(Sequence[str]): Whose permissions to try, of :data:`ROLES`.
      drift(bool): Whether what the server has is compared with what is declared here; without the
        application there is nothing to compare with.

    Raises:
      ConnectionFailed: If the server cannot be reached.
    """
    denied = _denied_inbox(broker)
    if denied is not None:
        yield Finding(
            "problem", "permissions", "connection", denied, "allow this before anything else can be looked at"
        )
        return
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("server", lambda: _server(broker)),
        ("limits", lambda: _limits(broker)),
        ("clock", lambda: _clock(broker)),
        ("permissions", lambda: _permissions(broker, roles)),
        ("drift", lambda: _drift(broker) if drift else iter(())),
        ("queues", lambda: _queues(broker)),
        ("outside", lambda: _outside(broker, drift=drift)),
        ("attempts", lambda: _attempts(broker)),
        ("replicas", lambda: _replicas(broker)),
    ]
    for name, check in checks:
        yield from _guarded(name, check)


def _denied_inbox(broker: JetStreamBroker) -> str | None:
    """Why no answer of the server can arrive, if none can."""
    session = broker.connection.session()
    try:
        broker.connection.call(lambda session: session.call_api("INFO"))
    except BrokerError:
        # A check of its own tells what else may be wrong.
        return None if session.denied_inbox is None else str(session.denied_inbox)
    return None


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that cannot be made is a finding, too."""
    try:
        yield from check()
    except ConnectionFailed:
        raise
    except PermissionDenied as error:
        yield Finding("problem", name, "server", str(error), "give this user the permission it lacks, and look again")
    except BrokerError as error:
        yield Finding("problem", name, "server", str(error), "look at the server's log, and look again")


def _server(broker: JetStreamBroker) -> Iterator[Finding]:
    session = broker.connection.session()
    yield Finding("ok", "server", session.address, f"nats-server {session.server_version} answers, with JetStream")


def _limits(broker: JetStreamBroker) -> Iterator[Finding]:
    account = broker.connection.call(lambda session: session.call_api("INFO"))
    limits = account.get("limits") or {}
    used = (
        ("streams", account.get("streams", 0), limits.get("max_streams", -1)),
        ("consumers", account.get("consumers", 0), limits.get("max_consumers", -1)),
        ("bytes of file storage", account.get("storage", 0), limits.get("max_storage", -1)),
        ("bytes of memory storage", account.get("memory", 0), limits.get("max_memory", -1)),
    )
    full = [usage for usage in used if usage[2] > 0 and usage[1] >= NEARLY_FULL * usage[2]]
    for what, amount, limit in full:
        text = f"{amount:,} of {limit:,} {what} are used"
        yield Finding("warning", "limits", "account", text, "raise the account's limit, or remove what is not needed")
    if not full:
        yield Finding("ok", "limits", "account", f"{used[0][1]} streams and {used[1][1]} consumers, below all limits")


def _clock(broker: JetStreamBroker) -> Iterator[Finding]:
    routes = [broker.queue(name).route for name in sorted(broker.get_declared_queues())]
    skews = (broker.connection.call(partial(_skew, route=route)) for route in routes)
    skew = next((skew for skew in skews if skew is not None), None)
    if skew is None:
        yield Finding("note", "clock", "this machine", "the server says what time it is only of a stream, and has none")
    elif abs(skew) > MAX_SKEW:
        behind = "behind" if skew > 0 else "ahead of"
        text = f"the clock is {abs(skew) / 1000:.1f} s {behind} the server's"
        yield Finding(
            "warning", "clock", "this machine", text, "synchronise both with NTP: delays are due by the sender's"
        )
    else:
        yield Finding("ok", "clock", "this machine", f"the clock agrees with the server's to {abs(skew)} ms")


async def _skew(session: Session, route: Route) -> int | None:
    """The milliseconds by which the server's clock is ahead, as far as the way there and back lets one know."""
    before = current_millis()
    said = (await counts.inspect(session, route)).stream.get("ts")
    after = current_millis()
    if said is None:
        return None
    server = reading.nanoseconds(said) // 1_000_000
    return 0 if before <= server <= after else server - (before if server < before else after)


def _permissions(broker: JetStreamBroker, roles: Sequence[str]) -> Iterator[Finding]:
    denied: dict[str, dict[str, list[Probe]]] = {role: {} for role in roles}
    for probed in probe(broker, roles):
        if not probed.allowed:
            denied[probed.role].setdefault(probed.pattern, []).append(probed)
    for role, patterns in denied.items():
        for pattern, probes in patterns.items():
            yield _denial(role, pattern, probes)
        if not patterns:
            yield Finding("ok", "permissions", role, "this user may do what the role needs")


def _denial(role: str, pattern: str, probes: Sequence[Probe]) -> Finding:
    """One permission that is missing, for however many things."""
    verb, subjects = probes[0].verb, [probed.subject for probed in probes]
    what = subjects[0] if len(probes) == 1 else f"{pattern} ({len(probes)} {probes[0].things})"
    advice = f"allow the user to {verb} to {listed(subjects)}"
    return Finding("problem", "permissions", role, f"no permission to {verb} to {what}", advice)


def _drift(broker: JetStreamBroker) -> Iterator[Finding]:
    checked = plan.check(broker)
    for part in checked:
        subject = f"{part.requirement.kind} {part.requirement.label}"
        if part.state == "missing":
            yield Finding("warning", "drift", subject, "it is not on the server", "run 'dramatiq-jetstream setup'")
        elif part.state == "differs":
            text = "; ".join(map(str, part.differences))
            yield Finding("problem", "drift", subject, text, part.advice)
    if all(part.state == "fits" for part in checked):
        yield Finding("ok", "drift", "server", f"all {len(checked)} streams and consumers fit what is declared")


def _queues(broker: JetStreamBroker) -> Iterator[Finding]:
    seen = views(broker)
    left_alone = _left_alone(broker, [view for view in seen if _is_suspicious(view)])
    for view in seen:
        found = list(_queue(view, left_alone=view.queue in left_alone))
        yield from found or [Finding("ok", "queues", view.queue, "nothing is exhausted, and somebody works or is idle")]


def _is_suspicious(view: QueueView) -> bool:
    """Whether messages wait and nobody is seen to ask for them or to run others."""
    waiting = view.ready or view.overdue or view.in_flight
    return bool(waiting and not (view.pulls or view.running or view.paused or view.missing))


def _left_alone(broker: JetStreamBroker, suspicious: Sequence[QueueView]) -> set[str]:
    """Those queues of which nobody asks for messages in a second look either, and nothing was done meanwhile."""
    if not suspicious:
        return set()
    time.sleep(SECOND_LOOK)
    again = [(earlier, queues.view(broker, earlier.queue, listen=False)) for earlier in suspicious]
    return {later.queue for earlier, later in again if not later.pulls and _last_active(earlier) == _last_active(later)}


def _last_active(view: QueueView) -> int | None:
    return None if view.active is None else view.taken_at - view.active


def _queue(view: QueueView, *, left_alone: bool) -> Iterator[Finding]:
    if view.exhausted:
        yield Finding(
            "warning",
            "exhausted",
            view.queue,
            f"{view.exhausted} messages are out of attempts and still in the stream",
            "start a worker of this queue, which makes dead letters of them; in a stream of somebody else, look at "
            f"them with 'dramatiq-jetstream peek --queue {view.queue}'",
        )
    if view.paused:
        advice = f"if that is over, run 'dramatiq-jetstream resume --queue {view.queue}'"
        yield Finding("note", "paused", view.queue, "the queue is paused", advice)
    elif view.missing:
        advice = "run 'dramatiq-jetstream setup', or start a worker"
        yield Finding("warning", "queues", view.queue, f"its {view.missing} is not on the server", advice)
    elif left_alone:
        yield _nobody_pulls(view)
    elif view.in_flight:
        text = f"{view.in_flight} messages were delivered, and it is not known whether a live worker holds them"
        advice = "look again after ack_wait; this user needs to subscribe to the acknowledgements, '$JS.ACK.>'"
        yield Finding("note", "in flight", view.queue, text, advice)
    if view.dead:
        advice = f"look at them with 'dramatiq-jetstream dead list --queue {view.queue}'"
        yield Finding("note", "dead letters", view.queue, f"{view.dead} dead letters", advice)


def _nobody_pulls(view: QueueView) -> Finding:
    waiting = view.ready + view.overdue
    if not waiting:
        text = f"{view.in_flight} messages were delivered, and no worker is heard of that holds them"
        advice = "look at the workers; if none is there, the messages wait for one"
        return Finding("warning", "pulls", view.queue, text, advice)
    text = f"{waiting} messages wait, {view.overdue} of them overdue, and no worker asks for them"
    if not view.overdue and not view.in_flight and view.active is not None and view.active <= SILENT:
        text += f", though one did {view.active / 1000:.0f} s ago"
        return Finding("note", "pulls", view.queue, text, "look again in a minute, should no worker start")
    if view.in_flight:
        text += f"; {view.in_flight} more were delivered, and no worker is heard of that holds them"
    return Finding("problem", "pulls", view.queue, text, "start workers of this queue, or look at the ones there are")


def _outside(broker: JetStreamBroker, *, drift: bool) -> Iterator[Finding]:
    """What the server has of the namespace beside the queues that are known here."""
    if is_empty(broker):
        name = broker.names.namespace
        others = listed(namespaces(broker)) or "none"
        text = f"the server has nothing of the namespace {name!r}; there is: {others}"
        advice = "run 'dramatiq-jetstream setup', or name the right one with --namespace"
        yield Finding("warning", "namespace", name, text, advice)
    for queue in unseen(broker):
        advice = "look at it with the application (--app)" if not drift else "declare the queue in the application"
        yield Finding("note", "not looked at", queue.queue, str(queue).removesuffix(": use --app"), advice)


def _attempts(broker: JetStreamBroker) -> Iterator[Finding]:
    """Consumers of somebody else that deliver without end."""
    for name in sorted(broker.get_declared_queues()):
        route = broker.queue(name).route
        config = broker.connection.call(partial(counts.inspect, route=route)).consumer.get("config")
        if route.settings.bound and config and limits(config).max_deliver is None:
            yield _endless(route, config.get("max_ack_pending", 0))


def _endless(route: Route, held: int) -> Finding:
    where = f"its consumer {route.consumer!r} has no max_deliver"
    text = f"{where}: a message out of attempts is held back again and again, and never leaves the stream"
    if held > 0:
        text += f"; each takes one of the {held:,} places of max_ack_pending, and then nothing is delivered any more"
    edit = f"nats consumer edit {route.stream} {route.consumer} --max-deliver 5"
    return Finding(
        "warning" if held > 0 else "note", "attempts", route.queue_name, text, f"set a limit, such as '{edit}'"
    )


def _replicas(broker: JetStreamBroker) -> Iterator[Finding]:
    routes = [broker.queue(name).route for name in sorted(broker.get_declared_queues())]
    single = {route.stream for route in routes if broker.connection.call(partial(_single, route=route))}
    for stream in sorted(single):
        advice = f"run 'nats stream edit {stream} --replicas 3', and declare replicas=3"
        yield Finding(
            "warning", "replicas", stream, "one server of the cluster keeps it: if that is lost, so is it", advice
        )
    if not single:
        yield Finding("ok", "replicas", "streams", "each is kept by several servers, or there is only one server")


async def _single(session: Session, route: Route) -> bool:
    """Whether only one server of a cluster keeps a queue's stream."""
    stream = (await counts.inspect(session, route)).stream
    return bool((stream.get("cluster") or {}).get("name")) and stream["config"].get("num_replicas", 1) == 1
