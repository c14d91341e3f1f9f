"""This host's domain for EHLO (RFC 5321 section 4.1.4), for the engines of both backends.

The system's resolver can block for minutes. So the look-up runs in a thread, and an engine waits
for its result for `LOOKUP_SECONDS` at most. After that, the engine continues without a domain. The
result of a successful look-up is kept for all later connections. The drop-in classes look up the
domain as smtplib does, without a time limit.
"""

import contextlib
import socket
import threading

LOOKUP_SECONDS = 2.0
"""The maximum time that an engine waits for the look-up, in seconds."""

_found: list[str] = []


def domain_of_this_host() -> str:
    """Return this host's domain; empty if the look-up found none or exceeded its time limit."""
    if not _found:
        lookup = threading.Thread(target=_look_up, daemon=True)
        # From Python 3.12 on, no thread can be started while the interpreter exits. In that case,
        # the domain stays unknown, and this function returns an empty text.
        with contextlib.suppress(RuntimeError):
            lookup.start()
            lookup.join(LOOKUP_SECONDS)
    return _found[0] if _found else ""


def _look_up() -> None:
    try:
        name = socket.getfqdn()
    except UnicodeError:  # the name of this host cannot be encoded or decoded
        return
    if "." in name and name.isascii() and name.isprintable() and " " not in name:
        _found.append(name)


def address_literal(sock: socket.socket) -> str:
    """Return this host's address as a literal for EHLO (RFC 5321 section 4.1.3)."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return "[127.0.0.1]"  # a Unix socket has no address
    host = name[0].partition("%")[0]
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"
