"""The internals of a sender: its engine, the batches of each call, and closing.

`SenderCore` is an internal interface. Each `rapidsmtp.Sender` and each `rapidsmtp.aio.Sender` has a
`SenderCore`. The module `lifecycle` registers each open `SenderCore`, and the module `telemetry`
wraps its methods `send_batches` and `submit`. The engine handles SMTP and sockets.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from rapidsmtp import _backend
from rapidsmtp._bulk import lifecycle
from rapidsmtp._bulk.background import BackgroundThreads, Trace
from rapidsmtp._bulk.batching import Batches, drained, relay_error
from rapidsmtp._bulk.green_engine import adapted
from rapidsmtp._bulk.replaced_sockets import check_sockets
from rapidsmtp._compose.checked_address import checked_path
from rapidsmtp._compose.convert import not_attempted, prepare
from rapidsmtp._models.outcome import Outcome, Status
from rapidsmtp._models.relay_url import Relay
from rapidsmtp._models.report import Report, Stats, stats_of
from rapidsmtp._models.settings import MAX_SECONDS, EngineSettings
from rapidsmtp.errors import RelayError

if TYPE_CHECKING:
    from rapidsmtp._backend import Engine

# After an interrupt, the maximum wait for the replies to messages in flight, in seconds. A message
# whose reply does not arrive in this time has the status UNKNOWN.
GRACE = 0.8
# The minimum time, in seconds, between two attempts to reach a relay that could not be reached.
_RESTART_INTERVAL = 1.0
_CLOSED = "the sender was closed before the message was sent"


class SenderCore:
    """The internals of one sender. This object is safe to use from many threads.

    Args:
        relay: The relay that receives the messages.
        settings: The settings of the engine.
        queue_size: The maximum number of messages without an outcome.
        trace: A callable or a logger that receives the trace lines, or None.
        close_timeout: The time limit of `close` if its caller gives none, in seconds; None for no
            limit.
        checks_sockets: Whether to raise an error if the program has replaced `socket.socket`.

    Raises:
        RuntimeError: The program has replaced `socket.socket`, and the engine would not use the
            replacement.

    Attributes:
        relay: The relay that receives the messages.
        queue_size: The maximum number of messages without an outcome.
        close_timeout: The time limit of `close` if its caller gives none, in seconds, or None.
        is_closed: Whether `close` was called.
    """

    _engine: "Engine | None"
    _threads: BackgroundThreads | None
    _counted: Counter[Status]
    _orphans: list[Batches]

    def __init__(
        self,
        relay: Relay,
        settings: EngineSettings,
        queue_size: int,
        trace: Trace | None,
        *,
        close_timeout: float | None,
        checks_sockets: bool,
    ) -> None:
        self.relay: Relay = relay
        self.queue_size: int = queue_size
        self.close_timeout: float | None = close_timeout
        self.is_closed: bool = False
        self._settings = settings
        self._trace = trace
        self._checks_sockets = checks_sockets
        self._lock = threading.RLock()
        self._check_sockets()
        self._start()
        lifecycle.opened(self)

    def check_open(self) -> None:
        """Check that the sender is open.

        Raises:
            RuntimeError: The sender is closed.
        """
        if self.is_closed:
            raise RuntimeError("the sender is closed")

    def submit(self, message: Any, wait: bool) -> "Future[Outcome] | None":
        """Send one message, from any thread.

        Args:
            message: The message, in any form that `Sender.send` accepts.
            wait: Whether to wait while the queue is full.

        Returns:
            The future outcome of the message; None if the queue is full and `wait` is false.

        Raises:
            RelayError: The relay could not be reached a moment ago, or rejected the session.
            RuntimeError: The sender is closed.
        """
        _, threads = self._ready()
        prepared, invalid = prepare([message])
        if prepared:
            return threads.submit(prepared[0], wait)
        self._count(invalid)
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()
        future.set_result(invalid[0])
        return future

    def send_batches(self, messages: Iterable[Any]) -> Generator[deque[Outcome], None, None]:
        """Send messages.

        Args:
            messages: The iterable that was passed to `Sender.send`.

        Yields:
            A deque of outcomes, as they become known. The caller removes each outcome that it
            reads. The outcomes that it does not remove are yielded again, together with the next
            outcomes.

        Raises:
            RelayError: The relay cannot be reached or rejected the session.
            RuntimeError: The sender is closed.
            Exception: Any exception that the iterable raises.
        """
        engine, threads = self._ready()
        self._collect_orphans()
        batches = Batches(engine, messages, self.queue_size, self._count)
        if not batches.is_sequence:
            threads.watch(batches)
        try:
            while not batches.is_over:
                batches.advance()
                if self.is_closed:
                    batches.stop(_CLOSED)
                if batches.outcomes:
                    yield batches.outcomes
                if self._engine is not engine:
                    raise RuntimeError("this process was forked while the messages were sent")
        finally:
            threads.unwatch(batches)
            if self._engine is engine:
                self._end_batches(batches, threads)
        if isinstance(batches.failure, RelayError):
            self._stopped_at = time.monotonic()
        if batches.failure is not None:
            raise lifecycle.at_exit(batches.failure)

    def keep_for_close(self, outcomes: Iterable[Outcome]) -> None:
        """Add unread outcomes to the report that `close` returns."""
        with self._lock:
            self._unread.add(outcomes)

    def not_attempted(self, message: Any, reason: str) -> list[Outcome]:
        """Count and return the outcome of an element that did not reach the engine.

        Args:
            message: The element, in any form that `Sender.send` accepts.
            reason: The reason, in one line.
        """
        outcomes = not_attempted([message], reason)
        self._count(outcomes)
        return outcomes

    def relay_error(self) -> RelayError | None:
        """Return the error that stopped the engine; None if the engine has not stopped."""
        return None if self._engine is None else relay_error(self._engine)

    def stats(self) -> Stats:
        """Return the counters of the sender."""
        engine = self._engine
        with self._lock:
            counted = Counter(self._counted)
        return Stats() if engine is None else stats_of(engine.stats(), counted)

    def close(self, timeout: float | None) -> Report:
        """Stop taking messages, wait for the remaining outcomes, and close the connections.

        Args:
            timeout: The maximum wait, in seconds; None for `close_timeout`.

        Returns:
            A report of the outcomes that the program has not read.
        """
        timeout = self.close_timeout if timeout is None else timeout
        self.is_closed = True
        lifecycle.closed(self)
        engine, threads = self._engine, self._threads
        if engine is None or threads is None:
            return self._unread
        # Longer times overflow the timers of the system. NaN and negative times become 0.
        limit = None if timeout is None else min(max(0.0, timeout), MAX_SECONDS)
        deadline = None if limit is None else time.monotonic() + limit
        try:
            with self._lock:
                orphans = list(self._orphans)
            for batches in orphans:
                batches.submit_all(deadline)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            engine.close(left)
        except BaseException:
            engine.close(GRACE, False)
            deadline = time.monotonic()
            raise
        finally:
            threads.close(deadline)
            self._collect_orphans(closed=True)
            self._unread.add(())  # counts the outcomes that an interrupted `add` did not count
        return self._unread

    def warn_of_unsent(self, report: Report) -> None:
        """Log a warning if the report of `close` contains messages that were not accepted.

        A `with` block discards the report. Without the warning, the loss would not be noticed.
        """
        if report.not_accepted:
            logging.getLogger("rapidsmtp").warning(
                "relay %s: %d messages were not accepted whose outcomes the program has not read; "
                "Sender.close returns them",
                self.relay.name,
                len(report.not_accepted),
            )

    @property
    def is_unclosed(self) -> bool:
        """Whether there is an engine that must still be closed."""
        return not self.is_closed and self._engine is not None

    def close_in_background(self) -> None:
        """Send the remaining messages and close the connections, in a new thread."""
        self.is_closed = True
        if self._engine is not None and self._threads is not None:
            lifecycle.close_in_background(self._engine, self._threads, self.close_timeout)

    def descriptors(self) -> list[int]:
        """Return the file descriptors of the open sockets."""
        return [] if self._engine is None else self._engine.descriptors()

    def reset_after_fork(self) -> object:
        """Drop the parent's state in the child of a fork, and leave the parent's objects unchanged.

        Returns:
            The objects that the child must not destroy. The caller must keep a reference to them.
        """
        kept = (self._engine, self._threads, self._orphans, self._lock)
        self._engine = self._threads = None
        self._lock = threading.RLock()
        self._unread = Report()
        self._counted = Counter()
        self._orphans = []
        return kept

    # The batches of one call

    def _end_batches(self, batches: Batches, threads: BackgroundThreads) -> None:
        self.keep_for_close(drained(batches.outcomes))
        if batches.is_over:
            batches.close()
            return
        batches.stop_taking()
        with self._lock:
            self._orphans.append(batches)
        if self.is_closed:
            self._collect_orphans(closed=True)
        elif not batches.is_submitted:
            threads.watch(batches)

    def _collect_orphans(self, closed: bool = False) -> None:
        """Collect the outcomes of `send_batches` calls that the caller has stopped iterating."""
        if not self._orphans:
            return
        with self._lock:
            for batches in self._orphans.copy():
                if closed:
                    batches.abandon(_CLOSED)
                self._unread.add(batches.remaining())
                if batches.is_over and batches.is_submitted:
                    self._orphans.remove(batches)
                    batches.close()

    def _count(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes that do not come from the engine, for `stats`."""
        with self._lock:
            self._counted.update(each.status for each in outcomes)

    # The engine

    def _start(self) -> None:
        self._unread = Report()
        self._counted = Counter()
        self._orphans = []
        self._stopped_at = self._restarted_at = float("-inf")
        engine = adapted(_backend.Engine(self._settings, checked_path))
        self._engine = engine
        self._threads = BackgroundThreads(engine, self._trace, self.relay.password)

    def _ready(self) -> "tuple[Engine, BackgroundThreads]":
        """Return an engine that can send, and the background threads of this engine.

        Raises:
            RelayError: The relay could not be reached a moment ago, or rejected the session.
            RuntimeError: The sender is closed, or the program has replaced `socket.socket`.
        """
        self.check_open()
        self._check_sockets()
        if self._engine is None:
            with self._lock:
                if self._engine is None:
                    self._start()
        engine, threads = self._engine, self._threads
        assert engine is not None and threads is not None
        threads.serve_requests()
        if engine.error() is not None:
            self._restart(engine)
        return engine, threads

    def _check_sockets(self) -> None:
        # The program may also replace `socket.socket` after it has created the sender.
        if self._checks_sockets:
            check_sockets()

    def _restart(self, engine: "Engine") -> None:
        with self._lock:
            now = time.monotonic()
            if now - max(self._stopped_at, self._restarted_at) >= _RESTART_INTERVAL:
                self._restarted_at = now
                engine.restart()
        error = relay_error(engine)
        if error is not None:
            raise error
