"""One connection's octets: a socket that never blocks, and TLS as a filter before it.

The truth about a lost mail hangs on one question: may the last octet of it have left? So what the
kernel took is counted here, and TLS goes through memory (`ssl.MemoryBIO`): a message's last record
is handed over when its last octet is, and half a record says nothing to anybody.

It reads while it writes, since a server that waits to write its replies must never meet a client
that waits to write its commands, and since one that sends 421 may read no more.
"""

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable

BLOCK = 65536
"""Octets that are read, or turned into TLS records, at once."""

MAX_UNREAD = 1 << 20
"""Octets that a server may send while it is written to: far more than the replies to a flight."""

_SLICE = 3600.0
"""Seconds of one wait: the system's own limit is a number of milliseconds in 31 bits."""

CLOSED = "the relay closed the connection"
EARLY = "the relay answered before it had the whole message"


class Lost(Exception):
    """The connection is gone, or of no more use; the text says why."""


class Wire:
    """The octets of one connection.

    Args:
        sock: a connected socket.
        count: told how many octets the kernel took, each time.
    """

    def __init__(self, sock: socket.socket, count: Callable[[int], None]) -> None:
        sock.setblocking(False)
        # The last piece of a message must not wait until the one before it is acknowledged.
        _set_option(sock, "TCP_NODELAY")
        self._sock = sock
        self._count = count
        self._received = bytearray()
        self._end = ""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls: ssl.SSLObject | None = None

    # Reading

    def read(self, deadline: float) -> bytes:
        """What has come, as soon as something has.

        Args:
            deadline: until when to wait, by `time.monotonic`.

        Raises:
            Lost: the stream has ended.
            TimeoutError: nothing came.
        """
        while not self._received:
            if self._end:
                raise Lost(self._end)
            # Linux forgets it again and again. Without it the relay's next segment can wait 40 ms
            # for an acknowledgement of the one before (Nagle meets the delayed ACK).
            _set_option(self._sock, "TCP_QUICKACK")
            _wait(self._sock, deadline)
            self._receive()
        data = bytes(self._received)
        self._received.clear()
        return data

    def put_back(self, data: bytes) -> None:
        """Let this be read again: it was not awaited yet."""
        self._received[:0] = data

    def unread(self) -> bytes:
        """What has come and nobody has read, without waiting."""
        self._receive()
        return bytes(self._received)

    def last_words(self) -> bytes:
        """Everything that has come, without waiting; what a lost connection still says."""
        while not self._end:
            before = len(self._received)
            self._receive()
            if len(self._received) == before:
                break
        data = bytes(self._received)
        self._received.clear()
        return data

    @property
    def end(self) -> str:
        """Why nothing more can come; empty while something can."""
        return self._end

    def _receive(self) -> None:
        """Take what has come off the socket."""
        if self._end:
            return
        try:
            data = self._sock.recv(BLOCK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end = error.strerror or str(error)
            return
        if not data:
            self._end = CLOSED
        elif self.tls is None:
            self._received += data
        else:
            self._decrypt(self.tls, data)
        if len(self._received) > MAX_UNREAD:
            self._end = "the relay sends without end"

    def _decrypt(self, tls: ssl.SSLObject, data: bytes) -> None:
        self._incoming.write(data)
        try:
            while piece := tls.read(BLOCK):
                self._received += piece
            self._end = CLOSED
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end = CLOSED
        except ssl.SSLError as error:
            self._end = f"TLS failed: {error.reason or error}"

    # Writing

    def write(self, data: bytes, seconds: float, *, silently: bool = False) -> None:
        """Hand octets to the kernel, all of them.

        Args:
            data: the octets.
            seconds: the time limit for each block of them.
            silently: whether nothing may come before the last of them has left: the replies to
                a message's commands may, the reply to the message may not.

        Raises:
            Lost: the last of them was not handed over.
            TimeoutError: likewise, because the server does not read.
        """
        view = memoryview(data)
        for start in range(0, len(view), BLOCK):
            self._send(self._seal(view[start : start + BLOCK]), seconds, silently)

    def _seal(self, data: memoryview) -> bytes | memoryview:
        if self.tls is None:
            return data
        try:
            while data:
                data = data[self.tls.write(data) :]
        except ssl.SSLError as error:
            raise Lost(f"TLS failed: {error.reason or error}") from None
        return self._outgoing.read()

    def _send(self, octets: bytes | memoryview, seconds: float, silently: bool) -> None:
        view = memoryview(octets)
        while True:
            try:
                sent = self._sock.send(view)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                raise Lost(error.strerror or str(error)) from None
            self._count(sent)
            view = view[sent:]
            if not view:
                return
            if not sent:
                _wait(self._sock, time.monotonic() + seconds, writing=True)
                self._receive()
            if self._end:
                raise Lost(self._end)
            if silently and self._received:
                raise Lost(EARLY)

    # TLS

    def start_tls(
        self,
        context: ssl.SSLContext,
        name: str,
        deadline: float,
        session: ssl.SSLSession | None,
    ) -> None:
        """Turn to TLS.

        Args:
            context: its settings.
            name: the server's name.
            deadline: until when the handshake must be over.
            session: an earlier one, to be resumed.

        Raises:
            Lost: the stream has ended.
            TimeoutError: it took too long.
            ssl.SSLError: there is no agreement, or no trust.
        """
        tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=name, session=session
        )
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._shake(deadline)
            except ssl.SSLError:
                self._tell_the_end()
                raise
        # What came behind the handshake is the first that is read through it.
        self.tls = tls
        self._send(self._outgoing.read(), max(0.0, deadline - time.monotonic()), False)
        self._decrypt(tls, b"")

    def _shake(self, deadline: float) -> None:
        """One step of the handshake: what we have to say, then what the server says."""
        self._send(self._outgoing.read(), max(0.0, deadline - time.monotonic()), False)
        data = self.read(deadline)
        self._incoming.write(data)

    def _tell_the_end(self) -> None:
        """Send what TLS has to say at its end, if the kernel takes it at once."""
        with contextlib.suppress(OSError):
            self._sock.send(self._outgoing.read())

    # The end

    def cut(self) -> None:
        """End the reading and writing of another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; TLS says its goodbye, which nobody waits for."""
        if self.tls is not None:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self.tls.unwrap()
            self._tell_the_end()
        self._sock.close()


def _set_option(sock: socket.socket, name: str) -> None:
    """Turn on an option of TCP where this system and this socket have it."""
    option = getattr(socket, name, None)
    if option is not None and sock.family != getattr(socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def _wait(sock: socket.socket, deadline: float, *, writing: bool = False) -> None:
    """Wait until something has come, or, while writing, until something more is taken.

    Raises:
        TimeoutError: neither happened.
    """
    while (left := deadline - time.monotonic()) > 0:
        if _is_ready(sock, min(left, _SLICE), writing):
            return
    raise TimeoutError


def _is_ready(sock: socket.socket, seconds: float, writing: bool) -> bool:
    if hasattr(select, "poll"):  # select() knows descriptors up to 1023 only
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if writing else 0))
        return bool(poll.poll(seconds * 1000 + 1))
    reading, ready, _ = select.select([sock], [sock] if writing else [], [], seconds)
    return bool(reading or ready)
