"""The bulk face for asyncio: `rapidsmtp.Sender` with `await`.

All of it is done by a `rapidsmtp.Sender`. A synchronous iterable is advanced in a thread of its
own, so that a slow one (a database cursor) does not stop the event loop; an asynchronous one in
the loop. The loop is woken once for a batch of outcomes. Whoever is cancelled, or stops asking,
loses nothing: what there was room for is sent, and `close` tells what has become of all of it.
"""

import asyncio
import contextlib
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
)
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypedDict, Unpack

from rapidsmtp.aio.sources import Mailbox, Post, Stream, in_thread
from rapidsmtp.keeper import Trace
from rapidsmtp.outcome import Outcome
from rapidsmtp.relay import Password
from rapidsmtp.report import Report, Stats, collected
from rapidsmtp.sender import GRACE, check_iterable
from rapidsmtp.sender import Sender as BlockingSender
from rapidsmtp.settings import TLS, Backoff, Timeouts


class Settings(TypedDict, total=False):
    """What `rapidsmtp.Sender` takes beside its URL; see there."""

    connections: int
    pipelining: str
    window: int
    rate: float | str | None
    max_messages_per_connection: int | None
    max_recipients: int
    max_attempts: int
    backoff: Backoff
    on_unknown: str
    timeouts: Timeouts
    tls: TLS
    local_hostname: str | None
    source_address: tuple[str, int] | None
    password: Password | None
    allow_plaintext_auth: bool
    queue_size: int
    trace: Trace | None


class Sender:
    """Sends many messages to one relay; an asynchronous context manager.

    Tasks may share it. Event loops may use it one after the other.

    Args:
        url: The relay, as for `rapidsmtp.Sender`.
        **settings: Those of `rapidsmtp.Sender`.

    Raises:
        ValueError: The URL or a setting is wrong.
        TypeError: A setting has the wrong type, or there is none of that name.
        OSError: A certificate cannot be read.
    """

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        self._sender = BlockingSender(url, **settings)
        self._last_mailbox: Mailbox | None = None
        self._open: weakref.WeakSet[Outcomes] = weakref.WeakSet()
        self._leaving: list[Future[None]] = []

    @property
    def relay(self) -> str:
        """The relay's name, without credentials."""
        return self._sender.relay

    def send(self, messages: Iterable[Any] | AsyncIterable[Any]) -> "Outcomes":
        """Send messages; outcomes as they are known, in any order.

        The iterable is taken lazily, no more than `queue_size` messages ahead of the outcomes: a
        synchronous one in a thread of its own, an asynchronous one in the event loop.

        Args:
            messages: What `rapidsmtp.Sender.send` takes, or an asynchronous iterable of it.

        Yields:
            One outcome for each element, INVALID for one that is none of these.

        Raises:
            RelayError: The relay cannot be reached or will not have us; after the outcomes of
                what was taken. What the iterable raises comes out the same way.
            RuntimeError: The sender is closed.
        """
        return self._outcomes(messages, "send")

    async def submit(self, message: Any) -> Outcome:
        """Send one message, and wait for its outcome; waits too while the queue is full.

        Whoever is cancelled leaves the message to `close`, which tells what has become of it.

        Args:
            message: As an element of what `send` takes.

        Raises:
            RelayError: The relay could not be reached a moment ago, or will not have us.
            RuntimeError: The sender is closed.
        """
        future = await self._submit(message)
        return await self._mailbox().wait_for(future)

    async def _submit(self, message: Any) -> "Future[Outcome]":
        line = self._mailbox().line
        future = None if line.locked() else self._sender._submit(message, wait=False)
        if future is not None:
            return future
        try:
            await line.acquire()  # the queue is full
        except asyncio.CancelledError:
            told = self._sender._not_attempted(message, "cancelled before there was room for it")
            self._sender._set_aside(told)
            raise
        try:
            return await self._submit_in_turn(message)
        finally:
            line.release()

    def _mailbox(self) -> "Mailbox":
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._last_mailbox is None or self._last_mailbox.loop is not loop:
            self._last_mailbox = Mailbox(loop, self._sender._set_aside)
        return self._last_mailbox

    async def _submit_in_turn(self, message: Any) -> "Future[Outcome]":
        waiting = in_thread(lambda: self._sender.submit(message))
        try:
            return await asyncio.wrap_future(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._set_aside_later)
            raise

    def _set_aside_later(self, waiting: "Future[Future[Outcome]]") -> None:
        if waiting.exception() is None:
            waiting.result().add_done_callback(
                lambda future: self._sender._set_aside([future.result()])
            )

    async def send_all(self, messages: Iterable[Any] | AsyncIterable[Any]) -> Report:
        """Send messages, and report when all are done.

        Args:
            messages: As for `send`.

        Returns:
            Counts, and the outcomes of those that were not accepted. A relay that will not have
            us is its `error`.

        Raises:
            Exception: What the iterable raises; its attribute `report` has the report so far.
            RuntimeError: The sender is closed.
        """
        outcomes = self._outcomes(messages, "send_all")
        async with contextlib.aclosing(outcomes):
            with collected() as report:
                while told := await outcomes.batch():
                    report.add(told)
        return report

    def stats(self) -> Stats:
        """What was done so far, and what is being done."""
        return self._sender.stats()

    async def close(self, timeout: float | None = None) -> Report:
        """Take no more messages, wait for those that were taken, and end the connections.

        Whoever is cancelled in it leaves the closing to go on.

        Args:
            timeout: Seconds to wait. After them what was not begun is NOT_ATTEMPTED, and what is
                under way is given a moment for its replies. None for no limit.

        Returns:
            What has become of the messages whose outcomes nobody took.
        """
        for outcomes in list(self._open):
            outcomes._sender_closes()
        leaving = [asyncio.wrap_future(each) for each in self._leaving if not each.done()]
        if leaving:  # what they have taken is to be sent, not to be given up
            await asyncio.wait(leaving, timeout=timeout)
        return await asyncio.wrap_future(in_thread(lambda: self._sender.close(timeout)))

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(None if kind in (None, GeneratorExit) else GRACE)

    def __repr__(self) -> str:
        return f"<aio.{repr(self._sender)[1:]}"

    def __reduce__(self) -> Any:
        return self._sender.__reduce__()

    def _outcomes(self, messages: Any, name: str) -> "Outcomes":
        self._sender._check_open()
        if not isinstance(messages, AsyncIterable):
            check_iterable(messages, name)
        outcomes = Outcomes(self, messages)
        self._open.add(outcomes)
        return outcomes

    def _left(self, work: "Future[None]") -> None:
        """Nobody asks for what this thread would tell; it is about to end."""
        self._leaving = [each for each in (*self._leaving, work) if not each.done()]


