"""What an engine is told once, at its birth: the arguments of `Engine`, by name."""

import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The engine's settings.

    Attributes:
        scheme: `"smtp"`, `"smtps"` (TLS from the first octet, RFC 8314) or `"lmtp"` (RFC 2033).
        host: the relay's name or address; empty for a Unix socket.
        port: the relay's port.
        path: the path of a Unix socket, or None.
        local_hostname: the name for EHLO; None asks this host for it.
        source_address: host and port to bind sockets to, or None.
        starttls: `"required"`, `"opportunistic"` or `"off"`.
        verify: whether certificates and host names are verified.
        ca: certificates to trust, as PEM; None trusts the system's.
        certificate: the client's certificate, as PEM, or None.
        key: its key, as PEM; None where it stands with the certificate.
        server_hostname: the name that the certificate must have; None for `host`.
        minimum_version: of TLS: `"1.2"` or `"1.3"`.
        user: the name to log in with, or None.
        mechanism: the SASL mechanism in upper case; None for the best that is offered.
        password: the password or token, or None.
        ask_password: whether it is asked for, at each login, through `attend`.
        allow_plaintext_auth: whether to log in over a connection that is not encrypted.
        connections: the most that are open at once.
        pipelining: `"off"`; anything else means transaction where PIPELINING is offered.
        window: unused in this half.
        rate: messages a second, or None.
        max_messages_per_connection: after so many a connection is replaced, or None.
        max_recipients: the most in one transaction.
        max_attempts: how often a message is tried.
        backoff: base, factor and maximum of the wait between attempts, in seconds.
        resend_unknown: whether a message whose fate is unknown is sent again.
        timeouts: time limits in seconds, by name.
        queue_size: the most messages that are undecided at once.
        queue_bytes: the most octets of them.
        window_bytes: unused in this half.
        trace: whether the dialogue is told through `attend`.
        path_of: renders an address that is not plain as a path; raises ValueError.
    """

    scheme: str
    host: str
    port: int
    path: str | None
    local_hostname: str | None
    source_address: tuple[str, int] | None
    starttls: str
    verify: bool
    ca: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)
    server_hostname: str | None
    minimum_version: str
    user: str | None
    mechanism: str | None
    password: str | None = field(repr=False)
    ask_password: bool
    allow_plaintext_auth: bool
    connections: int
    pipelining: str
    window: int
    rate: float | None
    max_messages_per_connection: int | None
    max_recipients: int
    max_attempts: int
    backoff: tuple[float, float, float]
    resend_unknown: bool
    timeouts: Mapping[str, float]
    queue_size: int
    queue_bytes: int
    window_bytes: int
    trace: bool
    path_of: Callable[[str], str]

    @property
    def relay(self) -> str:
        """What to call the relay in a line for people: no credentials."""
        if self.path is not None:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def lmtp(self) -> bool:
        return self.scheme == "lmtp"

    def tls_context(self) -> ssl.SSLContext:
        """The settings of TLS.

        Raises:
            ValueError: the certificates or the key cannot be read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
        context.minimum_version = versions[self.minimum_version]
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.ca is not None:
                context.load_verify_locations(cadata=self.ca.decode("ascii"))
            elif self.verify:
                context.load_default_certs()
            if self.certificate is not None:
                _load_certificate(context, self.certificate, self.key)
        except (ssl.SSLError, UnicodeDecodeError) as error:
            reason = getattr(error, "reason", None) or "no PEM"
            raise ValueError(f"the certificates or the key cannot be read: {reason}") from None
        return context


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes | None) -> None:
    """Python's ssl reads a key from a file only, so it is given one that nobody else can read."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "certificate.pem")
        file.touch(mode=0o600)
        file.write_bytes(certificate + b"\n" + (key or b""))
        # An empty pass phrase: OpenSSL would ask the terminal for one.
        context.load_cert_chain(file, password="")
