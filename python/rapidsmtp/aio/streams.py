"""The outcomes of one call of `aio.Sender.send`, batch by batch.

`ThreadStream` reads a synchronous iterable in a thread. `TaskStream` reads an asynchronous iterable
in a task. If the caller stops the iteration early, the outcomes that it has not received are kept.
`aio.Sender.close` returns them.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterable, Iterable
from typing import Any

from rapidsmtp._bulk.batching import drained
from rapidsmtp._models.outcome import Outcome, Status
from rapidsmtp.aio.outcomes import in_thread
from rapidsmtp.aio.sender_core import AsyncSenderCore
from rapidsmtp.errors import line_of

# The maximum number of batches that are ready and not yet returned by `next`. When this number is
# reached, the thread waits.
_MAX_READY = 2


class ThreadStream:
    """A thread that sends the messages of a synchronous iterable and collects their outcomes.

    Args:
        sender: The sender.
        messages: The messages, of the types that `Sender.send` accepts.

    Attributes:
        failure: The exception that ended the stream, or None.
    """

    def __init__(self, sender: AsyncSenderCore, messages: Iterable[Any]) -> None:
        self._sender = sender
        self._messages = messages
        self._loop = asyncio.get_running_loop()
        self._batches: deque[list[Outcome]] = deque()
        self._changed = threading.Condition()
        self._waiter: asyncio.Future[None] | None = None
        self._is_over = self._is_stopped = False
        self.failure: BaseException | None = None
        self._thread = in_thread(self._send)

    async def next(self) -> list[Outcome] | None:
        """Wait for the next batch and return it; return None at the end."""
        while True:
            with self._changed:
                if self._batches:
                    self._changed.notify()
                    return self._batches.popleft()
                if self._is_over:
                    return None
                self._waiter = self._loop.create_future()
            await self._waiter

    def stop(self) -> None:
        """Stop reading the iterable.

        The outcomes that `next` has not returned are kept. `aio.Sender.close` returns them.
        """
        with self._changed:
            self._is_stopped = True
            left = [outcome for batch in self._batches for outcome in batch]
            self._batches.clear()
            self._changed.notify()
        self._sender.core.keep_for_close(left)
        self._sender.add_ending_thread(self._thread)

    def _send(self) -> None:
        batches = self._sender.core.send_batches(self._messages)
        try:
            for batch in batches:
                self._hand_over(list(drained(batch)))
                if self._is_stopped:
                    break
        except BaseException as error:
            self.failure = error
        finally:
            batches.close()
            with self._changed:
                self._is_over = True
                self._wake()

    def _hand_over(self, batch: list[Outcome]) -> None:
        with self._changed:
            if not self._is_stopped:
                self._batches.append(batch)
                self._wake()
                self._changed.wait_for(lambda: self._is_stopped or len(self._batches) < _MAX_READY)
                return
        self._sender.core.keep_for_close(batch)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: no task is waiting
                self._loop.call_soon_threadsafe(_resolve, waiter)


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class TaskStream:
    """A task that submits the elements of an asynchronous iterable and collects their outcomes.

    The iterable may wait for hours before it yields the next element. Meanwhile, `next` returns the
    outcomes of earlier elements.

    Args:
        sender: The sender.
        messages: The messages, of the types that `Sender.send` accepts.

    Attributes:
        failure: The exception that ended the stream, or None.
    """

    def __init__(self, sender: AsyncSenderCore, messages: AsyncIterable[Any]) -> None:
        self._sender = sender
        self._messages = messages
        self._batch: list[Outcome] = []
        self._pending = 0
        self._changed = asyncio.Event()
        self._capacity = asyncio.Semaphore(sender.core.queue_size)
        self._is_exhausted = self._is_stopped = False
        self.failure: BaseException | None = None
        self._task = asyncio.create_task(self._submit_all())

    async def next(self) -> list[Outcome] | None:
        """Wait for the next batch and return it; return None at the end."""
        while not self._batch:
            if self._is_exhausted and not self._pending:
                return None
            self._changed.clear()
            await self._changed.wait()
        batch, self._batch = self._batch, []
        for outcome in batch:
            self._capacity.release()
            if outcome.status is Status.NOT_ATTEMPTED and self.failure is None:
                self.failure = self._sender.core.relay_error()
        if self.failure is not None:
            self._task.cancel()
        return batch

    def stop(self) -> None:
        """Stop reading the iterable.

        The outcomes that `next` has not returned are kept. `aio.Sender.close` returns them.
        """
        self._is_stopped = True
        self._task.cancel()
        self._sender.core.keep_for_close(self._batch)

    async def _submit_all(self) -> None:
        queue = self._sender.outcome_queue()
        try:
            await self._capacity.acquire()
            async for element in self._messages:
                try:
                    future = await self._sender.submit(element)
                except Exception as error:
                    # Each element that was read from the iterable must have an outcome, even if the
                    # sender rejected the element.
                    self._add(self._sender.core.not_attempted(element, line_of(error)))
                    raise
                self._pending += 1
                queue.add_receiver(future, self._receive)
                # Wait for capacity before reading the next element. If the task waited after
                # reading an element and was cancelled, this element would be lost.
                await self._capacity.acquire()
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self._is_exhausted = True
            self._changed.set()

    def _receive(self, outcome: Outcome) -> bool:
        self._pending -= 1
        self._add([outcome])
        return True

    def _add(self, outcomes: list[Outcome]) -> None:
        if self._is_stopped:
            self._sender.core.keep_for_close(outcomes)
        else:
            self._batch += outcomes
            self._changed.set()
