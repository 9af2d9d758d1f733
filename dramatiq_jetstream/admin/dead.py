"""Dead letters by filter: count, requeue, purge; any number of them, a page at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dramatiq.common import current_millis

from ..broker import JetStreamBroker
from ..dead_letters import OUTSTANDING, DeadLetter

#: How many dead letters a summary shows.
EXAMPLES = 5


@dataclass(frozen=True)
class DeadFilter:
    """Which dead letters are meant; all, unless something is set.

    Parameters:
      numbers(tuple): Those with these numbers.
      queue(str): Those of this queue.
      actor(str): Those for this actor.
      reason(str): Those whose reason contains this, whatever the case.
      older_than(int): Those that ended here at least so many milliseconds ago.
      younger_than(int): Those that ended here less than so many milliseconds ago.
      text(str): Those with this in their exception, traceback or body, whatever the case.
    """

    numbers: tuple[int, ...] = ()
    queue: str | None = None
    actor: str | None = None
    reason: str | None = None
    older_than: int | None = None
    younger_than: int | None = None
    text: str | None = None

    @property
    def plain(self) -> bool:
        """Whether the server itself can tell what is meant."""
        return not (self.numbers or self.reason or self.text) and self.older_than is None and self.younger_than is None

    def matches(self, letter: DeadLetter, now: int) -> bool:
        """Whether a dead letter is meant, at a moment in UNIX milliseconds."""
        age = now - letter.failed_at
        return (
            (self.queue is None or letter.queue_name == self.queue)
            and (self.actor is None or letter.actor_name == self.actor)
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.older_than is None or age >= self.older_than)
            and (self.younger_than is None or age < self.younger_than)
            and (self.text is None or self.text.lower() in _text(letter))
        )


@dataclass(frozen=True)
class DeadSummary:
    """What a filter means.

    Parameters:
      count(int): How many dead letters.
      last(int): The highest of their numbers; 0 if there are none.
      groups(dict): How many of each queue, actor and reason.
      examples(tuple): The first few.
    """

    count: int
    last: int
    groups: dict[tuple[str, str, str], int]
    examples: tuple[DeadLetter, ...]


@dataclass(frozen=True)
class Requeued:
    """What became of a dead letter that was to be requeued.

    Parameters:
      letter(DeadLetter): The dead letter.
      error(str): Why it still is one, if it is.
    """

    letter: DeadLetter
    error: str | None


def select_dead(broker: JetStreamBroker, chosen: DeadFilter, until: int | None = None) -> Iterator[DeadLetter]:
    """Go through the dead letters that a filter means, oldest first, a page at a time.

    Parameters:
      broker(JetStreamBroker): The broker.
      chosen(DeadFilter): Which ones.
      until(int): The highest number to go to, so that what ends here meanwhile is left alone.
    """
    now = current_millis()
    for letter in _candidates(broker, chosen):
        if until is not None and letter.number > until:
            return
        if chosen.matches(letter, now):
            yield letter


def summarise_dead(broker: JetStreamBroker, chosen: DeadFilter) -> DeadSummary:
    """Count the dead letters that a filter means."""
    groups: Counter[tuple[str, str, str]] = Counter()
    examples: list[DeadLetter] = []
    last = 0
    for letter in select_dead(broker, chosen):
        groups[letter.queue_name, letter.actor_name or "", letter.reason] += 1
        last = max(last, letter.number)
        if len(examples) < EXAMPLES:
            examples.append(letter)
    return DeadSummary(groups.total(), last, dict(groups.most_common()), tuple(examples))


def requeue_dead(broker: JetStreamBroker, chosen: DeadFilter, until: int | None = None) -> Iterator[Requeued]:
    """Put the dead letters that a filter means back into their queues, each with all its attempts ahead of it.

    Each leaves the dead letters once its queue has stored it; repeating this after a crash stores none twice.

    Raises:
      BrokerConnectionError: If the server cannot be reached.
      StreamNotFound: If a queue has no stream, and it may not be made.
    """
    selected = select_dead(broker, chosen, until)
    while page := list(islice(selected, OUTSTANDING)):
        strangers = {letter.number: _stranger(broker, letter) for letter in page}
        for letter in page:
            if strangers[letter.number] is not None:
                yield Requeued(letter, strangers[letter.number])
        known = [letter for letter in page if strangers[letter.number] is None]
        for letter, error in broker.dead_letters.requeue_all(known):
            yield Requeued(letter, None if error is None else str(error))


def purge_dead(broker: JetStreamBroker, chosen: DeadFilter, until: int | None = None) -> int:
    """Remove the dead letters that a filter means for good, and tell how many there were.

    Messages that a stream of somebody else keeps stay there.
    """
    if chosen.plain and until is None:
        return broker.dead_letters.purge(chosen.queue, chosen.actor)
    return broker.dead_letters.delete_all(select_dead(broker, chosen, until))


def _candidates(broker: JetStreamBroker, chosen: DeadFilter) -> Iterator[DeadLetter]:
    if not chosen.numbers:
        yield from broker.dead_letters.list(chosen.queue, chosen.actor)
        return
    for number in sorted(set(chosen.numbers)):
        letter = broker.dead_letters.get(number)
        if letter is not None:
            yield letter


def _stranger(broker: JetStreamBroker, letter: DeadLetter) -> str | None:
    """Why a dead letter cannot go back, if it came from elsewhere than where its queue is as far as is known."""
    broker.declare_queue(letter.queue_name)
    stream = broker.queue(letter.queue_name).route.stream
    if letter.stream == stream:
        return None
    return (
        f"it came from the stream {letter.stream!r}, and queue {letter.queue_name!r} is in {stream!r} as far as is "
        "known here: name the application that binds the queue"
    )


def _text(letter: DeadLetter) -> str:
    parts = (letter.exception, letter.exception_text, letter.traceback, letter.body.decode("utf-8", "replace"))
    return "\n".join(part for part in parts if part).lower()
