"""The connection of the asyncio client: streams, commands and replies, STARTTLS (RFC 3207).

The corresponding module of the blocking client is `rapidsmtp._smtp.connection`. `run_async` runs
the generators of `commands`. The protocol core parses the replies.
"""

import asyncio
import contextlib
import ssl
import sys
import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

from rapidsmtp import _backend
from rapidsmtp._models.reply import Reply
from rapidsmtp._smtp import results
from rapidsmtp._smtp.commands import Steps, T
from rapidsmtp._smtp.face import Face
from rapidsmtp._smtp.results import CLOSED, NOT_CONNECTED, TIMED_OUT
from rapidsmtp._smtp.state import ClientState
from rapidsmtp.aio.exceptions import (
    SMTPReadTimeoutError,
    SMTPServerDisconnected,
    convert,
    disconnected,
    network_error,
)
from rapidsmtp.aio.transport import TransactionRunner
from rapidsmtp.errors import (
    SMTPException,
    SMTPResponseException,
)

IN_OTHER_LOOP = "the client is in use in another event loop; use one client for each event loop"

MAX_READ = 16384
"""The maximum number of bytes in one read."""

# The time limit of the TLS shutdown, in seconds. After this time, the connection is aborted.
_SHUTDOWN_SECONDS = 1.0


async def run_async(steps: Steps[T]) -> T:
    """Run a generator of `commands` and await each awaitable that the generator yields."""
    try:
        step = next(steps)
        while True:
            try:
                done = await step if hasattr(step, "__await__") else step
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(done)
    except StopIteration as end:
        result: T = end.value
        return result


class TaskLock:
    """A reentrant lock for tasks: a task may acquire the lock again while it holds the lock.

    Each dialogue with the server holds the lock. So this class also changes smtplib's exceptions to
    those of `rapidsmtp.aio`.

    Args:
        leave_loop: A method that is called when a task of another event loop acquires the lock.

    Attributes:
        loop: The event loop of the last task that acquired the lock.
    """

    def __init__(self, leave_loop: Callable[[], None]) -> None:
        # The client has the lock, so a strong reference would form a cycle.
        self._leave_loop = weakref.WeakMethod(leave_loop)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._depth = 0

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            if self.loop is not None:
                if self._depth and self.loop.is_running():
                    raise RuntimeError(IN_OTHER_LOOP)
                if leave_loop := self._leave_loop():
                    leave_loop()
            # An `asyncio.Lock` belongs to one event loop.
            self.loop, self._lock = loop, asyncio.Lock()
            self._owner, self._depth = None, 0
        task = asyncio.current_task()
        if self._owner is not task or task is None:
            await self._lock.acquire()
            self._owner = task
        self._depth += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *args: object
    ) -> None:
        if error is not None:
            convert(error)
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()


class ConnectionReader(asyncio.StreamReader):
    """A stream that returns all received bytes before it reports an error of the connection.

    `asyncio.StreamReader` raises the error at once, so received bytes that were not read are lost.
    These bytes may be a reply that explains why the server closed the connection.

    Attributes:
        waiting: The number of bytes that were received and not yet read.
        has_ended: Whether asyncio has reported the end of the connection to this stream.
        failure: The error that ended the connection. None if there was no error.
        listener: A function that is called with received bytes, and with b"" at the end of the
            connection. It returns the bytes that it did not process, and the stream stores them.
            None means that the stream stores all bytes.
    """

    waiting: int = 0
    has_ended: bool = False
    failure: BaseException | None = None
    listener: Callable[[bytes], bytes] | None = None

    def feed_data(self, data: Any) -> None:
        if self.listener is not None:
            data = self.listener(data)
        if data:
            self.waiting += len(data)
            super().feed_data(data)

    def feed_eof(self) -> None:
        self.has_ended = True
        super().feed_eof()
        if self.listener is not None:
            self.listener(b"")

    def set_exception(self, exc: BaseException) -> None:
        self.failure = exc
        self.feed_eof()

    async def read(self, n: int = -1) -> bytes:
        data = await super().read(n)
        self.waiting -= len(data)
        return data

    def how_it_ended(self) -> str:
        """Return smtplib's error text for the end of the connection."""
        return CLOSED if self.failure is None else f"{CLOSED}: {self.failure}"


