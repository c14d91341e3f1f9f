"""What a sender does beside its caller: futures, stalled iterables, trace lines, tokens.

An engine never calls Python; whoever wants something of it asks. Two threads ask here, each made
when it is first needed: one takes the outcomes of what was submitted and offers what a stalled
iterable has left lying, the other hears what the engine wants of the program. Both are daemons and
hold the engine, never the sender.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rapidsmtp.errors import line_of
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, Status, outcomes_of, without_reply
from rapidsmtp.relay import Password
from rapidsmtp.sending import Sending

if TYPE_CHECKING:
    from rapidsmtp import _core

Trace: TypeAlias = Callable[[str], object] | logging.Logger

# Seconds between two looks: at iterables that may stall, and for the end where there are none.
_LOOK = 0.02
_LINGER = 0.25
# Seconds that a program's callbacks may take while the sender is being closed, and those that they
# have even where it was to be closed by now.
_CALLBACKS = 5.0
_LAST_CALLBACKS = 0.1
_OUTCOMES = 512
_CLOSED = "the sender was closed first"


@dataclass(slots=True, eq=False)
class _Submission:
    """A message as the engine takes it, and whoever waits for it."""

    sender: str
    recipients: Sequence[str]
    data: bytes
    mail_options: Sequence[str]
    rcpt_options: Sequence[str]
    message: Message
    future: "Future[Outcome]"


class Keeper:
    """The threads beside one engine.

    Args:
        engine: The engine.
        trace: What gets the trace, if anything does.
        password: Where to ask for the password.
    """

    def __init__(
        self, engine: "_core.Engine", trace: Trace | None, password: Password | None
    ) -> None:
        self._engine = engine
        self._say = trace.debug if isinstance(trace, logging.Logger) else trace
        self._password = password if callable(password) else None
        self._channel: int | None = None
        self._changed = threading.Condition()
        self._unresolved = 0
        self._watched: list[Sending] = []
        self._thread: threading.Thread | None = None
        self._attendant: threading.Thread | None = None
        self._closed = False

    def attend(self) -> None:
        """Begin to hear what the engine wants, if it may want something."""
        if (self._say is None and self._password is None) or self._attendant is not None:
            return
        with self._changed:
            if self._attendant is None:
                self._attendant = self._started(self._attend, "attendant")

    def watch(self, sending: Sending) -> None:
        """Offer what the sending has gathered whenever its iterable stalls."""
        # Python 3.12 starts no thread once the main one has ended. What cannot be watched is sent
        # all the same, batch by batch.
        with self._changed, contextlib.suppress(RuntimeError):
            self._wake()
            self._watched.append(sending)

    def unwatch(self, sending: Sending) -> None:
        """The end of `watch`."""
        with self._changed:
            if sending in self._watched:
                self._watched.remove(sending)

    def submit(self, message: Message, wait: bool) -> "Future[Outcome] | None":
        """Give a message to the engine.

        Args:
            message: The message.
            wait: Whether to wait while the queue is full.

        Returns:
            Its outcome to be; None where it was not taken, because nobody was to wait.
        """
        future: Future[Outcome] = Future()
        # It is on its way: there is nothing left to cancel.
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
            if self._channel is None:
                self._channel = self._engine.channel()
            channel = self._channel
            self._wake()
            self._unresolved += 1
        taken = False
        try:
            taken = self._offer(channel, submission, wait)
        finally:
            if not taken:
                self._resolved(1)
        if not taken and not self._closed:
            return None
        if not taken:
            future.set_result(without_reply(message, Status.NOT_ATTEMPTED, "connect", _CLOSED))
        return future

    def close(self, deadline: float | None = None) -> None:
        """After the engine was closed: wait for the last futures and the last trace lines.

        Not when a callback of the program is what closes the sender: it would wait for itself.

        Args:
            deadline: When all is to be over, by `time.monotonic`; None for no such moment.
        """
        self._closed = True
        own = threading.current_thread()
        now = time.monotonic()
        limit = _CALLBACKS if deadline is None else min(_CALLBACKS, deadline - now)
        limit = max(limit, _LAST_CALLBACKS)
        deadline = now + limit
        if own is not self._thread:
            with self._changed:
                self._changed.wait_for(lambda: self._unresolved <= 0, limit)
        if self._say is not None and self._attendant is not None and own is not self._attendant:
            self._attendant.join(max(0.0, deadline - time.monotonic()))

    def _offer(self, channel: int, submission: _Submission, wait: bool) -> bool:
        while not self._engine.offer(channel, [submission], _LINGER if wait else 0.0):
            if self._closed or not wait:
                return False
            # The engine ends its wait for room when there is an outcome to take, which is the
            # keeper's to do.
            time.sleep(0.001)
        return True

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = self._started(self._keep, "keeper")

    def _started(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"rapidsmtp {name}", daemon=True)
        thread.start()
        return thread

    def _keep(self) -> None:
        idle = False
        while True:
            wait = _LOOK if self._watched else _LINGER
            if self._channel is None:
                time.sleep(wait)
            else:
                self._resolve(wait)
            now = time.monotonic()
            for sending in self._watched.copy():
                sending.flush_if_stalled(now)
                if sending.is_flushed:
                    self.unwatch(sending)
            with self._changed:
                was_idle, idle = idle, not self._watched and self._unresolved <= 0
                if idle and (was_idle or self._closed):
                    self._thread = None
                    return

    def _resolve(self, wait: float) -> None:
        if self._channel is None:
            return
        decided: list[Any] = []
        self._engine.take(self._channel, decided, _OUTCOMES, wait)
        if not decided:
            return
        futures = [submission.future for submission, _ in decided]
        outcomes = outcomes_of((submission.message, result) for submission, result in decided)
        for future, outcome in zip(futures, outcomes, strict=True):
            future.set_result(outcome)
        self._resolved(len(futures))

    def _resolved(self, count: int) -> None:
        with self._changed:
            self._unresolved -= count
            self._changed.notify_all()

    def _attend(self) -> None:
        while True:
            closed = self._closed
            wishes = self._engine.attend(0.0 if closed else _LINGER / 2)
            for kind, value in wishes:
                if kind == "trace" and self._say is not None:
                    self._tell(str(value))
                elif kind == "password":
                    self._engine.password(*self._asked())
            if closed and not wishes:
                return

    def _tell(self, line: str) -> None:
        assert self._say is not None
        try:
            self._say(line)
        except BaseException:  # SystemExit, say: whoever waits for a password needs this thread
            logging.getLogger("rapidsmtp").exception("the trace's receiver failed")

    def _asked(self) -> tuple[str | None, str]:
        assert self._password is not None
        try:
            password = self._password()
        except BaseException as error:  # SystemExit, say: the engine waits for an answer
            return None, f"the password could not be had: {line_of(error)}"
        if not isinstance(password, str):
            return None, f"the password is no str, but {type(password).__name__}"
        return password, ""
