"""One `Sender.send` under way: elements in, outcomes out.

The iterable is advanced in the caller's thread only, in batches: a call of the engine for each
message would cost more than the message. A batch begins with one element and doubles while the
iterable is quick. But an iterable that was quick may stall (a queue that has run empty), and what
it gave before must not wait for what it gives next. So a batch is gathered where the sender's
keeper, a thread, can reach it: after a moment the keeper offers it to the engine.

An iterable is never more than `queue_size` messages ahead of the outcomes that were yielded.

Ctrl-C, and whatever else a signal's handler raises, may come at any moment in the main thread, and
must lose nothing and send nothing twice. So whatever is handed on is so in one step: by one call
into C (the engine takes from the list that it is given, and appends to the one that it fills), or
by assignments behind one another, between which CPython does not look for signals: it does so at
calls, at loops and where a function begins. The keeper's thread is never interrupted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
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

    Attributes:
        told: The outcomes that have become known; who takes them removes them.
        failure: What has ended the sending before the iterable did.
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
        # From the iterable to the caller: elements, messages for the engine, messages with their
        # results, outcomes.
        self._gathered: deque[Any] = deque()
        self._held: list[Any] = []
        self._decided: list[Any] = []
        self.told: deque[Outcome] = deque()
        self._gathering_since = 0.0
        self._flushed = 0
        # Guards what is gathered and told: the keeper reaches for them.
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

    def round(self) -> None:
        """Take from the iterable, offer to the engine, and see what has become known (`told`).

        Waits where there is nothing else to do.
        """
        if self._may_gather():
            self._gather()
        self._offer(0.0 if self.told else _WAIT)
        may_wait = not self.told and not self._held and not self._may_gather()
        self._take(_WAIT if may_wait else 0.0)
        if self.engine.error() is not None:
            self._stop()

    def cut_short(self, reason: str) -> None:
        """Take no more, because the sender was closed; what the engine did not take is told."""
        if self._source is not None and self.failure is None:
            self.failure = RuntimeError("the sender is closed")
        self.give_up()
        self.abandon(reason)

    def give_up(self) -> None:
        """Take no more: nobody will ask for the outcomes."""
        self._source = None
        with self._lock:
            gathered = deque(self._held)
            gathered += self._gathered
            self._held, self._gathered = [], gathered
            self._gathering_since = 0.0

    def flush_all(self, deadline: float | None) -> None:
        """After `give_up`: offer all of it.

        Args:
            deadline: Until when to wait for room, by `time.monotonic`; None for no limit.
        """
        while not self.is_flushed and (deadline is None or time.monotonic() < deadline):
            with self._lock:
                self._sort()
            self._offer(_SLOW)

    def flush_if_stalled(self, now: float) -> None:
        """Offer to the engine what is gathered, if the iterable has not given anything for a while.

        To be called in the keeper's thread alone.

        Args:
            now: The time by `time.monotonic`.
        """
        if self._gathered and now - self._gathering_since > _SLOW:
            with self._lock:
                count = len(self._gathered)
                gathered = [self._gathered.popleft() for _ in range(count)]
                messages, told = prepare(gathered, self._merged)
                if messages:
                    self.engine.offer(self._channel, messages, 0.0)
                self._flushed += count - len(messages)
                self._gathered.extendleft(reversed(messages))
                self.told.extend(told)
            if told:
                self._count(told)

    def rest(self) -> Iterator[Outcome]:
        """After `give_up`: the outcomes that have become known."""
        while self._take(0.0):
            pass
        return drained(self.told)

    def forget(self) -> None:
        """Let go of the engine's channel."""
        self.engine.forget(self._channel)

    def abandon(self, reason: str) -> None:
        """After `give_up`: what the engine did not take is not attempted."""
        with self._lock:
            lost = not_attempted([*self._held, *self._gathered], reason, self._merged)
            told, gathered = self.told + deque(lost), deque[Any]()
            self.told, self._held, self._gathered = told, [], gathered
        if lost:
            self._count(lost)

    @property
    def _undecided(self) -> int:
        """Messages without an outcome that was told, but for what is gathered."""
        return len(self._held) + len(self._decided) + self.engine.undecided(self._channel)

    def _may_gather(self) -> bool:
        room = self._queue_size - self._undecided
        return self._source is not None and not self._held and room >= self._least_room

    def _gather(self) -> None:
        """Take a batch from the iterable."""
        assert self._source is not None
        room = min(self._size, self._queue_size - self._undecided)
        start = self._gathering_since = time.monotonic()
        try:
            # What came before an exception stays in the deque.
            self._gathered.extend(islice(self._source, room))
        except Exception as error:
            self._source, self.failure = None, error
        with self._lock:
            if len(self._gathered) + self._flushed < room:
                self._source = None
            self._flushed = 0
            self._sort()
        slow = time.monotonic() - start > _SLOW
        self._size = 1 if slow else min(_BATCH, 2 * self._size)

    def _sort(self) -> None:
        """Hold for the engine what is gathered, and tell what is no message. The lock is held."""
        batch = list(self._gathered)
        told: list[Outcome] = []
        kinds = set(map(type, batch))
        if Outcome in kinds or not (self._merged or kinds == {Message}):
            batch, told = prepare(batch, self._merged)
        held, all_told, gathered = self._held + batch, self.told + deque(told), deque[Any]()
        self._held, self.told, self._gathered = held, all_told, gathered
        if told:
            self._count(told)

    def _offer(self, wait: float) -> None:
        if self._held:
            self.engine.offer(self._channel, self._held, wait)

    def _take(self, wait: float) -> int:
        """Tell what the engine has decided; how many that were."""
        if not self._undecided:
            return 0
        self.engine.take(self._channel, self._decided, _OUTCOMES, wait)
        outcomes = deque(outcomes_of(cast(Any, self._decided)))
        number = len(outcomes)
        with self._lock:
            told = self.told + outcomes
            self.told, self._decided = told, []
        return number

    def _stop(self) -> None:
        """The relay will not have us: take no more, and say so at the end."""
        done = self._source is None and not self._undecided
        lost = any(each.status is Status.NOT_ATTEMPTED for each in self.told)
        if (not done or lost) and self.failure is None:
            self.failure = relay_error(self.engine)
        self._source = None


def drained(outcomes: deque[Outcome]) -> Iterator[Outcome]:
    """Take the outcomes out one by one, each in one step with whatever is done with it in C."""
    return map(deque.popleft, repeat(outcomes, len(outcomes)))


def relay_error(engine: "_core.Engine") -> RelayError | None:
    """Why an engine has stopped, as an exception; None if it has not."""
    error = engine.error()
    if error is None:
        return None
    reason, code, text = error
    return RelayError(reason, None if code is None else (code, text))
