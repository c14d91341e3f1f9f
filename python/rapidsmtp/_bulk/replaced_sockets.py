"""The check for a replaced `socket.socket`.

A program can send all its connections through a proxy by replacing `socket.socket`, for example
with PySocks. Other programs replace it to block connections in tests. The compiled engine makes its
connections in Rust and does not use the replacement, so mail would leave without the proxy. The
pure-Python engine and the drop-in use the replacement.
"""

import _socket
import socket

from rapidsmtp import _backend

# gevent and eventlet replace the class so that a waiting socket does not block other green threads.
# They change no destination.
_HARMLESS = ("gevent", "eventlet")


def check_sockets() -> None:
    """Check that the engine makes its connections as the program has arranged it.

    Raises:
        RuntimeError: The program has replaced `socket.socket`, and the engine would not use the
            replacement.
    """
    if _backend.implementation == "rust" and (name := _replacement()):
        raise RuntimeError(
            f"the program has replaced socket.socket with {name}, which the compiled engine does "
            'not use: write proxy="socks5://host:port" for a proxy, proxy="direct" to connect '
            "directly, or set RAPIDSMTP_CORE=python to use the replacement"
        )


def _replacement() -> str:
    """Return the name of the class or function that replaced `socket.socket`, or ""."""
    current: object = socket.socket
    module = str(getattr(current, "__module__", ""))
    if module.partition(".")[0] in _HARMLESS:
        return ""
    name = f"{module}.{getattr(current, '__qualname__', type(current).__qualname__)}"
    # A function that was decorated with `functools.wraps` has the same module and name, so the base
    # class is compared too.
    if getattr(current, "__bases__", None) != (_socket.socket,) or module != "socket":
        return name
    # The standard library's class inherits these methods. They exist in the class itself only if
    # the program has replaced them.
    replaced = {"connect", "connect_ex"} & vars(current).keys()
    return f"{name} with another {min(replaced)}()" if replaced else ""
