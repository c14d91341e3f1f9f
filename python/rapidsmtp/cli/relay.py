"""A relay's URL, and a connection to it that is ready to send.

`smtp://`, `smtps://`, `lmtp://host:port`, `lmtp:///path/of/a/socket`. TLS always verifies here
(RFC 8314), STARTTLS (RFC 3207) is required as soon as there are credentials or the port is that
of submission, and no password leaves in clear text unless that was asked for in so many words.
"""

import os
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

import rapidsmtp as drop_in
from rapidsmtp.cli.usage import UsageError

_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
_SUBMISSION = 587
_STARTTLS = ("required", "opportunistic", "off")
# In smtplib's order; a mechanism that the relay answers with 535 is the last one that is tried.
_MECHANISMS = ("CRAM-MD5", "PLAIN", "LOGIN")


class RelayError(Exception):
    """The relay cannot be reached or will not have us: no message is to blame."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Where to send to, and how."""

    scheme: str
    host: str
    port: int
    path: str
    starttls: str
    user: str
    password: str = field(repr=False)
    context: ssl.SSLContext = field(repr=False)
    allow_plaintext_auth: bool = False
    timeout: float = 120.0

    @property
    def name(self) -> str:
        """What to call it in a message: no credentials."""
        return self.path or f"{self.host}:{self.port}"

    def open(self) -> smtplib.SMTP:
        """Connect, secure the connection and log in.

        Raises:
            RelayError: One of these failed.
        """
        client: smtplib.SMTP | None = None
        with _faults_named(self):
            try:
                client = self._connect()
                self._secure(client)
                if self.user:
                    self._login(client)
                return client
            except BaseException:
                if client is not None:
                    client.close()
                raise

    def _connect(self) -> smtplib.SMTP:
        if self.scheme == "smtps":
            return drop_in.SMTP_SSL(
                self.host, self.port, timeout=self.timeout, context=self.context
            )
        if self.scheme == "lmtp":
            return drop_in.LMTP(self.path or self.host, self.port, timeout=self.timeout)
        return drop_in.SMTP(self.host, self.port, timeout=self.timeout)

    def _secure(self, client: smtplib.SMTP) -> None:
        client.ehlo_or_helo_if_needed()
        if self.starttls == "off":
            return
        if client.has_extn("starttls"):
            client.starttls(context=self.context)
            client.ehlo_or_helo_if_needed()
        elif self.starttls == "required":
            raise RelayError(f"{self.name} offers no STARTTLS, which is required")

    def _login(self, client: smtplib.SMTP) -> None:
        clear = not isinstance(client.sock, ssl.SSLSocket) and not self.path
        if clear and not self.allow_plaintext_auth:
            raise RelayError(f"no password in clear text to {self.name}: --allow-plaintext-auth")
        offered = client.esmtp_features.get("auth", "").upper().split()
        mechanisms = [mechanism for mechanism in _MECHANISMS if mechanism in offered]
        if not mechanisms:
            raise RelayError(f"{self.name} offers no way to log in that we know")
        client.user, client.password = self.user, self.password
        for mechanism in mechanisms:
            method = "auth_" + mechanism.lower().replace("-", "_")
            try:
                client.auth(mechanism, getattr(client, method))
                return
            except smtplib.SMTPAuthenticationError as error:
                if error.smtp_code == 535 or mechanism == mechanisms[-1]:
                    raise


def parse_relay(
    url: str, *, ca_file: str | None, allow_plaintext_auth: bool, timeout: float
) -> Relay:
    """Read a relay's URL.

    Args:
        url: The URL; the password may be in `RAPIDSMTP_PASSWORD` instead.
        ca_file: Certificates to trust instead of the system's.
        allow_plaintext_auth: Whether to log in over a connection that is not encrypted.
        timeout: For each read and write, in seconds.

    Raises:
        UsageError: It is not one; the text never has the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the relay's URL is wrong: {error}") from None
    scheme = parts.scheme
    if scheme not in _PORTS:
        raise UsageError("the relay's URL must begin with smtp://, smtps:// or lmtp://")
    path = parts.path if scheme == "lmtp" and not parts.hostname else ""
    if (not parts.hostname and not path.strip("/")) or (port == 0):
        raise UsageError("the relay's URL names no host" if port != 0 else "no port 0 in a URL")
    if (parts.path.strip("/") and not path) or parts.fragment:
        raise UsageError("the relay's URL has something behind the host that has no meaning")
    user = unquote(parts.username or "")
    password = unquote(parts.password or "") or os.environ.get("RAPIDSMTP_PASSWORD", "")
    if user and not password:
        raise UsageError("the relay's URL has a user and no password: set RAPIDSMTP_PASSWORD")
    port = port or _PORTS[scheme]
    starttls = _starttls(parts.query, scheme, path, bool(user) or port == _SUBMISSION)
    return Relay(
        scheme=scheme,
        host=parts.hostname or "",
        port=port,
        path=unquote(path),
        starttls=starttls,
        user=user,
        password=password,
        context=_context(ca_file),
        allow_plaintext_auth=allow_plaintext_auth,
        timeout=timeout,
    )


def _starttls(query: str, scheme: str, path: str, wanted: bool) -> str:
    options = parse_qsl(query, keep_blank_values=True)
    chosen = dict(options).get("starttls")
    unknown = [key for key, _ in options if key != "starttls"]
    if unknown:
        raise UsageError(f"the relay's URL has an unknown option {unknown[0]!r}")
    if chosen is not None and chosen not in _STARTTLS:
        raise UsageError(f"starttls={chosen} in the relay's URL: it takes {', '.join(_STARTTLS)}")
    if scheme == "smtps" or path:
        if chosen not in (None, "off"):
            raise UsageError(f"starttls={chosen} has no meaning over {scheme}:// like this")
        return "off"
    return chosen or ("required" if wanted else "off")


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--ca-file {ca_file}: {error.strerror or error}") from None


@contextmanager
def _faults_named(relay: Relay) -> Iterator[None]:
    """Turn whatever a connection can raise into one line that says what to look at."""
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        raise RelayError(f"{relay.name} refused the login: {_reply(error)}") from None
    except smtplib.SMTPResponseException as error:
        raise RelayError(f"{relay.name} would not have us: {_reply(error)}") from None
    except smtplib.SMTPException as error:
        raise RelayError(f"{relay.name}: {error}") from None
    except socket.gaierror:
        raise RelayError(f"the host name {relay.host!r} does not resolve") from None
    except ssl.SSLCertVerificationError as error:
        fault = error.verify_message or error.reason
        raise RelayError(f"the certificate of {relay.name} is not trusted: {fault}") from None
    except ssl.SSLError as error:
        raise RelayError(f"no TLS with {relay.name}: {error.reason or error}") from None
    except TimeoutError:
        raise RelayError(f"no answer from {relay.name} in {relay.timeout:g} seconds") from None
    except (OSError, UnicodeError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise RelayError(f"no connection to {relay.name}: {cause}") from None


def _reply(error: smtplib.SMTPResponseException) -> str:
    text = error.smtp_error
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return " ".join(f"{error.smtp_code} {shown}".split())
