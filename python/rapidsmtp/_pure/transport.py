"""The byte stream of one connection: a socket in non-blocking mode, with or without TLS.

If the connection is lost, the relay may have delivered a message only if the last byte of the
message was sent. So `write` returns only if the kernel has accepted all bytes. This is also true
with TLS: OpenSSL reports bytes as written when the kernel has accepted their whole record, and a
relay cannot decrypt a part of a record.
"""

import contextlib
import selectors
import socket
import ssl
import time

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.failure import ConnectionLost
from rapidsmtp._pure.tls import (
    certificate_name,
    check_certificate,
    failure_text,
    handshake_failure,
)

BLOCK = 65536  # bytes in one read and in one write
MAX_UNREAD = 1 << 20  # the maximum number of received bytes that are not used yet

CLOSED = "the relay closed the connection"
EARLY = "the relay replied before it had received the whole message"
NOT_READ = "the relay accepted no more bytes in time"

_NOT_READY = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport:
    """The byte stream of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # RFC 896: with Nagle's algorithm, the last segment of a message would wait for the
        # acknowledgement of the segment before it.
        _set_option(sock, "TCP_NODELAY")
        self._sock = sock
        self.received = bytearray()  # the caller removes the bytes that it has used
        self.sent = 0  # the number of bytes that the kernel accepted
        self.end = ""  # the reason why the stream has ended
        self.tls: ssl.SSLSocket | None = None
        self._host = ""
        self.descriptor = sock.fileno()
        # Looked up at each use, because eventlet removes `PollSelector`, which would block its hub.
        self._selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        self._selector.register(self.descriptor, selectors.EVENT_READ)

    def read(self, deadline: float, late: str) -> None:
        """Wait until more bytes are in `received`.

        Raises:
            ConnectionLost: The stream has ended, or no byte arrived before the time `deadline` of
                `time.monotonic`. The text is then `late`.
        """
        before = len(self.received)
        while self.receive() == before:
            if self.end:
                raise ConnectionLost(self.end)
            # Without this option, the relay's next segment can wait 40 ms for an acknowledgement.
            # Linux resets the option, so it is set before each wait.
            _set_option(self._sock, "TCP_QUICKACK")
            self._wait(deadline, selectors.EVENT_READ, late)

    def receive(self) -> int:
        """Add the bytes that have arrived to `received`, and return its new length."""
        while not self.end:
            try:
                data = self._sock.recv(BLOCK)
            except _NOT_READY:
                break
            except OSError as error:
                self.end = self._text_of(error)
                break
            self.received += data
            if not data:
                self.end = CLOSED
            elif len(self.received) > MAX_UNREAD:
                self.end = f"the relay sent more than {MAX_UNREAD} unexpected bytes"
        return len(self.received)

    def write(self, data: bytes, seconds: float, *, expect_silence: bool = False) -> None:
        """Write all bytes to the kernel, which must accept more of them in each `seconds` seconds.

        If `expect_silence` is true, a reply before the last byte is an error: the only reply to the
        content of a message follows its terminator.

        Raises:
            ConnectionLost: The kernel did not accept the last byte.
        """
        view = memoryview(data)
        while view:
            if self.end or (expect_silence and self.received):
                raise ConnectionLost(self.end or EARLY)
            try:
                count = self._sock.send(view[:BLOCK])
            except _NOT_READY:
                events = selectors.EVENT_READ | selectors.EVENT_WRITE
                self._wait(time.monotonic() + seconds, events, NOT_READ)
                # A relay may send a 421 and stop reading. So the 421 is read during the write.
                self.receive()
                continue
            except OSError as error:
                raise ConnectionLost(self._text_of(error)) from None
            self.sent += count
            view = view[count:]

    def start_tls(
        self, settings: EngineSettings, context: ssl.SSLContext, session: ssl.SSLSession | None
    ) -> None:
        """Start TLS on the connection. Resume the earlier TLS session if one is given.

        Raises:
            ConnectionFailure: The handshake failed, or the certificate is not trusted.
        """
        self._host = settings.host
        try:
            self._sock = self.tls = context.wrap_socket(
                self._sock,
                server_hostname=certificate_name(settings),
                session=session,
                do_handshake_on_connect=False,
            )
            self.tls.settimeout(settings.timeouts.tls)
            self.tls.do_handshake()
            self.tls.setblocking(False)
        except OSError as error:
            raise handshake_failure(settings, error) from None
        check_certificate(settings, self.tls, context)

    def abort(self, reason: str) -> None:
        """End the stream from another thread: its reads and writes fail with this reason."""
        self.end = reason
        with contextlib.suppress(OSError):
            # The method of `SSLSocket` would also remove the TLS layer, and the other thread could
            # then read the bytes of a record as a reply.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. With TLS, send the closing alert first and wait for no reply."""
        if self.tls is not None:
            with contextlib.suppress(OSError, ValueError):
                self.tls.unwrap()
        self._sock.close()

    def _text_of(self, error: OSError) -> str:
        prefix = f"TLS with {self._host} failed: " if isinstance(error, ssl.SSLError) else ""
        return prefix + failure_text(error)

    def _wait(self, deadline: float, events: int, late: str) -> None:
        self._selector.modify(self.descriptor, events)
        # The argument of poll() is a 32-bit signed number of milliseconds.
        while not self._selector.select(min(3600.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise ConnectionLost(late)


def _set_option(sock: socket.socket, name: str) -> None:
    option = getattr(socket, name, None)
    if option is not None and sock.family != getattr(socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)
