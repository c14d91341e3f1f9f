"""Connecting to the relay: name resolution, and parallel attempts at several addresses.

The attempts alternate between the address families of the host. If an attempt has no result after
`STAGGER` seconds, the next attempt starts in parallel. After a failure, the next attempt starts at
once. The client uses the first connection that is established (Happy Eyeballs, RFC 8305 sections 4
and 5). If a network drops IPv6 packets, connecting therefore takes only `STAGGER` seconds longer.
Without parallel attempts, the IPv6 attempt would use up the whole time limit.

With a proxy, the attempts are made at the addresses of the proxy. The proxy resolves the host name
of the relay.
"""

import contextlib
import errno
import itertools
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from rapidsmtp._models.settings import EngineSettings, Proxy
from rapidsmtp._pure.proxy import CLOSED, ProxyDialogue, ProxyError

STAGGER = 0.25
"""The time between the starts of two attempts, in seconds (RFC 8305 section 8)."""

MAX_ADDRESSES = 32
"""The maximum number of addresses to try. Further addresses are ignored. So all attempts start
within 8 seconds."""

_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""The error numbers of attempts for whose address family this host has no route.

If a later attempt fails with another error, that error is reported instead, because it describes
the relay and not this host.
"""

_Address: TypeAlias = tuple[int, int, int, Any]


class ConnectError(Exception):
    """A failure to connect to the relay. Its text is one line.

    Attributes:
        concerns_login: Whether the proxy refused or requires a login.
    """

    def __init__(self, text: str, *, concerns_login: bool = False) -> None:
        super().__init__(text)
        self.concerns_login = concerns_login


def connect_to_relay(settings: EngineSettings) -> socket.socket:
    """Connect to the relay, through the proxy if the settings contain one.

    Raises:
        ConnectError: The connection failed.
    """
    seconds = settings.timeouts.connect
    deadline = time.monotonic() + seconds
    proxy = settings.proxy
    peer, cure = settings.relay, ""
    host, port = settings.host, settings.port
    if proxy is not None:
        peer, cure = f"the proxy {proxy.name}", "; check the host and the port in proxy="
        host, port = proxy.host, proxy.port
    with contextlib.ExitStack() as stack:
        try:
            if settings.path is not None:
                return connect_path(settings.path, seconds)
            sock = connect(host, port, settings.source_address, seconds)
            stack.callback(sock.close)
            if proxy is not None:
                peer = f"{settings.relay} through the proxy {proxy.name}"
                cure = "; check the proxy, and the relay's host and port"
                _negotiate(sock, proxy, settings.host, settings.port, deadline)
            stack.pop_all()
            return sock
        except ProxyError as error:
            text = f"cannot connect to {peer}: {error}"
            raise ConnectError(text, concerns_login=error.concerns_login) from None
        except socket.gaierror as error:
            cause = f'"{host}" does not resolve: {error.strerror}'
        except UnicodeError:
            cause = f'"{host}" does not resolve: it is not a valid host name'
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                detail = f" ({error})" if str(error) else ""
                cause = f"timed out after {seconds:g} s{detail}"
            else:
                cause = error.strerror or str(error)
        raise ConnectError(f"cannot connect to {peer}: {cause}{cure}")


def connect(host: str, port: int, source: tuple[str, int] | None, seconds: float) -> socket.socket:
    """Connect to a host through the first of its addresses that accepts a connection.

    Args:
        host: The host's name or address.
        port: The port.
        source: The address and port to bind the socket to, or None.
        seconds: The time limit for all addresses together, in seconds.

    Returns:
        A connected socket in non-blocking mode.

    Raises:
        socket.gaierror: The name does not resolve.
        TimeoutError: No address accepted a connection in time. The text of the exception is the
            reason why an earlier attempt failed; empty if no attempt failed.
        OSError: All attempts failed. The attribute `strerror` of the exception contains the reason
            and the address of one attempt.
    """
    deadline = time.monotonic() + seconds
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
    with _Race(interleave(addresses), source) as race:
        return race.run(deadline)


def connect_path(path: str, seconds: float) -> socket.socket:
    """Connect to a Unix socket.

    Raises:
        TimeoutError: The server did not accept the connection in time.
        OSError: The connection failed.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
    except TimeoutError:
        sock.close()
        raise TimeoutError from None
    except OSError:
        sock.close()
        raise
    return sock


