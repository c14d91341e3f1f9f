"""One `Sender.send` under way: elements in, outcomes out.

The iterable is advanced in the caller's thread only, in batches: a call of the engine for each
message would cost more than the message. A batch begins with one element and doubles while the
iterable is quick. But an iterable that was quick may stall (a queue that has run empty), and what
it gave before must not wait for what it gives next. So a batch is gathered where the sender's
keeper, a thread, can reach it: after a moment the keeper offers it to the engine.

An iterable is never more than `queue_size` messages ahead of the outcomes that were yielded.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from rapidsmtp.errors import RelayError
from rapidsmtp.intake import not_attempted, prepare
from rapidsmtp.merge import Merge
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, Status, outcomes_of

if TYPE_CHECKING:
    from rapidsmtp import _core

# Messages in a batch: few enough that outcomes flow, many enough that the engine's door, which
# costs a few microseconds, is lost among them.
_BATCH = 256
_OUTCOMES = 512
# A batch that took longer than this to gather, in seconds, is followed by one of a single element.
_SLOW = 0.02
# How long to wait for the engine before looking around, in seconds. It ends any wait itself when
# there is something to take.
_WAIT = 0.5


class Sending:
    """One iterable on its way through an engine.

    Args:
        engine: The engine.
        messages: What `Sender.send` takes.
        queue_size: How many messages may be without an outcome.
        count: Called with outcomes that the engine does not know of.
    """

    def __init__(
        self,
        engine: "_core.Engine",
        messages: Iterable[Any],
        queue_size: int,
        count: Callable[[list[Outcome]], None],
    ) -> None:
        self.engine = engine
        self.is_sequence: bool = isinstance(messages, Sequence)
        self._merged = isinstance(messages, Merge)
        source = messages.unwritten() if isinstance(messages, Merge) else iter(messages)
        self._source: Iterator[Any] | None = source
        self._channel = engine.channel()
        self._queue_size = queue_size
        self._count = count
        # A full queue is filled up by batches, not one by one.
        self._least_room = max(1, min(_BATCH, queue_size // 4))
        self._size = _BATCH if self.is_sequence else 1
        self._undecided = 0
        self._held: list[Any] = []
        self._gathered: deque[Any] = deque()
        self._gathering_since = 0.0
        self._flushed = 0
        self._told: list[Outcome] = []
        # Guards the three above: the keeper reaches for them.
        self._lock = threading.Lock()
        self.failure: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether everything that was taken has its outcome, and no more is to be taken."""
        return self._source is None and not self._undecided

    @property
    def is_flushed(self) -> bool:
        """After `give_up`: whether the engine has everything that was taken."""
        return self._source is None and not self._gathered and not self._held

    def round(self) -> list[Outcome]:
        """Take from the iterable, offer to the engine, and see what has become known.

        Waits where there is nothing else to do.
        """
        told = self._gather() if self._may_gather() else []
        self._offer(0.0 if told else _WAIT)
        may_wait = not told and not self._held and not self._may_gather()
        told += self._take(_WAIT if may_wait else 0.0)
        if self.engine.error() is not None:
            self._stop(told)
        return told

    def cut_short(self, reason: str) -> list[Outcome]:
        """Take no more, because the sender was closed.

        Returns:
            The outcomes of what the engine did not take.
        """
        if self._source is not None and self.failure is None:
            self.failure = RuntimeError("the sender is closed")
        self.give_up()
        with self._lock:
            self._undecided += self._flushed
            self._flushed = 0
            told, self._told = self._told, []
        return told + self.abandon(reason)

    def give_up(self) -> None:
        """Take no more: nobody will ask for the outcomes."""
        self._source = None
        with self._lock:
            self._gathered.extendleft(reversed(self._held))
            self._undecided -= len(self._held)
            self._held = []
            self._gathering_since = 0.0

    def flush(self, wait: float = 0.0) -> None:
        """Offer to the engine what is gathered; called from any thread.

        Args:
            wait: How long to wait for room, in seconds.
        """
        with self._lock:
            count = len(self._gathered)
            gathered = [self._gathered.popleft() for _ in range(count)]
            messages, told = prepare(gathered, self._merged)
            taken = self.engine.offer(self._channel, messages, wait) if messages else 0
            self._flushed += taken
            self._gathered.extendleft(reversed(messages[taken:]))
            self._tell(told)

    def flush_all(self, deadline: float | None) -> None:
        """After `give_up`: offer all of it.

        Args:
            deadline: Until when to wait for room, by `time.monotonic`; None for no limit.
        """
        while self._gathered and (deadline is None or time.monotonic() < deadline):
            self.flush(_SLOW)

    def flush_if_stalled(self, now: float) -> None:
        """As `flush`, if the iterable has not given anything for a while.

        Args:
            now: The time by `time.monotonic`.
        """
        if self._gathered and now - self._gathering_since > _SLOW:
            self.flush()

    def rest(self) -> list[Outcome]:
        """After `give_up`: the outcomes that have become known."""
        with self._lock:
            self._undecided += self._flushed
            self._flushed = 0
            outcomes, self._told = self._told, []
        while more := self._take(0.0):
            outcomes += more
        return outcomes

    def forget(self) -> None:
        """Let go of the engine's channel."""
        self.engine.forget(self._channel)

    def abandon(self, reason: str) -> list[Outcome]:
        """Take back what the engine did not take."""
        with self._lock:
            told = not_attempted(self._gathered, reason, self._merged)
            self._gathered.clear()
        if told:
            self._count(told)
        return told

    def _may_gather(self) -> bool:
        room = self._queue_size - self._undecided
        return self._source is not None and not self._held and room >= self._least_room

    def _gather(self) -> list[Outcome]:
        """Take a batch from the iterable.

        Returns:
            The outcomes of elements that are no messages.
        """
        assert self._source is not None
        room = min(self._size, self._queue_size - self._undecided)
        start = self._gathering_since = time.monotonic()
        try:
            # What came before an exception stays in the deque.
            self._gathered.extend(islice(self._source, room))
        except Exception as error:
            self._source, self.failure = None, error
        with self._lock:
            batch, flushed, told = list(self._gathered), self._flushed, self._told
            self._gathered.clear()
            self._flushed, self._told = 0, []
        if len(batch) + flushed + len(told) < room:
            self._source = None
        slow = time.monotonic() - start > _SLOW
        self._size = 1 if slow else min(_BATCH, 2 * self._size)
        kinds = set(map(type, batch))
        if Outcome in kinds or not (self._merged or kinds == {Message}):
            batch, more = prepare(batch, self._merged)
            if more:
                self._count(more)
                told += more
        self._held = batch
        self._undecided += len(batch) + flushed
        return told

    def _tell(self, told: list[Outcome]) -> None:
        if told:
            self._told += told
            self._count(told)

    def _offer(self, wait: float) -> None:
        if self._held:
            taken = self.engine.offer(self._channel, self._held, wait)
            self._held = self._held[taken:]

    def _take(self, wait: float) -> list[Outcome]:
        if not self._undecided:
            return []
        decided = self.engine.take(self._channel, _OUTCOMES, wait)
        self._undecided -= len(decided)
        return outcomes_of(cast(Any, decided))

    def _stop(self, told: list[Outcome]) -> None:
        """The relay will not have us: take no more, and say so at the end."""
        done = self._source is None and not self._undecided
        lost = any(each.status is Status.NOT_ATTEMPTED for each in told)
        if (not done or lost) and self.failure is None:
            self.failure = relay_error(self.engine)
        self._source = None


def relay_error(engine: "_core.Engine") -> RelayError | None:
    """Why an engine has stopped, as an exception; None if it has not."""
    error = engine.error()
    if error is None:
        return None
    reason, code, text = error
    return RelayError(reason, None if code is None else (code, text))
