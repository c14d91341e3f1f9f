"""The internals of `aio.Sender`: an object through which tasks use a blocking sender.

A `rapidsmtp.Sender` sends the messages. This module uses `SenderCore`, the sender's internal
interface.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from rapidsmtp._bulk.sender import Sender as BlockingSender
from rapidsmtp._bulk.sender import core_of
from rapidsmtp._bulk.sender_core import SenderCore
from rapidsmtp._models.outcome import Outcome
from rapidsmtp._models.report import Report
from rapidsmtp.aio.outcomes import OutcomeQueue, in_thread


class AsyncSenderCore:
    """A blocking sender that the tasks of an event loop can use.

    Args:
        sender: The blocking sender.

    Attributes:
        sender: The blocking sender. The sender stays open as long as a stream refers to this
            object.
        core: The internal interface of the blocking sender.
    """

    def __init__(self, sender: BlockingSender) -> None:
        self.sender: BlockingSender = sender
        self.core: SenderCore = core_of(sender)
        self._last_queue: OutcomeQueue | None = None
        self._before_close: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._ending: list[Future[None]] = []

    def outcome_queue(self) -> OutcomeQueue:
        """Return the outcome queue of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._last_queue is None or self._last_queue.loop is not loop:
            self._last_queue = OutcomeQueue(loop, self.core.keep_for_close)
        return self._last_queue

    async def submit(self, message: Any) -> "Future[Outcome]":
        """Submit one message.

        If the sender's queue is full, this method first waits until the queue has capacity. If the
        task is cancelled during this wait, `close` reports the message's outcome.

        Args:
            message: The message, of a type that `Sender.send` accepts.

        Returns:
            The future outcome of the message.

        Raises:
            RelayError: The relay rejected the session, or could not be reached shortly before this
                call.
            RuntimeError: The sender is closed.
        """
        turn = self.outcome_queue().turn
        future = None if turn.locked() else self.core.submit(message, wait=False)
        if future is not None:
            return future
        try:
            await turn.acquire()  # the queue is full
        except asyncio.CancelledError:
            reason = "the task was cancelled while the queue was full"
            self.core.keep_for_close(self.core.not_attempted(message, reason))
            raise
        try:
            return await self._submit_in_thread(message)
        finally:
            turn.release()

    async def _submit_in_thread(self, message: Any) -> "Future[Outcome]":
        submitted = in_thread(lambda: self.sender.submit(message))
        try:
            return await asyncio.wrap_future(submitted)
        except asyncio.CancelledError:
            submitted.add_done_callback(self._keep_outcome_for_close)
            raise

    def _keep_outcome_for_close(self, submitted: "Future[Future[Outcome]]") -> None:
        if submitted.exception() is None:
            submitted.result().add_done_callback(
                lambda future: self.core.keep_for_close([future.result()])
            )

    def add_ending_thread(self, thread: "Future[None]") -> None:
        """Add the thread of a stopped stream. `close` waits until the thread ends.

        No task awaits the outcomes of this thread, so `close` must report them.

        Args:
            thread: The future that is done when the thread has ended.
        """
        self._ending = [each for each in (*self._ending, thread) if not each.done()]

    def call_before_close(self, method: Callable[[], None]) -> None:
        """Register a bound method that `close` calls first, if the method's object still exists."""
        methods: Iterable[weakref.WeakMethod[Callable[[], None]]] = self._before_close
        self._before_close = [each for each in methods if each() is not None]
        self._before_close.append(weakref.WeakMethod(method))

    async def close(self, timeout: float | None) -> Report:
        """Close the sender. The argument and the result are those of `Sender.close`."""
        timeout = self.core.close_timeout if timeout is None else timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        for reference in self._before_close:
            method = reference()
            if method is not None:
                method()
        ending = [asyncio.wrap_future(each) for each in self._ending if not each.done()]
        if ending:  # these threads still send messages that they have read
            await asyncio.wait(ending, timeout=timeout)
        left = None if deadline is None else deadline - time.monotonic()
        return await asyncio.wrap_future(in_thread(lambda: self.sender.close(left)))
