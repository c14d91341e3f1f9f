"""The background threads of a sender: they resolve futures and answer requests of the engine.

The threads of an engine never call functions of the program: callbacks of futures, the trace
function and the password function. Instead, the two threads of this module fetch outcomes and
requests from the engine and call these functions. Each of these two threads is started when it is
first needed. The outcome thread reads the outcomes of submitted messages, and resolves their
futures. It also submits the gathered messages of an iterable that has stalled. The request thread
writes trace lines and answers requests for the password. Both threads are daemon threads. They hold
references to the engine but not to the sender, so that Python can delete a sender that the program
no longer uses.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rapidsmtp._bulk.batching import Batches
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, Status, outcome_without_reply, outcomes_of
from rapidsmtp._models.relay_url import Password
from rapidsmtp.errors import line_of

if TYPE_CHECKING:
    from rapidsmtp import _backend

Trace: TypeAlias = Callable[[str], object] | logging.Logger

# The maximum time, in seconds, that the outcome thread waits for outcomes. `_CHECK_INTERVAL`
# applies while the thread watches an iterable, and `_IDLE_INTERVAL` otherwise.
_CHECK_INTERVAL = 0.02
_IDLE_INTERVAL = 0.25
# The maximum and the minimum time, in seconds, for which `close` waits until the callbacks of the
# program return. The minimum applies even if the deadline of `close` has passed.
_CALLBACK_TIMEOUT = 5.0
_MIN_CALLBACK_TIMEOUT = 0.1
# The maximum number of outcomes that one call of the engine returns.
_OUTCOMES = 512
_CLOSED = "the sender was closed before the message was sent"


@dataclass(slots=True, eq=False)
class _Submission:
    """One submitted message, with the attributes that the engine reads and the future outcome."""

    sender: str
    recipients: Sequence[str]
    data: bytes
    mail_options: Sequence[str]
    rcpt_options: Sequence[str]
    message: Message
    future: "Future[Outcome]"


class BackgroundThreads:
    """The outcome thread and the request thread of one engine.

    Args:
        engine: The engine.
        trace: A callable or a logger that receives the trace lines, or None.
        password: The password; if it is a function, the request thread calls it.
    """

    def __init__(
        self, engine: "_backend.Engine", trace: Trace | None, password: Password | None
    ) -> None:
        self._engine = engine
        self._write_line = trace.debug if isinstance(trace, logging.Logger) else trace
        self._password = password if callable(password) else None
        self._outbox: int | None = None
        self._changed = threading.Condition()
        self._unresolved = 0
        self._watched: list[Batches] = []
        self._outcome_thread: threading.Thread | None = None
        self._request_thread: threading.Thread | None = None
        self._closed = False

    def serve_requests(self) -> None:
        """Start the request thread if it is needed and not running."""
        no_requests = self._write_line is None and self._password is None
        if no_requests or self._request_thread is not None:
            return
        with self._changed:
            if self._request_thread is None:
                self._request_thread = self._started(self._run_requests, "requests")

    def watch(self, batches: Batches) -> None:
        """Let the outcome thread submit the gathered messages whenever the iterable stalls."""
        # From Python 3.12 on, no thread can start after the end of the main thread: `start` raises
        # RuntimeError. In that case the batches are sent without the outcome thread.
        with self._changed, contextlib.suppress(RuntimeError):
            self._start_outcome_thread()
            self._watched.append(batches)

    def unwatch(self, batches: Batches) -> None:
        """Undo `watch`."""
        with self._changed:
            if batches in self._watched:
                self._watched.remove(batches)

    def submit(self, message: Message, wait: bool) -> "Future[Outcome] | None":
        """Submit a message to the engine.

        Args:
            message: The message.
            wait: Whether to wait while the queue is full.

        Returns:
            The future outcome of the message; None if the queue is full and `wait` is false.
        """
        future: Future[Outcome] = Future()
        # A submitted message cannot be cancelled. So the future is marked as running, because
        # `cancel` has no effect on a running future.
        future.set_running_or_notify_cancel()
        submission = _Submission(
            message.sender,
            message.recipients,
            message.data,
            message.mail_options,
            message.rcpt_options,
            message,
            future,
        )
        with self._changed:
            if self._outbox is None:
                self._outbox = self._engine.open_outbox()
            outbox = self._outbox
            self._start_outcome_thread()
            self._unresolved += 1
        is_submitted = False
        try:
            is_submitted = self._submit(outbox, submission, wait)
        finally:
            if not is_submitted:
                self._count_resolved(1)
        if not is_submitted and not self._closed:
            return None
        if not is_submitted:
            outcome = outcome_without_reply(message, Status.NOT_ATTEMPTED, "connect", _CLOSED)
            future.set_result(outcome)
        return future

    def close(self, deadline: float | None = None) -> None:
        """Wait until the last futures are resolved and the last trace lines are written.

        The engine must be closed already. If a callback of the program closes the sender, this
        method runs in one of the two threads. In that case it does not wait for its own thread.

        Args:
            deadline: The time of `time.monotonic` at which to stop waiting; None for no limit.
        """
        self._closed = True
        current = threading.current_thread()
        now = time.monotonic()
        timeout = _CALLBACK_TIMEOUT if deadline is None else min(_CALLBACK_TIMEOUT, deadline - now)
        timeout = max(timeout, _MIN_CALLBACK_TIMEOUT)
        deadline = now + timeout
        if current is not self._outcome_thread:
            with self._changed:
                self._changed.wait_for(lambda: self._unresolved <= 0, timeout)
        requests = self._request_thread
        if self._write_line is not None and requests is not None and current is not requests:
            requests.join(max(0.0, deadline - time.monotonic()))

    def _submit(self, outbox: int, submission: _Submission, wait: bool) -> bool:
        while not self._engine.submit(outbox, [submission], _IDLE_INTERVAL if wait else 0.0):
            if self._closed or not wait:
                return False
            # The queue is full. The engine's `submit` waits for capacity, but it returns early if
            # an outcome is ready. The pause lets the outcome thread fetch this outcome. Without the
            # pause, this loop would use a whole CPU.
            time.sleep(0.001)
        return True

    def _start_outcome_thread(self) -> None:
        if self._outcome_thread is None:
            self._outcome_thread = self._started(self._run_outcomes, "outcomes")

    def _started(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"rapidsmtp {name}", daemon=True)
        thread.start()
        return thread

    # The outcome thread

    def _run_outcomes(self) -> None:
        idle = False
        while True:
            wait = _CHECK_INTERVAL if self._watched else _IDLE_INTERVAL
            if self._outbox is None:
                time.sleep(wait)
            else:
                self._resolve(wait)
            now = time.monotonic()
            for batches in self._watched.copy():
                batches.submit_if_stalled(now)
                if batches.is_submitted:
                    self.unwatch(batches)
            with self._changed:
                was_idle, idle = idle, not self._watched and self._unresolved <= 0
                if idle and (was_idle or self._closed):
                    self._outcome_thread = None
                    return

    def _resolve(self, wait: float) -> None:
        if self._outbox is None:
            return
        finished: list[Any] = []
        self._engine.take(self._outbox, finished, _OUTCOMES, wait)
        if not finished:
            return
        futures = [submission.future for submission, _ in finished]
        outcomes = outcomes_of((submission.message, outcome) for submission, outcome in finished)
        for future, outcome in zip(futures, outcomes, strict=True):
            future.set_result(outcome)
        self._count_resolved(len(futures))

    def _count_resolved(self, count: int) -> None:
        with self._changed:
            self._unresolved -= count
            self._changed.notify_all()

    # The request thread

    def _run_requests(self) -> None:
        while True:
            closed = self._closed
            requests = self._engine.requests(0.0 if closed else _IDLE_INTERVAL / 2)
            for kind, value in requests:
                if kind == "trace" and self._write_line is not None:
                    self._trace(str(value))
                elif kind == "password":
                    self._engine.answer_password(*self._read_password())
            if closed and not requests:
                return

    def _trace(self, line: str) -> None:
        assert self._write_line is not None
        try:
            self._write_line(line)
        except BaseException:  # even SystemExit must not end this thread
            logging.getLogger("rapidsmtp").exception("the trace function raised an exception")

    def _read_password(self) -> tuple[str | None, str]:
        """Call the password function.

        Returns:
            The password and an empty text. If the call fails: None and the reason.
        """
        assert self._password is not None
        try:
            password = self._password()
        except BaseException as error:  # SystemExit too, because the engine waits for the result
            return None, line_of(error)  # the engine puts its own text before this reason
        if not isinstance(password, str):
            return None, f"the password must be a str, not {type(password).__name__}"
        if not _is_unicode(password):
            return None, "the password is not valid Unicode"
        return password, ""


def _is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
