"""Connecting to the relay: name resolution, and parallel attempts at several addresses.

The attempts alternate between the address families of the host. If an attempt has no result after
`STAGGER` seconds, or if it fails, the next attempt starts. The first connection that is established
is used (Happy Eyeballs, RFC 8305 sections 4 and 5). So a network that drops IPv6 packets delays
connecting by `STAGGER` seconds, and not by the whole time limit.
"""

import errno
import itertools
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeAlias

from rapidsmtp._models.genuine_socket import genuine_socket_class
from rapidsmtp._models.settings import EngineSettings, authority
from rapidsmtp._pure.failure import ConnectionFailure, FailureKind
from rapidsmtp._pure.proxy import ProxyError
from rapidsmtp._pure.tunnel import negotiate

STAGGER = 0.25  # seconds between the starts of two attempts (RFC 8305 section 8)
MAX_ADDRESSES = 32  # all attempts start within 8 seconds
_IN_PROGRESS = errno.EWOULDBLOCK if os.name == "nt" else errno.EINPROGRESS

# These errors may only mean that this host has no IPv6. The failure of a later attempt is reported
# instead, because it describes the relay.
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_Source: TypeAlias = list[tuple[int, Any]]
"""The addresses to bind sockets to, each with its address family."""

_Address: TypeAlias = tuple[int, int, int, Any]


def connect(settings: EngineSettings) -> socket.socket:
    """Return a socket that is connected to the relay, through the proxy if there is one.

    Raises:
        ConnectionFailure: No connection could be made.
    """
    proxy, kind = settings.proxy, FailureKind.UNREACHABLE
    host, port, peer, cure = settings.host, settings.port, settings.relay, ""
    if proxy is not None:
        # The proxy resolves the host name of the relay.
        host, port, peer = proxy.host, proxy.port, f"the proxy {proxy.name}"
        cure = "; check the host and the port in proxy="
    seconds = settings.timeouts.connect
    deadline = time.monotonic() + seconds
    try:
        if settings.path is not None:
            unix = (socket.AF_UNIX, socket.SOCK_STREAM, 0, settings.path)
            return _race([unix], None, deadline, socket.socket)
        found = _resolve(host, port)
        addresses = interleave((*kind, address) for *kind, _, address in found)
        sources: _Source | None = None
        if settings.source_address is not None:
            host, source_port = settings.source_address
            sources = _source_addresses(host, source_port)
        socket_class = genuine_socket_class() if settings.genuine_sockets else socket.socket
        sock = _race(addresses, sources, deadline, socket_class)
        if proxy is not None:
            peer = f"{settings.relay} through the proxy {proxy.name}"
            cure = "; check the proxy, and the relay's host and port"
            negotiate(sock, proxy, settings.host, settings.port, deadline)
        return sock
    except ProxyError as error:
        cause, cure = str(error), ""
        if error.concerns_login:
            # The next attempt would use the same login, and a proxy may lock an account.
            kind = FailureKind.PERMANENT
    except socket.gaierror as error:
        cause = f'"{host}" does not resolve: {error.strerror}'
    except OSError as error:
        cause = error.strerror or str(error)
        if isinstance(error, TimeoutError) and error.errno is None:
            cause = f"timed out after {seconds:g} s{error}"
    raise ConnectionFailure(f"cannot connect to {peer}: {cause}{cure}", kind)


def _resolve(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        # Python's codec refuses this name. The system's resolver refuses it too, and states why.
        return socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)


def _source_addresses(host: str, port: int) -> _Source:
    if not host:
        return [(socket.AF_INET, ("", port)), (socket.AF_INET6, ("", port))]
    return [(family, address) for family, *_, address in _resolve(host, port)]


def interleave(addresses: Iterable[Any]) -> list[Any]:
    """Return the addresses without duplicates, alternating between the address families.

    The first address stays first. Addresses beyond the first `MAX_ADDRESSES` are dropped.
    """
    families: dict[int, list[Any]] = {}
    for each in dict.fromkeys(addresses):
        families.setdefault(each[0], []).append(each)
    turns = itertools.zip_longest(*families.values())
    return [each for turn in turns for each in turn if each is not None][:MAX_ADDRESSES]


def _race(
    addresses: list[_Address],
    sources: _Source | None,
    deadline: float,
    socket_class: type[socket.socket],
) -> socket.socket:
    """Return the first socket that is connected, and close the sockets of the other attempts.

    If all attempts failed, the OSError has the most informative failure as `strerror`. After the
    deadline, the text of the TimeoutError is an earlier failure.
    """
    untried, next_at = deque(addresses), 0.0
    running: dict[socket.socket, Any] = {}
    failure: OSError | None = None
    with selectors.DefaultSelector() as selector:
        try:
            while untried or running:
                now = time.monotonic()
                if now >= deadline:
                    raise TimeoutError(f" ({failure.strerror})" if failure else "")
                try:
                    if untried and now >= next_at:
                        next_at = now + STAGGER
                        *kind, address = untried.popleft()
                        sock = _start(socket_class(*kind), kind[0], address, sources)
                        running[sock] = address
                        selector.register(sock, selectors.EVENT_WRITE, sock)
                    until = min(deadline, next_at) if untried else deadline
                    for key, _ in selector.select(max(0.0, until - now)):
                        ended: socket.socket = key.data
                        selector.unregister(ended)
                        address = running.pop(ended)
                        code = ended.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                        if not code:
                            return ended
                        ended.close()
                        raise OSError(code, os.strerror(code))
                except OSError as error:
                    # RFC 8305 section 5: after a failure, the next attempt starts at once.
                    next_at = 0.0
                    if failure is None or failure.errno in _NO_ROUTE:
                        # The name of the relay already contains the path of a Unix socket.
                        is_path = isinstance(address, str)
                        where = "" if is_path else f" ({authority(*address[:2])})"
                        cause = error.strerror or str(error)
                        if is_path and error.errno is None:
                            cause = "the path is too long for a Unix socket"
                        failure = OSError(error.errno, f"{cause}{where}")
            raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")
        finally:
            for sock in running:
                sock.close()


def _start(
    sock: socket.socket, family: int, address: Any, sources: _Source | None
) -> socket.socket:
    """Start an attempt with a new socket, and return it. Raise OSError if it failed at once."""
    try:
        sock.setblocking(False)
        if sources is not None:
            source = next((each for kind, each in sources if kind == family), None)
            if source is None:
                raise OSError(errno.ENETUNREACH, "source_address has another address family")
            if os.name == "posix" and source[1]:
                # This option allows binding the port while an earlier connection from this port is
                # in TIME-WAIT.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(source)
        code = sock.connect_ex(address)
        if code not in (0, _IN_PROGRESS):
            raise OSError(code, os.strerror(code))
    except OSError:
        sock.close()
        raise
    return sock
