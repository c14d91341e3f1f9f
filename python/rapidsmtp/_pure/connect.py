"""The way to the relay: names, addresses, and the race between them.

A host with several addresses is tried at all of them, the families in turn, each a little after
the one before it, and the first to answer is taken (Happy Eyeballs, RFC 8305 sections 4 and 5): a
network that swallows IPv6 costs a quarter of a second and not the whole time limit.
"""

import contextlib
import errno
import itertools
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeAlias

STAGGER = 0.25
"""Seconds that an address has before the next one is tried as well (RFC 8305 section 8)."""

ADDRESSES = 32
"""How many addresses are tried: with more than that, a time limit would pass in staggering."""

_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What a family that this host has not got brings: any other failure says more."""

_Address: TypeAlias = tuple[int, int, int, Any]


def connect(host: str, port: int, source: tuple[str, int] | None, seconds: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one.

    Args:
        host: its name or address.
        port: the port.
        source: what to bind the socket to, or None.
        seconds: the time limit for all the addresses together.

    Raises:
        socket.gaierror: the name does not resolve.
        TimeoutError: none answered in time.
        OSError: no address takes a connection.
    """
    deadline = time.monotonic() + seconds
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
    with _Race(interleave(addresses), source) as race:
        return race.run(deadline)


def connect_path(path: str, seconds: float) -> socket.socket:
    """A connection to a Unix socket.

    Raises:
        OSError: it takes none.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def interleave(addresses: Iterable[_Address]) -> list[_Address]:
    """The families in turn, from that of the first on; each address once, in its own order."""
    families: dict[int, list[_Address]] = {}
    for each in dict.fromkeys(addresses):
        families.setdefault(each[0], []).append(each)
    turns = itertools.zip_longest(*families.values())
    return [each for turn in turns for each in turn if each is not None][:ADDRESSES]


class _Race:
    """Attempts to connect, all of which end with the first that succeeds."""

    def __init__(self, addresses: list[_Address], source: tuple[str, int] | None) -> None:
        self._waiting = deque(addresses)
        self._source = source
        self._selector = selectors.DefaultSelector()
        self._under_way: set[socket.socket] = set()
        self._due = 0.0
        self._fault = OSError(errno.EADDRNOTAVAIL, "the name has no address")

    def __enter__(self) -> "_Race":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._under_way:
            sock.close()
        self._selector.close()

    def run(self, deadline: float) -> socket.socket:
        """The connection.

        Raises:
            TimeoutError: none was made until then, by `time.monotonic`.
            OSError: all attempts failed.
        """
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            if self._waiting and now >= self._due:
                self._due = now + STAGGER
                winner = self._begin(*self._waiting.popleft())
            elif self._under_way:
                winner = self._wait((min(deadline, self._due) if self._waiting else deadline) - now)
            else:
                raise self._fault
            if winner is not None:
                return winner

    def _begin(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket | None:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            self._fail(error)
            return None
        self._under_way.add(sock)
        try:
            sock.setblocking(False)
            self._bind(sock)
            code = sock.connect_ex(address)
        except OSError as error:
            self._end(sock, error)
            return None
        if code in _UNDER_WAY:
            self._selector.register(sock, selectors.EVENT_WRITE)
            return None
        return self._ended(sock, code)

    def _bind(self, sock: socket.socket) -> None:
        if self._source is None:
            return
        if os.name == "posix" and self._source[1]:
            # A given port is free again at once when the connection before has ended.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(self._source)
        except socket.gaierror as error:
            raise OSError(errno.EADDRNOTAVAIL, f"from {self._source[0]}: {error}") from None

    def _wait(self, seconds: float) -> socket.socket | None:
        for key, _ in self._selector.select(max(0.0, seconds)):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            self._selector.unregister(sock)
            winner = self._ended(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            if winner is not None:
                return winner
        return None

    def _ended(self, sock: socket.socket, code: int) -> socket.socket | None:
        if code:
            self._end(sock, OSError(code, os.strerror(code)))
            return None
        self._under_way.discard(sock)
        return sock

    def _end(self, sock: socket.socket, error: OSError) -> None:
        self._under_way.discard(sock)
        with contextlib.suppress(OSError):
            sock.close()
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._due = 0.0  # the next one need not wait
        if self._fault.errno in _NO_WAY:
            self._fault = error