class Outcomes(AsyncIterator[Outcome]):
    """What `Sender.send` gives: outcomes as they are known.

    Whoever lets go of it, by `break` say, stops the taking. Whoever is cancelled while waiting may
    go on with it later.
    """

    def __init__(self, sender: Sender, messages: Any) -> None:
        self._sender = sender
        self._messages = messages
        self._rest: Iterator[Outcome] = iter(())
        self._source: Post | Stream | None = None
        self._is_over = self._is_closed = self._is_awaited = False

    async def __anext__(self) -> Outcome:
        while True:
            for outcome in self._rest:
                return outcome
            told = await self.batch()
            if not told:
                raise StopAsyncIteration
            self._rest = iter(told)

    async def batch(self) -> list[Outcome]:
        """The outcomes that have become known since, at least one; none at the end.

        Raises:
            Exception: What the sending ended with, once all outcomes were given.
        """
        if self._is_closed:
            raise RuntimeError("the sender is closed")
        if self._is_over:
            return []
        if self._source is None:
            kind = Stream if isinstance(self._messages, AsyncIterable) else Post
            self._source = kind(self._sender, self._messages)
        self._is_awaited = True
        try:
            told = await self._source.next()
        finally:
            self._is_awaited = False
        if told is not None:
            return told
        self._stop()
        if self._source.failure is not None:
            raise self._source.failure
        return []

    async def aclose(self) -> None:
        """Take no more; `Sender.close` tells what becomes of what was taken."""
        self._stop()

    def _sender_closes(self) -> None:
        """What nobody is waiting for is told by `Sender.close`."""
        if not self._is_awaited and not self._is_over:
            self._is_closed = True
            self._stop()

    def _stop(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._sender._sender._set_aside(self._rest)
        if self._source is not None:
            self._source.stop()

    def __del__(self) -> None:
        self._stop()
