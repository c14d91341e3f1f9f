"""What programs and tests put others in the place of: modules, looked up when needed; sockets.

Tests set `smtplib.socket` to a mock, and where rapidsmtp stands in for smtplib that is the package
itself; after `install` it is still smtplib. Who replaced neither gets the module that it is.
"""

import smtplib
import socket as _socket
import ssl as _ssl
from io import BufferedReader
from typing import Any

import rapidsmtp

_USUAL: dict[str, Any] = {"socket": _socket, "ssl": _ssl}


def module(name: str) -> Any:
    """The module of that name as it is now.

    Args:
        name: `"socket"` or `"ssl"`.
    """
    ours = getattr(rapidsmtp, name)
    return ours if ours is not _USUAL[name] else getattr(smtplib, name)


def reading_file(sock: Any) -> Any:
    """The file through which replies are read, buffered.

    Args:
        sock: a socket, or what a program has put in its place.
    """
    file = sock.makefile("rb")
    if type(file) is BufferedReader and type(file.raw) is _socket.SocketIO:
        # SocketIO's own `readinto` asks Python three questions before each read; without them a
        # small mail is sent 4 % faster. An error of the socket ends the connection either way.
        file.raw.readinto = sock.recv_into  # type: ignore[method-assign]
    return file
