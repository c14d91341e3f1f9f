"""One call of `Sender.send`: it takes the elements of an iterable in batches and returns outcomes.

Only the caller's thread advances the iterable. This thread submits messages in batches, because a
separate call of the engine for each message would take longer than sending the message. A sequence
is submitted in batches of the maximum size. For any other iterable, the first batch has one
element, and the size doubles while the iterable is fast. A fast iterable may suddenly stall, for
example because it reads an empty queue. In that case the elements gathered so far must not wait for
the next element. So the sender's outcome thread also has access to the gathered elements, and
submits them after a short time (`submit_if_stalled`).

At any time, at most `queue_size` messages have no outcome. While the queue is full, the iterable is
not advanced.

A signal handler, such as that of Ctrl-C, may raise an exception at any moment in the main thread.
Such an exception must not lose a message or cause a second copy. So each transfer of messages
between two containers is a single step: either one call into C or a sequence of assignments. The
engine's methods are single steps too: `submit` removes messages from the caller's list, and `take`
appends outcomes to the caller's list. CPython runs signal handlers at calls, at loops and at the
start of a function, but not between assignments. It runs signal handlers in the main thread only,
so they never interrupt the outcome thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, cast

from rapidsmtp._compose.convert import not_attempted, prepare
from rapidsmtp._compose.merge import Merge, merged_for_engine
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, Status, outcomes_of
from rapidsmtp._models.reply import Reply
from rapidsmtp.errors import RelayError

if TYPE_CHECKING:
    from rapidsmtp import _backend

# The maximum number of messages in a batch. It is small enough for a steady flow of outcomes. It is
# also so large that the time of the engine call for each batch, a few microseconds, is negligible.
_BATCH = 256
# The maximum number of outcomes that one call of the engine returns.
_OUTCOMES = 512
# The time, in seconds, after which an iterable counts as slow. If gathering a batch takes longer,
# the next batch has one element. If the batch is still incomplete after this time, the outcome
# thread submits the elements gathered so far.
_SLOW = 0.02
# The maximum wait in one call of the engine, in seconds. The call returns earlier if an outcome is
# ready.
_WAIT = 0.5


class Batches:
    """The messages of one `Sender.send` call, from the iterable to the outcomes.

    Args:
        engine: The engine.
        messages: The iterable that was passed to `Sender.send`.
        queue_size: The maximum number of messages without an outcome.
        count: The function that receives the outcomes that do not come from the engine, and counts
            them for `Sender.stats`.

    Attributes:
        outcomes: The outcomes that the caller has not read yet. The caller must remove each outcome
            that it reads.
        failure: The exception that stopped sending before the end of the iterable, or None.
    """

    def __init__(
        self,
        engine: "_backend.Engine",
        messages: Iterable[Any],
        queue_size: int,
        count: Callable[[list[Outcome]], None],
    ) -> None:
        self.engine = engine
        self.is_sequence: bool = isinstance(messages, Sequence)
        self._merged = isinstance(messages, Merge)
        source = merged_for_engine(messages) if isinstance(messages, Merge) else iter(messages)
        self._source: Iterator[Any] | None = source
        self._outbox = engine.open_outbox()
        self._queue_size = queue_size
        self._count = count
        # The minimum free capacity of the queue at which the next batch is gathered. Without this
        # minimum, a full queue would be refilled message by message, with one call of the engine
        # for each message.
        self._min_capacity = max(1, min(_BATCH, queue_size // 4))
        self._size = _BATCH if self.is_sequence else 1
        # The four containers through which data passes from the iterable to the caller, in this
        # order: elements, messages to submit, messages with the engine's outcomes, and `Outcome`
        # objects.
        self._gathered: deque[Any] = deque()
        self._unsubmitted: list[Any] = []
        self._finished: list[Any] = []
        self.outcomes: deque[Outcome] = deque()
        self._gathering_since = 0.0
        self._submitted_early = 0
        # This lock guards `_gathered` and `outcomes`, because the outcome thread also changes them.
        self._lock = threading.Lock()
        self.failure: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether the iterable is no longer read, and every message has an outcome."""
        return self._source is None and not self._unfinished

    @property
    def is_submitted(self) -> bool:
        """Whether all messages were submitted to the engine. Valid after `stop_taking`."""
        return self._source is None and not self._gathered and not self._unsubmitted

    def advance(self) -> None:
        """Take elements, submit messages to the engine, and collect outcomes.

        If there are no elements to take, messages to submit or outcomes to return, wait for
        outcomes.
        """
        if self._may_gather():
            self._gather()
        self._submit(0.0 if self.outcomes else _WAIT)
        may_wait = not self.outcomes and not self._unsubmitted and not self._may_gather()
        self._collect(_WAIT if may_wait else 0.0)
        if self.engine.error() is not None:
            self._stop_on_error()

    def stop(self, reason: str) -> None:
        """Stop because the sender was closed, and report unsubmitted messages as NOT_ATTEMPTED."""
        if self._source is not None and self.failure is None:
            self.failure = RuntimeError("the sender is closed")
        self.stop_taking()
        self.abandon(reason)

    def stop_taking(self) -> None:
        """Stop taking elements from the iterable."""
        self._source = None
        with self._lock:
            gathered = deque(self._unsubmitted)
            gathered += self._gathered
            self._unsubmitted, self._gathered = [], gathered
            self._gathering_since = 0.0

    def submit_all(self, deadline: float | None) -> None:
        """Submit the messages that are not submitted yet. Called after `stop_taking`.

        Args:
            deadline: The time of `time.monotonic` at which to stop waiting for capacity in the
                queue; None for no limit.
        """
        while not self.is_submitted and (deadline is None or time.monotonic() < deadline):
            with self._lock:
                self._convert()
            self._submit(_SLOW)

    def submit_if_stalled(self, now: float) -> None:
        """Submit the gathered messages if the iterable has stalled.

        Only the outcome thread calls this method.

        Args:
            now: The current time of `time.monotonic`.
        """
        if self._gathered and now - self._gathering_since > _SLOW:
            with self._lock:
                count = len(self._gathered)
                gathered = [self._gathered.popleft() for _ in range(count)]
                messages, outcomes = prepare(gathered, self._merged)
                if messages:
                    self.engine.submit(self._outbox, messages, 0.0)
                self._submitted_early += count - len(messages)
                self._gathered.extendleft(reversed(messages))
                self.outcomes.extend(outcomes)
            if outcomes:
                self._count(outcomes)

    def remaining(self) -> Iterator[Outcome]:
        """Return the outcomes that have arrived. Called after `stop_taking`."""
        while self._collect(0.0):
            pass
        return drained(self.outcomes)

    def close(self) -> None:
        """Close the engine's outbox."""
        self.engine.close_outbox(self._outbox)

    def abandon(self, reason: str) -> None:
        """Report the unsubmitted messages as NOT_ATTEMPTED. Called after `stop_taking`.

        Args:
            reason: The reason, in one line.
        """
        with self._lock:
            lost = not_attempted([*self._unsubmitted, *self._gathered], reason, self._merged)
            outcomes, gathered = self.outcomes + deque(lost), deque[Any]()
            self.outcomes, self._unsubmitted, self._gathered = outcomes, [], gathered
        if lost:
            self._count(lost)

    @property
    def _unfinished(self) -> int:
        """The number of messages without an outcome, except those in `_gathered`."""
        in_engine = self.engine.pending(self._outbox)
        return len(self._unsubmitted) + len(self._finished) + in_engine

    def _may_gather(self) -> bool:
        capacity = self._queue_size - self._unfinished
        return self._source is not None and not self._unsubmitted and capacity >= self._min_capacity

    def _gather(self) -> None:
        """Take a batch from the iterable."""
        assert self._source is not None
        size = min(self._size, self._queue_size - self._unfinished)
        start = self._gathering_since = time.monotonic()
        try:
            # If the iterable raises an exception, the elements that it yielded before the exception
            # are already in the deque. So they are still sent.
            self._gathered.extend(islice(self._source, size))
        except Exception as error:
            self._source, self.failure = None, error
        with self._lock:
            if len(self._gathered) + self._submitted_early < size:
                self._source = None
            self._submitted_early = 0
            self._convert()
        slow = time.monotonic() - start > _SLOW
        self._size = 1 if slow else min(_BATCH, 2 * self._size)

    def _convert(self) -> None:
        """Convert the gathered elements to messages or outcomes. The caller must hold the lock."""
        batch = list(self._gathered)
        outcomes: list[Outcome] = []
        types = set(map(type, batch))
        if Outcome in types or not (self._merged or types == {Message}):
            batch, outcomes = prepare(batch, self._merged)
        unsubmitted = self._unsubmitted + batch
        all_outcomes, gathered = self.outcomes + deque(outcomes), deque[Any]()
        self._unsubmitted, self.outcomes, self._gathered = unsubmitted, all_outcomes, gathered
        if outcomes:
            self._count(outcomes)

    def _submit(self, wait: float) -> None:
        if self._unsubmitted:
            self.engine.submit(self._outbox, self._unsubmitted, wait)

    def _collect(self, wait: float) -> int:
        """Move finished outcomes to `outcomes` and return how many were moved."""
        if not self._unfinished:
            return 0
        self.engine.take(self._outbox, self._finished, _OUTCOMES, wait)
        new = deque(outcomes_of(cast(Any, self._finished)))
        number = len(new)
        with self._lock:
            outcomes = self.outcomes + new
            self.outcomes, self._finished = outcomes, []
        return number

    def _stop_on_error(self) -> None:
        """Stop taking elements, because the engine stopped with an error.

        `send_batches` raises this error later.
        """
        done = self._source is None and not self._unfinished
        lost = any(each.status is Status.NOT_ATTEMPTED for each in self.outcomes)
        if (not done or lost) and self.failure is None:
            self.failure = relay_error(self.engine)
        self._source = None


def drained(outcomes: deque[Outcome]) -> Iterator[Outcome]:
    """Remove the outcomes from a deque one by one, each in a single step of C code."""
    return map(deque.popleft, repeat(outcomes, len(outcomes)))


def relay_error(engine: "_backend.Engine") -> RelayError | None:
    """Return the error that stopped an engine, as an exception; None if the engine still runs."""
    error = engine.error()
    if error is None:
        return None
    reason, code, text, retry_after, is_permanent = error
    reply = None if code is None else Reply(code, text)
    return RelayError(reason, reply, retry_after, is_permanent=is_permanent)