def _negotiate(sock: socket.socket, proxy: Proxy, host: str, port: int, deadline: float) -> None:
    """Request a connection to the relay from a proxy.

    After this call, the next byte of the socket comes from the relay.

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
    dialogue = ProxyDialogue(proxy, host, port)
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
        if not data:  # the end of the stream, or a reset by the proxy
            raise ProxyError(CLOSED)
        dialogue.receive_data(data)


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
        raise TimeoutError from None  # without a text, as the other time-outs of this module
    except OSError:
        pass


def interleave(addresses: Iterable[_Address]) -> list[_Address]:
    """Return the addresses without duplicates, alternating between the address families.

    The first address stays first. Addresses beyond the first `MAX_ADDRESSES` are dropped.
    """
    families: dict[int, list[_Address]] = {}
    for each in dict.fromkeys(addresses):
        families.setdefault(each[0], []).append(each)
    turns = itertools.zip_longest(*families.values())
    return [each for turn in turns for each in turn if each is not None][:MAX_ADDRESSES]


class _Race:
    """Parallel attempts to connect. The first success ends the other attempts."""

    def __init__(self, addresses: list[_Address], source: tuple[str, int] | None) -> None:
        self._untried = deque(addresses)
        self._source = source
        self._selector = selectors.DefaultSelector()
        self._attempts: dict[socket.socket, Any] = {}
        self._next_at = 0.0
        self._failure: OSError | None = None

    def __enter__(self) -> "_Race":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._attempts:
            sock.close()
        self._selector.close()

    def run(self, deadline: float) -> socket.socket:
        """Return the first connected socket.

        Args:
            deadline: The time of `time.monotonic` at which to stop all attempts.

        Raises:
            TimeoutError: No attempt succeeded before the deadline.
            OSError: All attempts failed.
        """
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError(self._failure.strerror if self._failure else "")
            if self._untried and now >= self._next_at:
                self._next_at = now + STAGGER
                winner = self._start(*self._untried.popleft())
            elif self._attempts:
                until = min(deadline, self._next_at) if self._untried else deadline
                winner = self._wait(until - now)
            else:
                raise self._failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")
            if winner is not None:
                return winner

    def _start(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket | None:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            self._note_failure(error, address)
            return None
        self._attempts[sock] = address
        try:
            sock.setblocking(False)
            self._bind(sock)
            code = sock.connect_ex(address)
        except OSError as error:
            self._fail(sock, error)
            return None
        if code in _IN_PROGRESS:
            self._selector.register(sock, selectors.EVENT_WRITE, sock)
            return None
        return self._finish(sock, code)

    def _bind(self, sock: socket.socket) -> None:
        if self._source is None:
            return
        if os.name == "posix" and self._source[1]:
            # After a connection from a port has ended, the system normally refuses for some time to
            # bind a socket to this port again. With this option, the system allows it at once.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(self._source)
        except socket.gaierror as error:
            cause = f'"{self._source[0]}" does not resolve: {error.strerror}'
            raise OSError(errno.EADDRNOTAVAIL, cause) from None

    def _wait(self, seconds: float) -> socket.socket | None:
        for key, _ in self._selector.select(max(0.0, seconds)):
            sock: socket.socket = key.data
            self._selector.unregister(sock)
            winner = self._finish(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            if winner is not None:
                return winner
        return None

    def _finish(self, sock: socket.socket, code: int) -> socket.socket | None:
        if code:
            self._fail(sock, OSError(code, os.strerror(code)))
            return None
        del self._attempts[sock]
        return sock

    def _fail(self, sock: socket.socket, error: OSError) -> None:
        address = self._attempts.pop(sock)
        with contextlib.suppress(OSError):
            sock.close()
        self._note_failure(error, address)

    def _note_failure(self, error: OSError, address: Any) -> None:
        # RFC 8305 section 5: after a failure, the next attempt starts at once.
        self._next_at = 0.0
        if self._failure is None or self._failure.errno in _NO_ROUTE:
            cause = f"{error.strerror or error} ({_address_text(address)})"
            self._failure = OSError(error.errno, cause)


def _address_text(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
