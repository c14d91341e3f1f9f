"""The client's side of the dialogue with a proxy: SOCKS5 (RFC 1928, 1929) and HTTP CONNECT.

The proxy receives the relay's host name and resolves it, so this host sends no DNS query for the
relay. The dialogue has no I/O. It states how many bytes to read next, and never more than the
proxy's own answer contains. So the relay's greeting stays unread, even if it arrives together with
the answer.

The project has its own code instead of PySocks, because both backends must give the same results
and error texts, and because PySocks has no time limit for the whole dialogue.
"""

import base64
import ipaddress
import re

from rapidsmtp._models.settings import Proxy, authority
from rapidsmtp.errors import PeerError, printable_reply

MAX_HEAD = 16 * 1024
"""The maximum size of an HTTP proxy's answer, in bytes."""

_MAX_QUOTED = 120
"""The maximum number of characters that an error text quotes from the proxy's answer."""

_HTTP = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.[0-9] (([0-9]{3})(?: .*)?)", re.DOTALL)

CLOSED = (
    "the proxy closed the connection; check the scheme and the port in proxy=, or the proxy's log"
)
_NOT_SOCKS = "the proxy's answer is not SOCKS5; check the scheme and the port in proxy="
_NOT_HTTP = "the proxy's answer is not HTTP; check the scheme and the port in proxy="
_TOO_LONG = "the proxy's answer is too long; check the scheme and the port in proxy="
_NEEDS_LOGIN = "the proxy requires a login; write user:password@ before the host in proxy="
_NO_METHOD = "the proxy supports no login by user and password; permit such a login at the proxy"
_REFUSED_LOGIN = "the proxy refused the login; check the user and the password in proxy="

# The reply codes of RFC 1928 section 6, in words: the fact and the cure.
_REPLIES = {
    1: ("the proxy reports a general failure", "check the proxy's log"),
    2: (
        "the proxy's rules forbid this connection",
        "permit the relay's host and port at the proxy",
    ),
    3: (
        "the proxy has no route to the relay's network",
        "check the relay's host and the proxy's network",
    ),
    4: ("the proxy cannot reach the relay's host", "check the relay's host"),
    5: ("the relay refused the proxy's connection", "check the relay's host and port"),
    6: (
        "the proxy's connection to the relay expired",
        "check the relay's host and the proxy's network",
    ),
    7: ("the proxy does not support CONNECT", "permit CONNECT at the proxy"),
    8: (
        "the proxy does not support this type of address",
        "write the relay's host as a name instead of an address, or as an address instead of a "
        "name",
    ),
}
_UNKNOWN = ("the proxy sent a reply code without a meaning", "check the proxy's log")

# The answers that the dialogue expects. All steps except `_HEAD` belong to SOCKS5.
_METHOD, _LOGIN, _REPLY, _ADDRESS_TYPE, _NAME_LENGTH, _BOUND_ADDRESS, _HEAD, _DONE = range(8)
_VERSIONS = {_METHOD: 5, _LOGIN: 1, _REPLY: 5}
# The length of an address, and two bytes for the port (RFC 1928 section 6).
_BOUND_SIZES = {1: 4 + 2, 4: 16 + 2}


class ProxyError(PeerError):
    """The reason why a proxy made no connection. Its text is one line.

    Attributes:
        concerns_login: Whether the proxy refused or requires a login. Another attempt would fail in
            the same way.
    """

    def __init__(self, text: str, *, concerns_login: bool = False) -> None:
        super().__init__(text)
        self.concerns_login = concerns_login


