"""The connection of the asyncio face: streams, lines out and replies in, TLS (RFC 3207).

It is `rapidsmtp.connection` with `await`. What is said over it is in `dialogue`, whose steps
`walk` takes; which bytes belong to which reply is the core's to know.
"""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from rapidsmtp import _core
from rapidsmtp.aio.carrier import Carrier
from rapidsmtp.delivery import CLOSED, NOT_CONNECTED
from rapidsmtp.dialogue import State, Steps, T
from rapidsmtp.errors import (
    SMTPException,
    SMTPResponseException,
    SMTPServerDisconnected,
)

READ = 16384
"""Octets to read at most at once."""

# A TLS connection's end is given so long, in seconds, until it is cut off.
_END = 1.0


async def walk(steps: Steps[T]) -> T:
    """Take steps, and await those that are not done when they are yielded."""
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


class Turn:
    """One task at a time talks to the server; its own calls inside of its turn belong to it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._depth = 0

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if self._owner is not task or task is None:
            await self._lock.acquire()
            self._owner = task
        self._depth += 1

    async def __aexit__(self, *args: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()


class Reader(asyncio.StreamReader):
    """A stream that gives all that came before the connection broke, and then its end.

    The reply that explains why a server hung up must not be lost behind the hanging up.

    Attributes:
        waiting: Octets that came and were not read.
        has_ended: Whether nothing more will come.
        failure: How the connection broke, if it did.
        listener: Is given what comes, and nothing for the end, in the place of whoever reads;
            gives back what is to be left here.
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
        """What smtplib says of it."""
        return CLOSED if self.failure is None else f"{CLOSED}: {self.failure}"


class _Ending:
    """May be awaited for the end of a connection that was closed, and need not be."""

    def __init__(self, writer: asyncio.StreamWriter | None) -> None:
        self._writer = writer

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError, ssl.SSLError):
                await self._writer.wait_closed()


class Connection(State):
    """The methods of `aio.SMTP` that open, close, write and read."""

    timeout: float | None
    command_encoding: str
    _reader: Reader | None = None
    _writer: asyncio.StreamWriter | None = None
    # The TLS object or the socket of the connection.
    sock: Any = None
    # What came behind the last reply that was read.
    _received = b""
    _carrier: Carrier
    _loop: asyncio.AbstractEventLoop
    _turn: Turn

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return (
            self._writer is not None
            and self._reader is not None
            and not self._writer.is_closing()
            and not self._reader.at_eof()
        )

    @property
    def _is_secure(self) -> bool:
        return self._writer is not None and bool(self._writer.get_extra_info("sslcontext"))

    async def _open(self, connect: Callable[..., Awaitable[tuple[Any, Any]]]) -> None:
        """Make the streams.

        Args:
            connect: Makes the connection for a factory of protocols.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._reader = reader = Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await connect(lambda: protocol)
        except BaseException:
            self._reader = None
            raise
        if hasattr(transport, "max_size"):
            # asyncio allots 256 KiB for each read; a mail of 300 bytes is 8 % faster without it.
            transport.max_size = READ
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._carrier = Carrier(self, reader, self._writer)
        self._take_note()

    async def _start_tls(self, context: ssl.SSLContext, name: str) -> None:
        assert self._writer is not None and self._reader is not None
        if self._received or self._reader.waiting:
            # It would be read as if it had come through TLS.
            self.close()
            raise SMTPException("the server sent clear text behind its reply to STARTTLS")
        try:
            async with asyncio.timeout(self.timeout):
                await self._writer.start_tls(context, server_hostname=name)
        except BaseException:
            self.close()
            raise
        self._take_note()

    def _take_note(self) -> None:
        assert self._writer is not None
        # `drain` shall wait until all is handed over: what was, nobody can take back.
        self._writer.transport.set_write_buffer_limits(high=0)
        tls = self._writer.get_extra_info("ssl_object")
        self.sock = tls or self._writer.get_extra_info("socket")

    def close(self) -> Awaitable[None]:
        """Close the connection, without a word to the server.

        Returns:
            What may be awaited until it is closed; it is being closed all the same.
        """
        writer, self._writer, self._reader = self._writer, None, None
        self._received = b""
        self.sock = self._refused_on = None
        if writer is not None:
            self._carrier.end()
            with contextlib.suppress(RuntimeError):  # of an event loop that is closed
                if writer.get_extra_info("sslcontext"):
                    self._loop.call_later(_END, writer.transport.abort)
                writer.close()
        return _Ending(writer)

    # Commands and replies

    async def send(self, s: Any) -> None:
        """Write a text, in `command_encoding`, or bytes, and wait until it is handed over.

        Raises:
            SMTPServerDisconnected: There is no connection, or no longer.
        """
        if self.debuglevel > 0:
            self._print_sent(s)
        if isinstance(s, str):
            s = s.encode(self.command_encoding)
        sys.audit("smtplib.send", self, s)
        writer = self._writer
        if writer is None:
            raise SMTPServerDisconnected(NOT_CONNECTED)
        try:
            async with asyncio.timeout(self.timeout):
                writer.write(s)
                await writer.drain()
        except OSError:
            self.close()
            raise SMTPServerDisconnected("Server not connected") from None
        except BaseException:  # cancelled: half a command may have gone out
            self.close()
            raise

    async def putcmd(self, cmd: str, args: str = "") -> None:
        """Write a command.

        Raises:
            ValueError: It holds a line end or another control character; nothing was sent.
        """
        line = cmd if args == "" else f"{cmd} {args}"
        _core.check_command(line)
        await self.send(line + "\r\n")

    async def getreply(self) -> tuple[int, bytes]:
        """Read a reply, within `timeout` seconds.

        Returns:
            The code, -1 where it could not be read, after which the connection is closed; and
            the text, its lines joined by LF.

        Raises:
            SMTPServerDisconnected: The connection has ended, or the reply took too long.
            SMTPResponseException: The reply is longer than any that is taken.
        """
        try:
            async with asyncio.timeout(self.timeout):
                reply = await self._read_reply()
        except TimeoutError:
            self.close()
            raise SMTPServerDisconnected(f"{CLOSED}: timed out") from None
        except BaseException:  # cancelled too: the reply would be taken for another command's
            self.close()
            raise
        if reply[0] == -1:
            self.close()
        if self.debuglevel > 0:
            self._print_debug(f"reply: retcode ({reply[0]}); Msg: {reply[1]!a}")
        return reply

    async def _read_reply(self) -> tuple[int, bytes]:
        replies, reader = _core.ReplyReader(), self._reader
        if reader is None:
            raise SMTPServerDisconnected(NOT_CONNECTED)
        while True:
            data = self._received or await reader.read(READ)
            self._received = data[replies.receive_data(data, 1) :]
            if not data:
                replies.receive_eof()
            for reply in replies.events():
                return reply
            if replies.fault is not None:
                raise SMTPResponseException(500, replies.fault)
            if not data:
                raise SMTPServerDisconnected(reader.how_it_ended())

    async def docmd(self, cmd: str, args: str = "") -> tuple[int, bytes]:
        """Write a command and read its reply."""
        async with self._turn:
            await self.putcmd(cmd, args)
            return await self.getreply()
