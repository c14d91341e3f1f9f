"""Where `aio.Sender` has its outcomes from: threads on one side, an event loop on the other.

`Post` brings those of a synchronous iterable, `Stream` those of an asynchronous one, `Mailbox`
those of single messages. None wakes the loop more than once for what has become known together,
and what nobody takes any more is set aside for `close`.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from rapidsmtp.errors import line_of
from rapidsmtp.outcome import Outcome, Status
from rapidsmtp.sending import drained

if TYPE_CHECKING:
    from rapidsmtp.aio.sender import Sender

T = TypeVar("T")

# Batches of outcomes that wait for the program: one that it looks at, and one that is ready then.
_READY = 2


def in_thread(function: Callable[[], T]) -> "Future[T]":
    """Call a function in a thread of its own: those of the loop may all be waiting already."""
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


class Post:
    """The thread of one `send`: batches of outcomes from a blocking sender to an event loop."""

    def __init__(self, sender: "Sender", messages: Iterable[Any]) -> None:
        self._left = sender._left
        self._sender = sender._sender
        self._messages = messages
        self._loop = asyncio.get_running_loop()
        self._told: deque[list[Outcome]] = deque()
        self._changed = threading.Condition()
        self._waiter: asyncio.Future[None] | None = None
        self._is_over = self._is_stopped = False
        self.failure: BaseException | None = None
        self._future = in_thread(self._work)

    async def next(self) -> list[Outcome] | None:
        """The next batch; None at the end."""
        while True:
            with self._changed:
                if self._told:
                    self._changed.notify()
                    return self._told.popleft()
                if self._is_over:
                    return None
                self._waiter = self._loop.create_future()
            await self._waiter

    def stop(self) -> None:
        """Nobody asks any more."""
        with self._changed:
            self._is_stopped = True
            left = [outcome for told in self._told for outcome in told]
            self._told.clear()
            self._changed.notify()
        self._sender._set_aside(left)
        self._left(self._future)

    def _work(self) -> None:
        rounds = self._sender._rounds(self._messages)
        try:
            for told in rounds:
                self._hand_over(list(drained(told)))
                if self._is_stopped:
                    break
        except BaseException as error:
            self.failure = error
        finally:
            rounds.close()
            with self._changed:
                self._is_over = True
                self._wake()

    def _hand_over(self, told: list[Outcome]) -> None:
        with self._changed:
            if not self._is_stopped:
                self._told.append(told)
                self._wake()
                self._changed.wait_for(lambda: self._is_stopped or len(self._told) < _READY)
                return
        self._sender._set_aside(told)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody asks any more
                self._loop.call_soon_threadsafe(_set, waiter)


def _set(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class Stream:
    """One `send` of an asynchronous iterable: its elements are submitted as they come.

    So outcomes come out while the iterable waits for its next element, be it for hours.
    """

    def __init__(self, sender: "Sender", messages: AsyncIterable[Any]) -> None:
        self._sender = sender
        self._messages = messages
        self._told: list[Outcome] = []
        self._undecided = 0
        self._changed = asyncio.Event()
        self._ahead = asyncio.Semaphore(sender._sender._queue_size)
        self._is_exhausted = self._is_stopped = False
        self.failure: BaseException | None = None
        self._task = asyncio.create_task(self._take())

    async def next(self) -> list[Outcome] | None:
        """The next batch; None at the end."""
        while not self._told:
            if self._is_exhausted and not self._undecided:
                return None
            self._changed.clear()
            await self._changed.wait()
        told, self._told = self._told, []
        for outcome in told:
            self._ahead.release()
            if outcome.status is Status.NOT_ATTEMPTED and self.failure is None:
                self.failure = self._sender._sender._relay_error()
        if self.failure is not None:
            self._task.cancel()
        return told

    def stop(self) -> None:
        """Nobody asks any more."""
        self._is_stopped = True
        self._task.cancel()
        self._sender._sender._set_aside(self._told)

    async def _take(self) -> None:
        mailbox = self._sender._mailbox()
        try:
            await self._ahead.acquire()
            async for element in self._messages:
                try:
                    future = await self._sender._submit(element)
                except Exception as error:
                    # It was taken: it has its outcome like those before it.
                    self._tell(self._sender._sender._not_attempted(element, line_of(error)))
                    raise
                self._undecided += 1
                mailbox.expect(future, self._arrive)
                await self._ahead.acquire()  # before the next one is taken, which is lost else
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self._is_exhausted = True
            self._changed.set()

    def _arrive(self, outcome: Outcome) -> bool:
        self._undecided -= 1
        self._tell([outcome])
        return True

    def _tell(self, outcomes: list[Outcome]) -> None:
        if self._is_stopped:
            self._sender._sender._set_aside(outcomes)
        else:
            self._told += outcomes
            self._changed.set()


class Mailbox:
    """Outcomes of single messages on their way to the tasks of one loop that wait for them.

    Attributes:
        loop: The loop.
        line: Held by the task whose message is next when the queue has room again.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, set_aside: Callable[[Iterable[Outcome]], None]
    ) -> None:
        self.loop = loop
        self.line: asyncio.Lock = asyncio.Lock()
        self._set_aside = set_aside
        self._arrived: deque[tuple[Outcome, Callable[[Outcome], bool]]] = deque()
        self._is_called = False

    def expect(self, future: "Future[Outcome]", receive: Callable[[Outcome], bool]) -> None:
        """Have `receive` called in the loop when a thread knows the outcome.

        Args:
            future: The outcome to be.
            receive: Tells whether anybody took it; if not, it is set aside.
        """
        future.add_done_callback(lambda future: self._arrive(future.result(), receive))

    async def wait_for(self, future: "Future[Outcome]") -> Outcome:
        """Wait for what a thread will know."""
        waiter: asyncio.Future[Outcome] = self.loop.create_future()

        def receive(outcome: Outcome) -> bool:
            if waiter.done():  # cancelled
                return False
            waiter.set_result(outcome)
            return True

        self.expect(future, receive)
        return await waiter

    def _arrive(self, outcome: Outcome, receive: Callable[[Outcome], bool]) -> None:
        self._arrived.append((outcome, receive))
        if self._is_called:
            return
        self._is_called = True
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop was closed
            self._deliver()

    def _deliver(self) -> None:
        # In this order: what arrives from here on either is seen below or calls again.
        self._is_called = False
        while self._arrived:
            outcome, receive = self._arrived.popleft()
            if self.loop.is_closed() or not receive(outcome):
                self._set_aside([outcome])
