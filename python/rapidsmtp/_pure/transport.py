"""The byte stream of one connection: a non-blocking socket, and TLS in memory.

If the connection is lost, the relay may have delivered the message only if the last byte of the
message was sent. So `write` succeeds only if the kernel has accepted all bytes. TLS runs in memory
(`ssl.MemoryBIO`). `write` therefore passes the TLS records to the kernel itself, and can check that
the kernel has accepted them. The last record contains the last byte of the message. If the kernel
has accepted only a part of this record, the server cannot decrypt it.

The transport reads while it writes, for two reasons. First, the server can block while it writes
replies, and the client can block while it writes commands. If the client did not read in this case,
neither the client nor the server could continue. Second, a server may send a 421 and stop reading.
The client then has to read the 421 although the server does not read the remaining bytes of the
write.
"""

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable

from rapidsmtp._pure.tls import failure_text

BLOCK = 65536
"""The maximum number of bytes in one read, and in one conversion to TLS records."""

MAX_UNREAD = 1 << 20
"""The maximum number of received bytes that are not read yet. The replies to a flight are much
shorter. If the relay sends more, the connection ends."""

_SLICE = 3600.0
"""The maximum duration of one call of poll(), in seconds. A longer wait needs several calls,
because the argument of poll() is a 32-bit signed number of milliseconds."""

CLOSED = "the relay closed the connection"
EARLY = "the relay replied before it had received the whole message"


class ConnectionLost(Exception):
    """The error for a connection that was lost or can no longer be used. Its text is the reason."""


