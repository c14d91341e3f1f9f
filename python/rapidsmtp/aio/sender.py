"""`aio.Sender`: send many messages over a few connections, for asyncio.

A `rapidsmtp.Sender` sends the messages. A thread reads a synchronous iterable, so that a slow
iterable (a database cursor) does not block the event loop. A task reads an asynchronous iterable.
Each batch of outcomes wakes the event loop only once. If a task is cancelled or stops iterating, no
outcome is lost: the sender sends the submitted messages, and `close` reports their outcomes.
"""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from rapidsmtp._bulk.background import Trace
from rapidsmtp._bulk.sender import Sender as BlockingSender
from rapidsmtp._bulk.sender import check_iterable
from rapidsmtp._bulk.sender_core import GRACE
from rapidsmtp._models.outcome import Outcome
from rapidsmtp._models.relay_url import Password
from rapidsmtp._models.report import Report, Stats, collected
from rapidsmtp._models.settings import TLS, Backoff, OnUnknown, Pipelining, Timeouts
from rapidsmtp.aio.sender_core import AsyncSenderCore
from rapidsmtp.aio.streams import TaskStream, ThreadStream

if TYPE_CHECKING:
    from rapidsmtp._models.sendable import Sendable


class SenderSettings(TypedDict, total=False):
    """The keyword arguments of `rapidsmtp.Sender`, which the docstring of that class describes."""

    connections: int
    pipelining: Pipelining
    window: int
    rate: float | str | None
    max_messages_per_connection: int | None
    max_recipients: int
    max_attempts: int
    backoff: Backoff
    on_unknown: OnUnknown
    close_timeout: float | None
    timeouts: Timeouts
    tls: TLS
    local_hostname: str | None
    source_address: tuple[str, int] | None
    proxy: str | None
    password: Password | None
    allow_plaintext_auth: bool
    queue_size: int
    trace: Trace | None


class Sender:
    """An asynchronous context manager that sends many messages to one relay.

    Several tasks may share a `Sender`. Several event loops may use it, one after the other.

    Args:
        url: The relay's URL, as for `rapidsmtp.Sender`.
        **settings: The keyword arguments of `rapidsmtp.Sender`.

    Raises:
        ValueError: The URL or a setting is invalid.
        TypeError: A setting has the wrong type, or a keyword is unknown.
        OSError: A certificate cannot be read.
        RuntimeError: The program has replaced `socket.socket`, as for `rapidsmtp.Sender`.
    """

    def __init__(self, url: str, **settings: Unpack[SenderSettings]) -> None:
        self._core = AsyncSenderCore(BlockingSender(url, **settings))

    @property
    def relay(self) -> str:
        """The relay's name, without credentials."""
        return self._core.sender.relay

    def send(self, messages: "Iterable[Sendable] | AsyncIterable[Sendable]") -> "Outcomes":
        """Send messages and yield their outcomes as they become known, in any order.

        The iterable is read lazily: when `queue_size` messages have no outcome yet, reading waits
        for the next outcome. A synchronous iterable is read in a thread, an asynchronous iterable
        in the event loop.

        Args:
            messages: The argument of `rapidsmtp.Sender.send`, or an asynchronous iterable of the
                same elements.

        Yields:
            One outcome for each element. An element that is not a message has the outcome INVALID.

        Raises:
            RelayError: The relay cannot be reached or rejected the session. It is raised after the
                outcomes of the messages that were read.
            RuntimeError: The sender is closed.
            Exception: The exception that the iterable raised. It is raised after the outcomes of
                the messages that were read.
        """
        return self._outcomes(messages, "send")

    async def submit(self, message: "Sendable") -> Outcome:
        """Send one message and wait for its outcome.

        If the queue is full, this method first waits until the queue has capacity.

        If the task is cancelled after the message was submitted, the message is still sent and
        `close` reports its outcome.

        Args:
            message: The message, of a type that `send` accepts.

        Returns:
            The outcome.

        Raises:
            RelayError: The relay rejected the session, or could not be reached shortly before this
                call.
            RuntimeError: The sender is closed.
        """
        future = await self._core.submit(message)
        return await self._core.outcome_queue().wait_for(future)

    async def send_all(self, messages: "Iterable[Sendable] | AsyncIterable[Sendable]") -> Report:
        """Send messages and return a report when all outcomes are known.

        Args:
            messages: As for `send`.

        Returns:
            The counts, and the outcomes of messages that were not accepted. If the relay cannot be
            reached or rejects the session, the report's `error` is a RelayError.

        Raises:
            Exception: The exception that the iterable raised. The exception's attribute `report`
                covers the messages that were read before the exception.
            RuntimeError: The sender is closed.
        """
        outcomes = self._outcomes(messages, "send_all")
        async with contextlib.aclosing(outcomes):
            with collected() as report:
                while batch := await outcomes.batch():
                    report.add(batch)
        return report

    def stats(self) -> Stats:
        """Return the counters of the sender."""
        return self._core.sender.stats()

    async def close(self, timeout: float | None = None) -> Report:
        """Accept no more messages, wait for the submitted messages and close the connections.

        If the task is cancelled, closing continues in another thread.

        Args:
            timeout: The time limit, in seconds; None for `close_timeout`. The effect is that of
                `rapidsmtp.Sender.close`.

        Returns:
            A report of the outcomes that the program has not received. A second call returns the
            same report.
        """
        return await self._core.close(timeout)

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind in (None, GeneratorExit):
            self._core.core.warn_of_unsent(await self.close())
        else:
            await self.close(GRACE)

    def __repr__(self) -> str:
        return f"<aio.{repr(self._core.sender)[1:]}"

    def __reduce__(self) -> Any:
        return self._core.sender.__reduce__()

    def _outcomes(self, messages: Any, name: str) -> "Outcomes":
        self._core.core.check_open()
        if not isinstance(messages, AsyncIterable):
            check_iterable(messages, name)
        return Outcomes(self._core, messages)


