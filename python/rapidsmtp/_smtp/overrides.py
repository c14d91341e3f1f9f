"""The modules `socket` and `ssl` that the drop-in uses; a program may replace them.

Programs that use a proxy, and many tests, set `smtplib.socket` or `smtplib.ssl` to another object.
After `install()`, the code of rapidsmtp runs instead of smtplib's, so rapidsmtp must use the
program's object. Otherwise it would connect without the proxy.
"""

import smtplib
import socket as _socket
import ssl as _ssl
from io import BufferedReader
from types import ModuleType
from typing import Any

import rapidsmtp as _package


def socket() -> Any:
    """Return `rapidsmtp.socket` if a program replaced it, else `smtplib.socket`."""
    return _current("socket", _socket)


def ssl() -> Any:
    """Return `rapidsmtp.ssl` if a program replaced it, else `smtplib.ssl`."""
    return _current("ssl", _ssl)


def _current(name: str, original: ModuleType) -> Any:
    module = getattr(_package, name)
    return getattr(smtplib, name, module) if module is original else module


def reading_file(sock: Any) -> Any:
    """Return a buffered file that reads from a socket.

    Args:
        sock: A socket, or an object that a program uses instead of a socket.
    """
    file = sock.makefile("rb")
    if type(file) is BufferedReader and type(file.raw) is _socket.SocketIO:
        # SocketIO.readinto runs three checks in Python before each read. This assignment replaces
        # `readinto` with `recv_into`, which has no such checks. So a small message is sent 4 %
        # faster. The checks are not needed, because an error of the socket ends the connection with
        # or without them.
        file.raw.readinto = sock.recv_into  # type: ignore[method-assign]
    return file
