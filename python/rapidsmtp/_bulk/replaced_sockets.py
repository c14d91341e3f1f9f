"""The check for replaced functions and classes of the module `socket`.

A program can send all its connections through a proxy by replacing `socket.socket`,
`socket.create_connection` or `socket.getaddrinfo`, for example with PySocks. Other programs replace
them to block connections in tests. The compiled engine makes its connections in Rust and uses none
of the replacements, so mail would leave without the proxy. The pure-Python engine and asyncio's
event loops use some of them. The drop-in uses all of them.
"""

import _socket
import socket

from rapidsmtp import _backend

# gevent and eventlet replace the names so that a waiting socket does not block other green threads.
# Sentry measures the time of connections. They change no destination.
_HARMLESS = ("gevent", "eventlet", "sentry_sdk")

_CURES = 'write proxy="socks5://host:port" for a proxy, proxy="direct" to connect directly, or '


def check_sockets() -> None:
    """Check that the engine makes its connections as the program has arranged it.

    Raises:
        RuntimeError: The program has replaced a name of the module `socket`, and the engine would
            not use the replacement.
    """
    if _backend.implementation == "rust":
        cure = "set RAPIDSMTP_CORE=python to use the replacement"
        _check(("socket", "getaddrinfo"), "the compiled engine", cure)
    cure = "use the drop-in rapidsmtp.SMTP, which uses the replacement"
    _check(("create_connection",), "the engine", cure)


def check_event_loop(name: str, is_asyncio: bool) -> None:
    """Check that an event loop makes its connections as the program has arranged it.

    Args:
        name: The class of the event loop, for the error text.
        is_asyncio: Whether it is an event loop of asyncio itself. Other event loops, such as
            uvloop, make their connections in C.

    Raises:
        RuntimeError: The program has replaced a name of the module `socket`, and the event loop
            would not use the replacement.
    """
    cure = "use the drop-in rapidsmtp.SMTP, which uses the replacement"
    _check(("create_connection",), "asyncio", cure)
    if not is_asyncio:
        _check(("socket", "getaddrinfo"), f"the event loop {name}", "use asyncio's own event loop")
    elif "socks" in {each.__module__ for each in getattr(socket.socket, "__mro__", ())}:
        # PySocks does not support non-blocking sockets: each connection would end in a timeout.
        _check(("socket",), "asyncio", cure)


def _check(names: tuple[str, ...], user: str, cure: str) -> None:
    for name in names:
        if replacement := _replacement(name):
            raise RuntimeError(
                f"the program has replaced socket.{name} with {replacement}, which {user} does not "
                f"use: {_CURES}{cure}"
            )


def _replacement(name: str) -> str:
    """Return the name of the class or function that replaced a name of `socket`, or ""."""
    current: object = getattr(socket, name)
    module = str(getattr(current, "__module__", ""))
    if module.partition(".")[0] in _HARMLESS:
        return ""
    full = f"{module}.{getattr(current, '__qualname__', type(current).__qualname__)}"
    if name != "socket":
        # A function that was decorated with `functools.wraps` has the same module and name, so the
        # module of its code is compared.
        return "" if getattr(current, "__globals__", None) is vars(socket) else full
    # A function that was decorated with `functools.wraps` has the same module and name, so the base
    # class is compared too.
    if getattr(current, "__bases__", None) != (_socket.socket,) or module != "socket":
        return full
    # The standard library's class inherits these methods. They exist in the class itself only if
    # the program has replaced them.
    replaced = {"connect", "connect_ex"} & vars(current).keys()
    return f"{full} with another {min(replaced)}()" if replaced else ""
