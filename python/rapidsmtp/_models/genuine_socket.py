"""The standard library's class of sockets, even if the program has replaced `socket.socket`."""

import socket
import ssl


def genuine_socket_class() -> type[socket.socket]:
    """Return the class that `socket.socket` was before its replacement, for example by PySocks.

    A connection with `proxy=` must not pass through the replacement too. If the class cannot be
    found, the replacement is returned.
    """
    replaced = getattr(socket.socket, "__mro__", ())
    for each in (*replaced, *ssl.SSLSocket.__mro__):
        if each.__module__ == "socket" and each.__name__ == "socket":
            genuine: type[socket.socket] = each
            return genuine
    return socket.socket