class Outcomes(AsyncIterator[Outcome]):
    """The result of `Sender.send`: an asynchronous iterator that yields outcomes as they arrive.

    When the iterator is deleted, for example after a `break`, the sender reads no more messages. If
    a task is cancelled while it waits for an outcome, the program may continue the iteration later.
    """

    def __init__(self, sender: AsyncSenderCore, messages: Any) -> None:
        self._sender = sender
        self._messages = messages
        self._rest: Iterator[Outcome] = iter(())
        self._stream: ThreadStream | TaskStream | None = None
        self._is_over = self._is_closed = self._is_awaited = False
        sender.call_before_close(self._leave_to_close)

    async def __anext__(self) -> Outcome:
        while True:
            for outcome in self._rest:
                return outcome
            batch = await self.batch()
            if not batch:
                raise StopAsyncIteration
            self._rest = iter(batch)

    async def batch(self) -> list[Outcome]:
        """Wait for outcomes and return all that became known since the last call.

        Returns:
            One or more outcomes; an empty list after the last outcome.

        Raises:
            Exception: The exception that ended the sending. It is raised after the last outcome.
        """
        if self._is_closed:
            raise RuntimeError("the sender is closed")
        if self._is_over:
            return []
        if self._stream is None:
            kind = TaskStream if isinstance(self._messages, AsyncIterable) else ThreadStream
            self._stream = kind(self._sender, self._messages)
        self._is_awaited = True
        try:
            batch = await self._stream.next()
        finally:
            self._is_awaited = False
        if batch is not None:
            return batch
        self._stop()
        if self._stream.failure is not None:
            raise self._stream.failure
        return []

    async def aclose(self) -> None:
        """Stop reading messages.

        The messages that were read are sent, and `Sender.close` reports their outcomes.
        """
        self._stop()

    def _leave_to_close(self) -> None:
        """Let `Sender.close` report the outcomes, unless a task is waiting for them."""
        if not self._is_awaited and not self._is_over:
            self._is_closed = True
            self._stop()

    def _stop(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._sender.core.keep_for_close(self._rest)
        if self._stream is not None:
            self._stream.stop()

    def __del__(self) -> None:
        self._stop()
