"""The socket and the file of a client; a program may replace both.

smtplib uses only `sendall`, `makefile` and `close` of a socket and `readline` of a file, so other
methods may be missing. rapidsmtp uses other methods only if it has checked the objects.
"""

import io
import select
import socket as _socket
import ssl
from collections.abc import Callable
from io import BufferedReader
from typing import Any

_SYSTEM_SOCKET = _socket.socket
_KNOWN_SOCKETS = (_SYSTEM_SOCKET, ssl.SSLSocket)
_POLL: Any = getattr(select, "poll", None)  # Windows has no `poll`.


def is_socket(sock: Any) -> bool:
    """Return whether an object is a socket, also if the program has replaced `socket.socket`.

    The replacement may be a function. The object may be older than the replacement.
    """
    current: Any = _socket.socket
    kinds = (_socket.SocketType, current if isinstance(current, type) else _socket.SocketType)
    return isinstance(sock, kinds)


def can_peek(sock: Any, file: Any) -> bool:
    """Return whether a client can read bytes that have arrived, without waiting for others.

    Args:
        sock: The socket of the client, or an object that the program uses instead of a socket.
        file: The file of the client, or None.
    """
    if not is_socket(sock) or sock.fileno() < 0:
        return False
    return type(file) is BufferedReader and not file.closed and _reads_from(file.raw, sock)


def _reads_from(raw: Any, sock: Any) -> bool:
    return type(raw) is _socket.SocketIO and raw._sock is sock  # type: ignore[attr-defined]


class EmptiedFile:
    """The file of a client, after the client has read all received bytes from this file.

    The client reads its next bytes from the socket, which is faster than a read from the file.

    Args:
        sock: The socket of the client.
        file: The file that `reading_file` returned for this socket.
    """

    __slots__ = ("_descriptor", "_poll", "file", "receive", "sock")

    def __init__(self, sock: Any, file: Any) -> None:
        self.sock = sock
        self.file = file
        self.receive: Callable[[int], bytes] | None = None
        if type(sock) in _KNOWN_SOCKETS and file.raw.readinto == sock.recv_into:
            self.receive = sock.recv
        self._descriptor = -1
        self._poll: Any = None

    def may_have_received(self) -> bool:
        """Return whether the socket may have received bytes, or the end of the stream.

        This function is faster than a read without waiting, which needs two changes of the time
        limit and an exception.
        """
        sock = self.sock
        is_plain = type(sock) is _SYSTEM_SOCKET
        if _POLL is None or not (is_plain or (type(sock) is ssl.SSLSocket and not sock.pending())):
            return True
        descriptor = sock.fileno()
        if descriptor < 0:  # The next operation on the socket reports that it is closed.
            return False
        if descriptor != self._descriptor:
            poll = _POLL()
            poll.register(descriptor, select.POLLIN)
            self._descriptor, self._poll = descriptor, poll.poll
        return bool(self._poll(0))

    def put_back(self, data: bytes) -> None:
        """Let the file return bytes that were read from the socket."""
        unread = io.BytesIO(data)
        receive_into = self.sock.recv_into

        def readinto(buffer: Any) -> int:
            size = unread.readinto(buffer)
            if unread.tell() == len(data):
                self.file.raw.readinto = receive_into
            return size

        self.file.raw.readinto = readinto


def reading_file(sock: Any) -> Any:
    """Return a buffered file that reads from a socket.

    Args:
        sock: A socket, or an object that a program uses instead of a socket.
    """
    file = sock.makefile("rb")
    if type(sock) in _KNOWN_SOCKETS and can_peek(sock, file):
        # SocketIO.readinto runs three checks in Python before each read. This assignment replaces
        # `readinto` with `recv_into`, which has no such checks. So a small message is sent 4 %
        # faster. The checks are not needed, because an error of the socket ends the connection with
        # or without them. A subclass or a wrapper of a socket may have no or another `recv_into`.
        file.raw.readinto = sock.recv_into
    return file


def has_buffered(file: BufferedReader) -> bool:
    """Return whether the buffer of a file contains bytes. Nothing is read from the socket."""
    raw: Any = file.raw
    own = vars(raw).get("readinto")
    raw.readinto = lambda _: None
    try:
        return bool(file.peek(1))
    finally:
        # A bound method in its own object would be a reference cycle: the object, and so the
        # socket, would stay alive without references.
        del raw.readinto
        if own is not None:
            raw.readinto = own
