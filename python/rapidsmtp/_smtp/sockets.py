"""The socket and the file of a client; a program may replace both.

smtplib uses only `sendall`, `makefile` and `close` of a socket and `readline` of a file, so other
methods may be missing. rapidsmtp uses other methods only if the socket and the file are those of
the standard library, or those of gevent and eventlet, which behave in the same way.
"""

import functools
import socket as _socket
from io import BufferedReader
from types import MethodDescriptorType
from typing import Any

_TRUSTED = ("_socket", "socket", "ssl", "gevent", "eventlet")
_ABSENT: Any = object()
_SYSTEM_SOCKET = _socket.socket


def is_socket(sock: Any) -> bool:
    """Return whether an object is a socket, also if the program has replaced `socket.socket`.

    The replacement may be a function. The object may be older than the replacement.
    """
    current: Any = _socket.socket
    kinds = (_socket.SocketType, current if isinstance(current, type) else _socket.SocketType)
    return isinstance(sock, kinds)


def is_plain(sock: Any, file: Any) -> bool:
    """Return whether a client may use methods that smtplib does not use, and pipelining.

    Args:
        sock: The socket of a client, or another object.
        file: The file from which the client reads; None before the first reply.
    """
    if file is not None:
        raw = file.raw if type(file) is BufferedReader else None
        if type(raw) is not _socket.SocketIO or raw._sock is not sock:  # type: ignore[attr-defined]
            return False
    cls: Any = type(sock)
    if cls is _SYSTEM_SOCKET:  # an object of this class has no attributes of its own
        return _is_plain_class(cls)
    attributes = getattr(sock, "__dict__", {})
    return is_socket(sock) and _is_plain_class(cls) and _METHODS.isdisjoint(attributes)


_METHODS = frozenset(("sendall", "recv_into", "makefile"))


@functools.lru_cache(maxsize=64)
def _is_plain_class(cls: type) -> bool:
    return "__getattribute__" not in _names_of_program(cls) and all(
        _is_trusted(_entry(cls, name)) for name in _METHODS
    )


def _names_of_program(cls: type) -> set[str]:
    return {
        name for each in cls.__mro__[:-1] if not _has_trusted_module(each) for name in vars(each)
    }


def _entry(cls: type, name: str) -> Any:
    return next((vars(each)[name] for each in cls.__mro__ if name in vars(each)), _ABSENT)


def _is_trusted(entry: Any) -> bool:
    if isinstance(entry, MethodDescriptorType):
        return _has_trusted_module(entry.__objclass__)
    return _has_trusted_module(entry) and not hasattr(entry, "__wrapped__")


def _has_trusted_module(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in _TRUSTED


def reading_file(sock: Any) -> Any:
    """Return a buffered file that reads from a socket.

    Args:
        sock: A socket, or an object that a program uses instead of a socket.
    """
    file = sock.makefile("rb")
    if type(sock) is _SYSTEM_SOCKET and is_plain(sock, file):
        # SocketIO.readinto runs three checks in Python before each read. This assignment replaces
        # `readinto` with `recv_into`, which has no such checks. So a small message is sent 4 %
        # faster. The checks are not needed, because an error of the socket ends the connection with
        # or without them.
        file.raw.readinto = sock.recv_into
    return file