class Transport:
    """The byte stream of one connection.

    Args:
        sock: A connected socket.
        count: The function that is called after each write with the number of bytes that the
            kernel accepted.
    """

    def __init__(self, sock: socket.socket, count: Callable[[int], None]) -> None:
        sock.setblocking(False)
        # This option disables Nagle's algorithm. With the algorithm, the last segment of a message
        # would wait for the acknowledgement of the segment before it.
        _set_option(sock, "TCP_NODELAY")
        self._sock = sock
        self._count = count
        self._received = bytearray()
        self._end = ""
        self._host = ""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls: ssl.SSLObject | None = None

    # Reading

    def read(self, deadline: float) -> bytes:
        """Wait for bytes and return them.

        Args:
            deadline: The time of `time.monotonic` at which to stop waiting.

        Raises:
            ConnectionLost: The stream has ended.
            TimeoutError: No byte arrived in time.
        """
        while not self._received:
            if self._end:
                raise ConnectionLost(self._end)
            # Linux resets this option, so it is set before each wait. With the option, Linux
            # acknowledges a segment at once. Otherwise the relay's next segment can wait 40 ms for
            # this acknowledgement (Nagle's algorithm and delayed ACK).
            _set_option(self._sock, "TCP_QUICKACK")
            _wait(self._sock, deadline)
            self._receive()
        data = bytes(self._received)
        self._received.clear()
        return data

    def put_back(self, data: bytes) -> None:
        """Put back bytes that belong to no expected reply. The next `read` returns them."""
        self._received[:0] = data

    def unread(self) -> bytes:
        """Return the bytes that have arrived, without waiting. A later `read` returns them too."""
        self._receive()
        return bytes(self._received)

    def read_all(self) -> bytes:
        """Return all bytes that have arrived, without waiting; also after a lost connection."""
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
        """The reason why the stream has ended; empty while the stream is open."""
        return self._end

    def _receive(self) -> None:
        """Move bytes from the socket to the buffer, without waiting."""
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
            self._end = f"the relay sent more than {MAX_UNREAD} unexpected bytes"

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
            self._end = f"TLS with {self._host} failed: {failure_text(error)}"

    # Writing

    def write(self, data: bytes, seconds: float, *, expect_silence: bool = False) -> None:
        """Write all bytes to the kernel.

        Args:
            data: The bytes.
            seconds: The maximum time to wait until the kernel accepts more bytes, in seconds.
            expect_silence: Whether a reply before the last byte is an error. Set it for the content
                of a message, because the only reply to a message follows the terminator.

        Raises:
            ConnectionLost: The connection was lost before the kernel accepted the last byte.
            TimeoutError: The server did not read the bytes, so the kernel did not accept the last
                byte in time.
        """
        view = memoryview(data)
        for start in range(0, len(view), BLOCK):
            self._send(self._seal(view[start : start + BLOCK]), seconds, expect_silence)

    def _seal(self, data: memoryview) -> bytes | memoryview:
        if self.tls is None:
            return data
        try:
            while data:
                data = data[self.tls.write(data) :]
        except ssl.SSLError as error:
            text = f"TLS with {self._host} failed: {failure_text(error)}"
            raise ConnectionLost(text) from None
        return self._outgoing.read()

    def _send(self, data: bytes | memoryview, seconds: float, expect_silence: bool) -> None:
        view = memoryview(data)
        while True:
            try:
                sent = self._sock.send(view)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                raise ConnectionLost(error.strerror or str(error)) from None
            self._count(sent)
            view = view[sent:]
            if not view:
                return
            if not sent:
                _wait(self._sock, time.monotonic() + seconds, writing=True)
                self._receive()
            if self._end:
                raise ConnectionLost(self._end)
            if expect_silence and self._received:
                raise ConnectionLost(EARLY)

    # TLS

    def start_tls(
        self,
        context: ssl.SSLContext,
        host: str,
        name: str,
        deadline: float,
        session: ssl.SSLSession | None,
    ) -> None:
        """Start TLS on the connection.

        Args:
            context: The TLS settings.
            host: The server's name in error texts.
            name: The name that the server's certificate must contain.
            deadline: The time of `time.monotonic` at which to stop the handshake.
            session: An earlier session to resume, or None.

        Raises:
            ConnectionLost: The stream has ended.
            TimeoutError: The handshake did not finish before the deadline.
            ssl.SSLError: The handshake failed, or the certificate is not trusted.
        """
        self._host = host
        tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=name, session=session
        )
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._handshake_step(deadline)
            except ssl.SSLError:
                self._send_tls_end()
                raise
        self.tls = tls
        self._send(self._outgoing.read(), max(0.0, deadline - time.monotonic()), False)
        # Application data may have arrived together with the end of the handshake.
        self._decrypt(tls, b"")

    def _handshake_step(self, deadline: float) -> None:
        """Send the client's next bytes of the handshake, and read the server's next bytes."""
        self._send(self._outgoing.read(), max(0.0, deadline - time.monotonic()), False)
        data = self.read(deadline)
        self._incoming.write(data)

    def _send_tls_end(self) -> None:
        """Send the closing alert of TLS, if the kernel accepts it at once."""
        with contextlib.suppress(OSError):
            self._sock.send(self._outgoing.read())

    # The end

    def abort(self) -> None:
        """Shut down the socket, so that reads and writes of other threads fail."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. With TLS, send the closing alert first and wait for no reply."""
        if self.tls is not None:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self.tls.unwrap()
            self._send_tls_end()
        self._sock.close()


def _set_option(sock: socket.socket, name: str) -> None:
    """Enable a TCP option if the system and the socket support the option."""
    option = getattr(socket, name, None)
    if option is not None and sock.family != getattr(socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def _wait(sock: socket.socket, deadline: float, *, writing: bool = False) -> None:
    """Wait until the socket is readable. If `writing` is true, also return when it is writable.

    Raises:
        TimeoutError: The socket was not ready before `deadline`.
    """
    while (left := deadline - time.monotonic()) > 0:
        if _is_ready(sock, min(left, _SLICE), writing):
            return
    raise TimeoutError


def _is_ready(sock: socket.socket, seconds: float, writing: bool) -> bool:
    if hasattr(select, "poll"):  # select() does not support descriptors above 1023
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if writing else 0))
        return bool(poll.poll(seconds * 1000 + 1))
    reading, ready, _ = select.select([sock], [sock] if writing else [], [], seconds)
    return bool(reading or ready)
