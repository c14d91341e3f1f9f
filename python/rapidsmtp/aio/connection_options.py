"""The connection options of `aio.SMTP` and `aio.send`. aiosmtplib uses the same names."""

import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

from rapidsmtp import _backend
from rapidsmtp._domain import to_a_labels
from rapidsmtp._models.proxy_url import DIRECT, parse_proxy
from rapidsmtp._models.relay_url import Relay
from rapidsmtp._models.settings import Proxy
from rapidsmtp._smtp.connection import split_host_port

SUBMISSION_PORT = 587
SMTPS_PORT = 465


class TLSKeywords(TypedDict, total=False):
    """The keyword arguments for TLS. `ConnectionOptions` describes them."""

    validate_certs: bool
    client_cert: str | os.PathLike[str] | None
    client_key: str | os.PathLike[str] | None
    tls_context: ssl.SSLContext | None
    cert_bundle: str | os.PathLike[str] | None


class ConnectionKeywords(TLSKeywords, total=False):
    """The keyword arguments of `aio.SMTP`, `SMTP.connect` and `aio.send`.

    `ConnectionOptions` describes them.
    """

    hostname: str | None
    username: str | bytes | None
    password: str | bytes | None
    oauth_token_generator: Callable[[], str | Awaitable[str]] | None
    use_tls: bool
    start_tls: bool | None
    socket_path: str | bytes | os.PathLike[str] | None
    sock: socket.socket | None
    proxy: str | None
    allow_plaintext_auth: bool
    pipelining: bool


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The server to connect to, the login and the TLS settings.

    Attributes:
        hostname: The name or address of the server; None for "localhost".
        port: The port; None for 465 with `use_tls`, 587 with `start_tls=True`, else the default
            of the class.
        username: The user name for the login after connecting; None for no login.
        password: The password.
        oauth_token_generator: A callable or coroutine function without arguments. It returns an
            access token, and the client logs in with XOAUTH2 instead of a password.
        source_address: The host and port to bind the socket to.
        use_tls: Whether to use TLS from the first byte (RFC 8314).
        start_tls: Whether to use STARTTLS (RFC 3207). True: `connect` starts TLS, and the server
            must support STARTTLS. None: the client starts TLS before the first login or message if
            the server supports STARTTLS. On port 587, the server must support STARTTLS. False: only
            `starttls()` starts TLS.
        validate_certs: Whether to verify the server's certificate and its name.
        client_cert: A PEM file with the certificate that the client presents to the server.
        client_key: A PEM file with the client's key, if `client_cert` does not contain the key.
        tls_context: The TLS settings (`ssl.SSLContext`). These settings replace `validate_certs`,
            `client_cert`, `client_key` and `cert_bundle`.
        cert_bundle: A PEM file with the trusted certificate authorities. None means the authorities
            that the system trusts.
        socket_path: The path of a Unix socket to connect to, instead of host and port.
        sock: A connected socket to use, instead of host and port. The client closes the socket when
            it closes the connection.
        proxy: The URL of a proxy, as for `rapidsmtp.Sender`. The value "direct" permits direct
            connections although the program has replaced names of the module `socket`.
        allow_plaintext_auth: Whether to log in over a connection without TLS.
        pipelining: Whether to write commands together if the server supports PIPELINING.

    Raises:
        ValueError: Two options exclude each other.
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
    # The repr does not contain the URL, because it may contain a password.
    proxy: str | None = field(default=None, repr=False)
    allow_plaintext_auth: bool = False
    pipelining: bool = True

    def __post_init__(self) -> None:
        sockets = sum(each is not None for each in (self.sock, self.socket_path))
        if self.use_tls and self.start_tls:
            raise ValueError("use_tls and start_tls exclude each other")
        if self.password is not None and self.oauth_token_generator is not None:
            raise ValueError("password and oauth_token_generator exclude each other")
        if self.oauth_token_generator is not None and self.username is None:
            raise ValueError("oauth_token_generator needs a username")
        if self.password is not None and self.username is None:
            raise ValueError("password needs a username")
        if self.tls_context is not None and (self.client_cert or self.cert_bundle):
            raise ValueError("tls_context excludes client_cert and cert_bundle")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert")
        if sockets > 1 or (sockets and self.port is not None):
            raise ValueError("sock, socket_path and port exclude each other")
        if sockets and self.use_tls and self.hostname is None:
            raise ValueError("use_tls with sock or socket_path needs a hostname to verify")
        if self.hostname is not None:
            _backend.check_command(self.hostname)
        if self.sock is not None and self.proxy not in (None, DIRECT):
            raise ValueError("sock and proxy exclude each other")
        self.proxy_to(self.port or SUBMISSION_PORT)  # raises ValueError if the URL is wrong

    @property
    def has_server(self) -> bool:
        """Whether the options name a server, a socket or a port."""
        server = (self.hostname, self.port, self.socket_path, self.sock)
        return any(each is not None for each in server)

    def port_or(self, default: int) -> int:
        """Return the port to connect to: the option `port`, or the default for the TLS options.

        Args:
            default: The default port of the class, for connections without `use_tls` and
                `start_tls`.
        """
        if self.port:
            return self.port
        return SMTPS_PORT if self.use_tls else SUBMISSION_PORT if self.start_tls else default

    def proxy_to(self, port: int) -> tuple[Proxy, str] | None:
        """Return the proxy, and the server's host for the proxy; None for direct connections.

        Args:
            port: The port of the server.

        Raises:
            TypeError: The option `proxy` is not a text.
            ValueError: The option `proxy` is wrong, or no proxy can connect to the server.
        """
        if self.proxy is None or self.proxy == DIRECT:
            return None
        # The name is sent to the proxy, so it must be ASCII.
        host = to_a_labels(self.hostname or "localhost")
        path = os.fsdecode(self.socket_path or "")
        proxy = parse_proxy(self.proxy, Relay("smtp", host, port, path))
        return None if proxy is None else (proxy, host)

    def make_context(self) -> ssl.SSLContext:
        """Return the TLS settings as an `ssl.SSLContext`.

        This method reads files and would block the event loop. Call it in another thread.

        Raises:
            OSError: A file cannot be read.
            ssl.SSLError: A file does not have the PEM format.
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


def server_options(host: str, port: int | None) -> dict[str, Any]:
    """Convert smtplib's arguments `host` and `port` to options.

    Args:
        host: A name or address, `name:port`, the path of a Unix socket, or "" for no host.
        port: The port; 0 for no port, None to remove the port of an earlier call.

    Raises:
        OSError: The port is not a number.
    """
    if host.startswith("/"):
        return {"socket_path": host}
    options: dict[str, Any] = {}
    if port is None:
        options["port"] = None
    host, port = split_host_port(host, port or 0)
    if host:
        options["hostname"] = host
    if port:
        options["port"] = port
    return options