class _Closing:
    """The result of `close`: an awaitable that waits until the connection is closed.

    It is not a coroutine, because a caller may ignore the result of `close`, and asyncio warns
    about a coroutine that is never awaited.

    Args:
        writer: The stream of the connection; None if the client was not connected.
        loop: The event loop of the connection. In another event loop, the awaitable does not wait.
    """

    def __init__(
        self, writer: asyncio.StreamWriter | None, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self._writer = writer
        self._loop = loop

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if self._writer is not None and self._loop is asyncio.get_running_loop():
            with contextlib.suppress(OSError, ssl.SSLError):
                await self._writer.wait_closed()


class StreamConnection(ClientState):
    """The methods of `aio.SMTP` that open, close, write to and read from the connection."""

    helo_resp: bytes | None = None
    ehlo_resp: bytes | None = None
    debuglevel: int = 0
    timeout: float | None
    command_encoding: str
    _reader: ConnectionReader | None = None
    _writer: asyncio.StreamWriter | None = None
    # The TLS object or the socket of the connection.
    sock: Any = None
    # The received bytes that follow the last complete reply.
    _received = b""
    _runner: TransactionRunner
    _loop: asyncio.AbstractEventLoop | None = None
    _lock: TaskLock

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open.

        The value is also true if the connection is lost and the client has not detected the loss.
        It is false if the event loop of the connection is closed.
        """
        return (
            self._writer is not None
            and self._loop is not None
            and not self._loop.is_closed()
            and self._reader is not None
            and not self._writer.is_closing()
            and not self._reader.at_eof()
        )

    @property
    def _is_secure(self) -> bool:
        return self._writer is not None and bool(self._writer.get_extra_info("sslcontext"))

    async def _open(self, connect: Callable[..., Awaitable[tuple[Any, Any]]]) -> None:
        """Connect and create the streams.

        Args:
            connect: The function that connects. Its argument is a protocol factory, the first
                argument of `loop.create_connection`.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._reader = reader = ConnectionReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await connect(lambda: protocol)
        except BaseException:
            self._reader = None
            raise
        if hasattr(transport, "max_size"):
            # asyncio allocates `max_size` bytes for each read, by default 256 KiB. With the smaller
            # buffers of MAX_READ bytes, sending a message of 300 bytes is 8 % faster.
            transport.max_size = MAX_READ
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        # The cast is correct, because `self` is always an instance of the subclass `aio.SMTP`,
        # which has all members of `Face`.
        self._runner = TransactionRunner(cast(Face, self), reader, self._writer)
        self._after_handshake()

    async def _start_tls(self, context: ssl.SSLContext, name: str) -> None:
        assert self._writer is not None and self._reader is not None
        if self._has_unread:
            # RFC 3207 section 6: refuse bytes that arrive before the handshake, because an attacker
            # may have injected them. Otherwise the client would later read them as a reply that had
            # arrived through TLS.
            self.close()
            raise SMTPException("the server sent clear text after its reply to STARTTLS")
        try:
            async with asyncio.timeout(self.timeout):
                await self._handshake(context, name)
        except TimeoutError as error:
            self.close()
            raise SMTPReadTimeoutError("the TLS handshake timed out") from error
        except OSError as error:
            self.close()
            raise network_error(error, SMTPServerDisconnected) from error
        except BaseException:
            self.close()
            raise

    async def _begin_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Start TLS before the greeting, on a connection that a proxy has made."""
        if self._has_unread:
            raise SMTPException("the server sent clear text before TLS")
        await self._handshake(context, name)

    async def _handshake(self, context: ssl.SSLContext, name: str) -> None:
        assert self._writer is not None
        await self._writer.start_tls(context, server_hostname=name)
        self._after_handshake()

    def _after_handshake(self) -> None:
        assert self._writer is not None
        # With the limit 0, `drain` returns only after all bytes are written to the network. So an
        # exception of `drain` means that some bytes were not written.
        self._writer.transport.set_write_buffer_limits(high=0)
        tls = self._writer.get_extra_info("ssl_object")
        self.sock = tls or self._writer.get_extra_info("socket")

    def close(self) -> Awaitable[None]:
        """Close the connection without QUIT.

        Returns:
            An awaitable that waits until the connection is closed. The connection is also closed if
            the caller does not await it.
        """
        writer, self._writer, self._reader = self._writer, None, None
        self._received = b""
        self.sock = self._protocol.refused_on = None
        if writer is not None:
            self._runner.end()
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                if writer.get_extra_info("sslcontext") and self._loop is not None:
                    self._loop.call_later(_SHUTDOWN_SECONDS, writer.transport.abort)
                writer.close()
        return _Closing(writer, self._loop)

    def _leave_loop(self) -> None:
        """Close the connection, because it belongs to an event loop that is not in use any more.

        Raises:
            RuntimeError: The other event loop is running, in another thread.
        """
        if self.is_connected and self._loop is not None and self._loop.is_running():
            raise RuntimeError(IN_OTHER_LOOP)
        self.close()

    # Commands and replies

    async def send(self, s: Any) -> None:
        """Write bytes or a str, and wait until all bytes are written to the network.

        Args:
            s: The bytes, or a str. A str is encoded with `command_encoding`.

        Raises:
            SMTPServerDisconnected: The client is not connected, or the connection was lost.
        """
        if self.debuglevel > 0:
            self._print_sent(s)
        if isinstance(s, str):
            s = s.encode(self.command_encoding)
        sys.audit("smtplib.send", self, s)
        writer = self._writer
        if writer is None:
            raise disconnected(NOT_CONNECTED)
        try:
            async with asyncio.timeout(self.timeout):
                writer.write(s)
                await writer.drain()
        except OSError:
            self.close()
            raise disconnected("Server not connected") from None
        except BaseException:
            # Close the connection also if the task was cancelled, because a part of a command may
            # have been sent.
            self.close()
            raise

    async def putcmd(self, cmd: str, args: str = "") -> None:
        """Write a command.

        Raises:
            ValueError: The command contains a line end or another control character. Nothing was
                sent.
        """
        line = cmd if args == "" else f"{cmd} {args}"
        _backend.check_command(line)
        await self.send(line + "\r\n")

    async def getreply(self) -> Reply:
        """Read a reply, within `timeout` seconds.

        Returns:
            The code, and the text with its lines joined by LF. If the reply has no valid code,
            the code is -1 and the connection is closed.

        Raises:
            SMTPServerDisconnected: The connection was closed or lost, or the time limit passed.
            SMTPResponseException: The reply is too long.
        """
        try:
            async with asyncio.timeout(self.timeout):
                reply = await self._read_reply()
        except TimeoutError:
            self.close()
            raise disconnected(TIMED_OUT) from None
        except BaseException:
            # Close the connection also if the task was cancelled. On an open connection, the client
            # would read the late reply as the reply to the next command.
            self.close()
            raise
        if reply[0] == -1:
            self.close()
        if self.debuglevel > 0:
            self._print_debug(f"reply: retcode ({reply[0]}); Msg: {reply[1]!a}")
        return reply

    async def _read_reply(self) -> Reply:
        replies, reader = _backend.ReplyReader(), self._reader
        if reader is None:
            raise disconnected(NOT_CONNECTED)
        while True:
            data = self._received or await reader.read(MAX_READ)
            self._received = data[replies.receive_data(data, 1) :]
            if not data and reader.failure is None:
                replies.receive_eof()
            for reply in replies.events():
                return Reply(*reply)
            if replies.fault is not None:
                raise SMTPResponseException(500, replies.fault)
            if not data:
                raise disconnected(reader.how_it_ended())

    @property
    def _has_unread(self) -> bool:
        """Whether bytes were received that belong to no command."""
        return bool(self._received or (self._reader is not None and self._reader.waiting))

    async def _reject_unexpected_reply(self, *allowed: bytes) -> None:
        """Close the connection and raise an exception if a reply arrived before its command.

        On an open connection, the client would read this reply as the reply to the next command.

        Args:
            *allowed: The first bytes of replies that do not raise an exception.

        Raises:
            SMTPServerDisconnected: An unexpected reply arrived.
        """
        if not self._has_unread:
            return
        if not self._received and self._reader is not None:
            self._received = await self._reader.read(MAX_READ)
        received = self._received
        if not received.startswith(allowed):
            self.close()
            raise disconnected(results.unexpected_reply(received))

    async def docmd(self, cmd: str, args: str = "") -> Reply:
        """Write a command and read its reply."""
        async with self._lock:
            await self.putcmd(cmd, args)
            return await self.getreply()
