"""Scripts for `Server` that act as proxies: SOCKS5 (RFC 1928, 1929) and HTTP CONNECT."""

import contextlib
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from server import TIMEOUT, Connection

BOUND = {
    "IPv4": b"\x01\x7f\x00\x00\x01\x04\x00",
    "IPv6": b"\x04" + bytes(15) + b"\x01\x04\x00",
    "a name": b"\x03\x04host\x04\x00",
    "an empty name": b"\x03\x00\x04\x00",
}
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class SocksScript:
    """A SOCKS5 proxy that follows the RFCs, except for the answers in `answers`.

    Attributes:
        targets: The port of 127.0.0.1 for each host that the proxy can resolve.
        login: The required user and password, or None.
        bound: The bound address in the reply.
        answers: Other answers by step: "method", "login" or "reply". After such an answer, the
            proxy ends the connection, unless the answer lets the dialogue continue.
        split: Whether to send each byte on its own.
        requests: The requested addresses: the type, the host and the port.
        logins: The users and passwords that the proxy received.
    """

    targets: Mapping[str, int] = field(default_factory=dict)
    login: tuple[str, str] | None = None
    bound: bytes = BOUND["IPv4"]
    answers: Mapping[str, bytes] = field(default_factory=dict)
    split: bool = False
    requests: list[tuple[int, str, int]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, connection: Connection) -> None:
        version, count = take(connection, 2)
        methods = take(connection, count)
        assert version == 5
        method = 2 if self.login else 0
        usual = bytes([5, method if method in methods else 0xFF])
        if self._answer(connection, "method", usual) == b"\x05\x02" and 2 in methods:
            assert take(connection, 1) == b"\x01"
            user, password = self._text(connection), self._text(connection)
            self.logins.append((user, password))
            usual = b"\x01\x00" if (user, password) == self.login else b"\x01\x01"
            self._answer(connection, "login", usual)
        version, command, reserved, kind = take(connection, 4)
        assert (version, command, reserved) == (5, 1, 0)
        if kind == 3:
            host = self._text(connection)
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, take(connection, size))
        port = int.from_bytes(take(connection, 2), "big")
        self.requests.append((kind, host, port))
        if host not in self.targets:
            self._answer(connection, "reply", b"\x05\x04\x00" + self.bound)
            return
        with socket.create_connection(("127.0.0.1", self.targets[host]), TIMEOUT) as relay:
            # The relay's greeting is sent together with the reply, as some proxies do.
            greeting = b"" if self.split else relay.recv(4096)
            self._answer(connection, "reply", b"\x05\x00\x00" + self.bound, greeting)
            pump(connection.sock, relay)

    def _answer(self, connection: Connection, step: str, usual: bytes, then: bytes = b"") -> bytes:
        answer = self.answers.get(step, usual) + then
        for piece in [answer[place : place + 1] for place in range(len(answer))]:
            if self.split:
                connection.send(piece)
        if not self.split:
            connection.send(answer)
        return answer

    def _text(self, connection: Connection) -> str:
        return take(connection, take(connection, 1)[0]).decode()


@dataclass
class ConnectScript:
    """An HTTP proxy that answers CONNECT with `answer`, and connects if the answer is a 2xx.

    Attributes:
        targets: The port of 127.0.0.1 for each host that the proxy can resolve.
        answer: The answer.
        split: Whether to send each byte on its own.
        requests: The received requests.
    """

    targets: Mapping[str, int] = field(default_factory=dict)
    answer: bytes = CONNECTED
    split: bool = False
    requests: list[bytes] = field(default_factory=list)

    def __call__(self, connection: Connection) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += take(connection, 1)
        self.requests.append(request)
        host = request.split()[1].decode().rpartition(":")[0].strip("[]")
        if b" 2" not in self.answer[:10] and b"\r\n\r\nHTTP/1.1 2" not in self.answer:
            connection.send(self.answer)
            return
        with socket.create_connection(("127.0.0.1", self.targets[host]), TIMEOUT) as relay:
            greeting = b"" if self.split else relay.recv(4096)
            for piece in [self.answer[place : place + 1] for place in range(len(self.answer))]:
                if self.split:
                    connection.send(piece)
            if not self.split:
                connection.send(self.answer + greeting)
            pump(connection.sock, relay)


def take(connection: Connection, count: int) -> bytes:
    """Read exactly `count` bytes, or raise EOFError at the end of the stream."""
    data = b""
    while len(data) < count:
        piece = connection.sock.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def pump(one: socket.socket, other: socket.socket) -> None:
    """Copy bytes in both directions until both streams have ended."""
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join(TIMEOUT)


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            destination.sendall(data)
    with contextlib.suppress(OSError):
        destination.shutdown(socket.SHUT_WR)
