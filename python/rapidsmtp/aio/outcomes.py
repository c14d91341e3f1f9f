"""The queue that carries outcomes from the threads of a blocking sender to an event loop.

If several outcomes become known before the loop runs again, the queue wakes the loop only once.
"""

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from rapidsmtp._models.outcome import Outcome

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> "Future[T]":
    """Call a function in a new thread.

    The event loop's executor is not used: if all its threads were busy, the call would have to
    wait.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def call() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(call,), name="rapidsmtp aio", daemon=True).start()
    return future


class OutcomeQueue:
    """The queue that carries outcomes of single messages to the tasks of one event loop.

    Args:
        loop: The event loop.
        keep_for_close: A function that stores outcomes for the report of `close`. It is called with
            outcomes that no task receives.

    Attributes:
        loop: The event loop.
        turn: The lock for the tasks that wait while the sender's queue is full. The task that holds
            this lock submits its message when the queue has capacity again.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, keep_for_close: Callable[[Iterable[Outcome]], None]
    ) -> None:
        self.loop = loop
        self.turn: asyncio.Lock = asyncio.Lock()
        self._keep_for_close = keep_for_close
        self._arrived: deque[tuple[Outcome, Callable[[Outcome], bool]]] = deque()
        self._is_scheduled = False

    def add_receiver(self, future: "Future[Outcome]", receive: Callable[[Outcome], bool]) -> None:
        """Call `receive` in the event loop when the outcome is known.

        Args:
            future: The future outcome.
            receive: The function to call with the outcome. If this function returns false, the
                outcome is kept for `close`.
        """
        future.add_done_callback(lambda future: self._arrive(future.result(), receive))

    async def wait_for(self, future: "Future[Outcome]") -> Outcome:
        """Wait for an outcome."""
        waiter: asyncio.Future[Outcome] = self.loop.create_future()

        def receive(outcome: Outcome) -> bool:
            if waiter.done():  # the task was cancelled
                return False
            waiter.set_result(outcome)
            return True

        self.add_receiver(future, receive)
        return await waiter

    def _arrive(self, outcome: Outcome, receive: Callable[[Outcome], bool]) -> None:
        self._arrived.append((outcome, receive))
        if self._is_scheduled:
            return
        self._is_scheduled = True
        try:
            self.loop.call_soon_threadsafe(self._pass_on)
        except RuntimeError:  # the loop was closed
            self._pass_on()

    def _pass_on(self) -> None:
        # `_is_scheduled` is reset before the loop below, so that an outcome that arrives after the
        # loop schedules another call of this method. If the flag were reset after the loop, an
        # outcome that arrives just before the reset would never be processed.
        self._is_scheduled = False
        while self._arrived:
            outcome, receive = self._arrived.popleft()
            if self.loop.is_closed() or not receive(outcome):
                self._keep_for_close([outcome])
