"""Where to connect and how: the keywords of `aio.SMTP` and `aio.send`, named as aiosmtplib's."""

import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

from rapidsmtp import _core
from rapidsmtp.connection import taken_apart

SUBMISSION_PORT = 587
SMTPS_PORT = 465


class Keywords(TypedDict, total=False):
    """The keywords of `aio.SMTP`, `SMTP.connect` and `aio.send`; see `Options` for each."""

    hostname: str | None
    username: str | bytes | None
    password: str | bytes | None
    oauth_token_generator: Callable[[], str | Awaitable[str]] | None
    use_tls: bool
    start_tls: bool | None
    validate_certs: bool
    client_cert: str | os.PathLike[str] | None
    client_key: str | os.PathLike[str] | None
    tls_context: ssl.SSLContext | None
    cert_bundle: str | os.PathLike[str] | None
    socket_path: str | bytes | os.PathLike[str] | None
    sock: socket.socket | None
    allow_plaintext_auth: bool
    pipelining: bool


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect.

    Attributes:
        hostname: The server's name or address; "localhost" where it is None.
        port: Its port; None for 465 with `use_tls`, 587 with `start_tls=True`, else the class's.
        username: Who logs in, once connected; None for nobody.
        password: The password.
        oauth_token_generator: Gives an access token for XOAUTH2 in the place of a password, when
            it is called without arguments; may be a coroutine function.
        source_address: Host and port to bind the socket to.
        use_tls: TLS from the first byte (RFC 8314).
        start_tls: STARTTLS (RFC 3207): True demands it at once; None takes it before the first
            login or mail where the server offers it, and demands it on port 587; False leaves it
            to `starttls()`.
        validate_certs: Whether the server's certificate and name are checked.
        client_cert: A PEM file with a certificate to show to the server.
        client_key: One with its key, where it is another file.
        tls_context: Ready-made TLS settings, in the place of the four above.
        cert_bundle: A PEM file with the authorities to believe, in the place of the system's.
        socket_path: A Unix socket, in the place of host and port.
        sock: A connected socket, in the place of host and port; it is closed with the connection.
        allow_plaintext_auth: Whether to log in over a connection that is not encrypted.
        pipelining: Whether to write commands together where the server offers PIPELINING.

    Raises:
        ValueError: Two of them exclude each other.
    """

    hostname: str | None = None
    port: int | None = None
    username: str | bytes | None = None
    password: str | bytes | None = field(default=None, repr=False)
    oauth_token_generator: Callable[[], str | Awaitable[str]] | None = field(
        default=None, repr=False
    )
    source_address: tuple[str, int] | None = None
    use_tls: bool = False
    start_tls: bool | None = None
    validate_certs: bool = True
    client_cert: str | os.PathLike[str] | None = None
    client_key: str | os.PathLike[str] | None = None
    tls_context: ssl.SSLContext | None = None
    cert_bundle: str | os.PathLike[str] | None = None
    socket_path: str | bytes | os.PathLike[str] | None = None
    sock: socket.socket | None = None
    allow_plaintext_auth: bool = False
    pipelining: bool = True

    def __post_init__(self) -> None:
        places = sum(each is not None for each in (self.sock, self.socket_path))
        if self.use_tls and self.start_tls:
            raise ValueError("use_tls and start_tls exclude each other")
        if self.password is not None and self.oauth_token_generator is not None:
            raise ValueError("password and oauth_token_generator exclude each other")
        if self.oauth_token_generator is not None and self.username is None:
            raise ValueError("oauth_token_generator needs a username")
        if self.password is not None and self.username is None:
            raise ValueError("a password needs a username")
        if self.tls_context is not None and (self.client_cert or self.cert_bundle):
            raise ValueError("tls_context and files of certificates exclude each other")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert")
        if places > 1 or (places and self.port is not None):
            raise ValueError("a socket, a socket_path and a port exclude each other")
        if places and self.use_tls and self.hostname is None:
            raise ValueError("TLS over a socket needs the hostname that the certificate has")
        if self.hostname is not None:
            _core.check_command(self.hostname)

    @property
    def names_a_place(self) -> bool:
        """Whether it says where to connect."""
        places = (self.hostname, self.port, self.socket_path, self.sock)
        return any(each is not None for each in places)

    def port_or(self, default: int) -> int:
        """The port to connect to, where none is given that of the class."""
        if self.port:
            return self.port
        return SMTPS_PORT if self.use_tls else SUBMISSION_PORT if self.start_tls else default

    def make_context(self) -> ssl.SSLContext:
        """The TLS settings; reads files, so it is not for the event loop's thread.

        Raises:
            OSError: A file cannot be read, or is not PEM (`ssl.SSLError`).
        """
        if self.tls_context is not None:
            return self.tls_context
        context = ssl.create_default_context(cafile=self.cert_bundle)
        if not self.validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


def place_of(host: str, port: int | None) -> dict[str, Any]:
    """What smtplib's `host` and `port` say: "" and 0 are nothing, `name:port` is both.

    A port that is None says that there is none.

    Raises:
        OSError: The port is not a number.
    """
    if host.startswith("/"):
        return {"socket_path": host}
    place: dict[str, Any] = {}
    if port is None:
        place["port"] = None
    host, port = taken_apart(host, port or 0)
    if host:
        place["hostname"] = host
    if port:
        place["port"] = port
    return place
