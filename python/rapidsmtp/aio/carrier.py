"""A transaction carried out as its replies come in.

The next flight is written where the last reply to the one before is read, in the event loop's own
callback. So the task that sends a mail wakes up once a mail and not once a flight, which is a
tenth of the time of a small one.
"""

import asyncio
import sys
from typing import TYPE_CHECKING

from rapidsmtp import _core, delivery
from rapidsmtp.delivery import CLOSED

if TYPE_CHECKING:
    from rapidsmtp.aio.connection import Connection, Reader


class Carrier:
    """Carries out one transaction after the other over the same streams.

    Args:
        client: Who sends; for the audit event.
        reader: The stream that replies come from.
        writer: The stream that flights go to.
    """

    def __init__(
        self, client: "Connection", reader: "Reader", writer: asyncio.StreamWriter
    ) -> None:
        self._client = client
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._transaction: _core.Transaction | None = None
        self._waker: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    async def carry_out(
        self, transaction: "_core.Transaction", large: bytes | None, timeout: float | None
    ) -> str:
        """Write and read until there is a verdict.

        Args:
            transaction: The transaction.
            large: The message, where the transaction's body is not yet made ready for the wire.
            timeout: Seconds that each flight and each reply may take; None for no limit.

        Returns:
            How the connection was lost, if it was.
        """
        self._transaction, self._large, self._timeout = transaction, large, timeout
        self._is_over = self._is_late = False
        self._undrained: bytes | None = None
        self._reader.listener = self._receive
        try:
            self._fly()
            if self._reader.has_ended:  # before the first word
                self._receive(b"")
            self._arm()
            while not self._is_over:
                if self._undrained is None:
                    self._waker = self._loop.create_future()
                    await self._waker
                else:
                    await self._drain()
        except TimeoutError:
            self._is_late = True
        except ConnectionError:
            transaction.write_failed()
            self._break_off(transaction)
            return "Server not connected"
        finally:
            self._reader.listener = None
            self._transaction = self._waker = None
        if self._is_late:
            self._break_off(transaction)
            return f"{CLOSED}: timed out"
        return self._reader.how_it_ended()

    def _break_off(self, transaction: "_core.Transaction") -> None:
        """What was decided stands; what is left of a message must not be read as commands."""
        transaction.receive_eof()
        self._client.close()

    def end(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()

    def _fly(self) -> None:
        """Write the next flight, or be over."""
        transaction, transport = self._transaction, self._writer.transport
        assert transaction is not None
        flight = transaction.data_to_send()
        if not flight:
            self._finish()
            return
        if self._timeout is not None:
            self._deadline = self._loop.time() + self._timeout
        if flight is self._large:
            self._undrained = flight
        else:
            sys.audit("smtplib.send", self._client, flight)
            if self._client.debuglevel > 0:
                self._client._print_debug("send:", repr(flight))
            self._writer.write(flight)
            if transport.get_write_buffer_size():
                self._undrained = b""
        if self._undrained is not None:
            self._wake()

    async def _drain(self) -> None:
        """Wait until all is handed over: what was, nobody can take back."""
        large, self._undrained = self._undrained, None
        async with asyncio.timeout(self._timeout) as patience:
            for piece, _ in delivery.stuffed_pieces(large or b""):
                sys.audit("smtplib.send", self._client, piece)
                self._writer.write(piece)
                await self._writer.drain()
                if self._timeout is not None:
                    self._deadline = self._loop.time() + self._timeout
                    patience.reschedule(self._deadline)
            await self._writer.drain()

    def _receive(self, data: bytes) -> bytes:
        """Take what came; nothing is the connection's end.

        Returns:
            What no command awaited.
        """
        transaction = self._transaction
        assert transaction is not None
        if self._client.debuglevel > 0:
            self._client._print_debug("reply:", repr(data))
        if not data:
            transaction.receive_eof()
            self._finish()
        while data and transaction.awaiting:
            data = data[transaction.receive_data(data) :]
            if not transaction.awaiting:
                self._fly()
            elif self._timeout is not None:
                self._deadline = self._loop.time() + self._timeout
        return data

    def _finish(self) -> None:
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _arm(self) -> None:
        """See to it that somebody looks at the deadline: one timer serves many mails."""
        if self._timeout is None:
            return
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._transaction is None or self._timeout is None:
            return
        if self._loop.time() < self._deadline:
            self._arm()
        else:
            self._is_late = True
            self._finish()
