"""The modules `socket` and `ssl`, sockets and their files, or what a program put in their place.

A program that goes through a proxy, and many a test, sets `smtplib.socket` or `smtplib.ssl` to
something of its own. After `install()` that is still the module which it sees, while its code
runs here: to pass it by would connect past the proxy.
"""

import smtplib
import socket as _socket
import ssl as _ssl
from io import BufferedReader
from types import ModuleType
from typing import Any

import rapidsmtp as _package


def socket() -> Any:
    """`rapidsmtp.socket` where that was replaced, else `smtplib.socket`."""
    return _replaced("socket", _socket)


def ssl() -> Any:
    """`rapidsmtp.ssl` where that was replaced, else `smtplib.ssl`."""
    return _replaced("ssl", _ssl)


def _replaced(name: str, genuine: ModuleType) -> Any:
    ours = getattr(_package, name)
    return getattr(smtplib, name, ours) if ours is genuine else ours


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