class ProxyDialogue:
    """The dialogue for one connection.

    The caller sends `data_to_send`, reads at most `wanted` bytes, and passes them to
    `receive_data`, until `wanted` is 0.

    Args:
        proxy: The proxy.
        host: The relay's host name or IP address.
        port: The relay's port.

    Attributes:
        wanted: The maximum number of bytes to read next; 0 if the connection to the relay is made.
    """

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._login = (proxy.user, proxy.password) if proxy.logs_in else None
        self._received = b""
        self._head_size = 0
        if proxy.scheme == "http":
            self._output = _connect_request(self._login, authority(host, port))
            self._expect(_HEAD, 1)
        else:
            # RFC 1928 section 3: the version, the number of methods, and the methods.
            self._output = b"\x05\x02\x00\x02" if self._login else b"\x05\x01\x00"
            self._expect(_METHOD, 2)

    def data_to_send(self) -> bytes:
        """Take the bytes to send now."""
        data, self._output = self._output, b""
        return data

    def receive_data(self, data: bytes) -> None:
        """Process bytes from the proxy, at most `wanted`.

        Raises:
            ProxyError: The proxy made no connection to the relay, its answer is invalid, or the
                stream has ended (no bytes).
        """
        if not data:
            raise ProxyError(CLOSED)
        self._received += data
        if self._step == _HEAD:
            self._receive_head(len(data))
            return
        version = _VERSIONS.get(self._step)
        if version is not None and self._received[0] != version:
            raise ProxyError(_NOT_SOCKS)
        self.wanted -= len(data)
        if self.wanted:
            return
        received, self._received = self._received, b""
        if self._step == _METHOD:
            self._receive_method(received[1])
        elif self._step == _LOGIN:
            if received[1]:
                raise ProxyError(_REFUSED_LOGIN, concerns_login=True)
            self._request()
        elif self._step == _REPLY:
            if received[1]:
                fact, cure = _REPLIES.get(received[1], _UNKNOWN)
                raise ProxyError(f"{fact} (SOCKS reply {received[1]}); {cure}")
            self._expect(_ADDRESS_TYPE, 2)
        elif self._step == _ADDRESS_TYPE:
            if received[1] == 3:
                self._expect(_NAME_LENGTH, 1)
            elif received[1] in _BOUND_SIZES:
                self._expect(_BOUND_ADDRESS, _BOUND_SIZES[received[1]])
            else:
                raise ProxyError(_NOT_SOCKS)
        elif self._step == _NAME_LENGTH:
            self._expect(_BOUND_ADDRESS, received[0] + 2)
        else:
            self._expect(_DONE, 0)

    def _expect(self, step: int, wanted: int) -> None:
        self._step = step
        self.wanted = wanted

    def _receive_method(self, method: int) -> None:
        if method == 0:
            self._request()
        elif method == 2 and self._login:
            # RFC 1929: the version, the user and the password, each with its length.
            user, password = (each.encode() for each in self._login)
            self._output = b"\x01" + _with_length(user) + _with_length(password)
            self._expect(_LOGIN, 2)
        elif method in (2, 0xFF):
            raise ProxyError(_NO_METHOD if self._login else _NEEDS_LOGIN, concerns_login=True)
        else:
            raise ProxyError(_NOT_SOCKS)

    def _request(self) -> None:
        """RFC 1928 section 4: the version, CONNECT, a reserved byte, the address and the port."""
        try:
            address = ipaddress.ip_address(self._host)
        except ValueError:
            target = b"\x03" + _with_length(self._host.encode())
        else:
            target = (b"\x01" if address.version == 4 else b"\x04") + address.packed
        self._output = b"\x05\x01\x00" + target + self._port.to_bytes(2, "big")
        self._expect(_REPLY, 2)

    def _receive_head(self, count: int) -> None:
        """Process one byte of an HTTP answer."""
        self._head_size += count
        if self._received[: len(_HTTP)] != _HTTP[: len(self._received)]:
            raise ProxyError(_NOT_HTTP)
        # RFC 9112 2.2: a recipient may recognize a single LF as a line end.
        if not self._received.endswith((b"\n\r\n", b"\n\n")):
            if self._head_size >= MAX_HEAD:
                raise ProxyError(_TOO_LONG)
            return
        head, self._received = self._received, b""
        match = _STATUS.fullmatch(head.partition(b"\n")[0].removesuffix(b"\r"))
        if match is None:
            raise ProxyError(_NOT_HTTP)
        status, code = printable_reply(match[1])[:_MAX_QUOTED], int(match[2])
        if 200 <= code <= 299:
            # RFC 9110 9.3.6: after any 2xx, the connection leads to the relay, even if the answer
            # has a Content-Length.
            self._expect(_DONE, 0)
        # RFC 9110 15.2: interim answers may precede the final answer.
        elif not 100 <= code <= 199 or code == 101:
            raise self._refusal(code, status)

    def _refusal(self, code: int, status: str) -> ProxyError:
        if code == 407 and self._login:
            fact, cure = "refused the login", "check the user and the password in proxy="
        elif code == 407:
            fact, cure = "requires a login", "write user:password@ before the host in proxy="
        elif 500 <= code <= 599:
            fact, cure = "cannot connect to the relay", "check the relay's host and port"
        else:
            fact = "refused the connection"
            cure = f"permit CONNECT to port {self._port} at the proxy"
        return ProxyError(f"the proxy {fact}: {status}; {cure}", concerns_login=code == 407)


def _connect_request(login: tuple[str, str] | None, target: str) -> bytes:
    """RFC 9110 9.3.6 and 7.2: the target of CONNECT is the host and the port, also in Host."""
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if login:
        # RFC 7617: the user and the password in base64.
        token = base64.b64encode(":".join(login).encode()).decode()
        request += f"Proxy-Authorization: Basic {token}\r\n"
    return f"{request}\r\n".encode()


def _with_length(value: bytes) -> bytes:
    return bytes([len(value)]) + value
