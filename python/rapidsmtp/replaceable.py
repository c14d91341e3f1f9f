"""The modules in whose place programs and tests put others, looked up when they are needed.

Tests set `smtplib.socket` to a mock, and where rapidsmtp stands in for smtplib that is the package
itself; after `install` it is still smtplib. Who replaced neither gets the module that it is.
"""

import smtplib
import socket as _socket
import ssl as _ssl
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
