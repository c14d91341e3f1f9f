"""The connection to the relay through a proxy: the dialogue of `proxy`, on a socket."""

import contextlib
import socket
import time
from collections.abc import Iterator

from rapidsmtp._models.settings import Proxy
from rapidsmtp._pure.proxy import ProxyDialogue


def negotiate(sock: socket.socket, proxy: Proxy, host: str, port: int, deadline: float) -> None:
    """Request a connection to the relay from a proxy.

    After this call, the next byte of the socket comes from the relay. After a failure, the socket
    is closed.

    Args:
        sock: The connection to the proxy, in non-blocking mode.
        proxy: The proxy.
        host: The relay's host name or IP address.
        port: The relay's port.
        deadline: The time of `time.monotonic` at which to stop.

    Raises:
        ProxyError: The proxy made no connection.
        TimeoutError: The dialogue did not finish before the deadline.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        _converse(sock, ProxyDialogue(proxy, host, port), deadline)
        stack.pop_all()


def _converse(sock: socket.socket, dialogue: ProxyDialogue, deadline: float) -> None:
    while True:
        # A proxy may send its answer and close the connection while the client writes. So a failed
        # write is not reported: the answer, or the end of the stream, is read next.
        with _until(deadline, sock):
            sock.sendall(dialogue.data_to_send())
        if not dialogue.wanted:
            sock.setblocking(False)
            return
        data = b""
        with _until(deadline, sock):
            data = sock.recv(dialogue.wanted)
        dialogue.receive_data(data)  # no data: the end of the stream, or a reset by the proxy


@contextlib.contextmanager
def _until(deadline: float, sock: socket.socket) -> Iterator[None]:
    """Set the time limit of an operation, and ignore its errors except for a TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
    try:
        yield
    except TimeoutError:
        raise TimeoutError from None  # without a text, as the other time-outs of `connect`
    except OSError:
        pass
