"""A connection to a relay that is ready to send.

TLS always verifies here (RFC 8314), and nobody logs in over clear text unless that was asked for
in so many words.
"""

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import rapidsmtp as drop_in
from rapidsmtp import auth
from rapidsmtp.cli.usage import UsageError
from rapidsmtp.errors import RelayError as RelayError
from rapidsmtp.relay import parse_relay as read_url

_Mechanism: TypeAlias = "Callable[[Relay, smtplib.SMTP], Any]"


def _by_password(made: Callable[[str, str], Any]) -> _Mechanism:
    return lambda relay, client: made(relay.user, relay.password)


def _bound(made: Callable[[str, str, object], Any]) -> _Mechanism:
    return lambda relay, client: made(relay.user, relay.password, client)


# What `auth=` in a URL may name (`rapidsmtp.relay.MECHANISMS`).
_MECHANISMS: dict[str, _Mechanism] = {
    "plain": _by_password(auth.Plain),
    "login": _by_password(auth.Login),
    "cram-md5": _by_password(auth.CramMD5),
    "xoauth2": _by_password(auth.XOAuth2),
    "oauthbearer": lambda relay, client: auth.OAuthBearer(
        relay.user, relay.password, relay.host, relay.port
    ),
    "scram-sha-1": _by_password(auth.ScramSHA1),
    "scram-sha-1-plus": _bound(auth.ScramSHA1Plus),
    "scram-sha-256": _by_password(auth.ScramSHA256),
    "scram-sha-256-plus": _bound(auth.ScramSHA256Plus),
    "external": lambda relay, client: auth.External(relay.user),
}
# Where the URL names none: smtplib's order, then what smtplib does not know.
_UNASKED = ("cram-md5", "plain", "login", "scram-sha-256", "scram-sha-1")


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
    mechanism: str = ""
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
                if self.user or self.mechanism:
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
            raise RelayError(f"no login in clear text to {self.name}: --allow-plaintext-auth")
        offered = client.esmtp_features.get("auth", "").lower().split()
        wanted = (self.mechanism,) if self.mechanism else _UNASKED
        chosen = next((name for name in wanted if name in offered), None)
        if chosen is None:
            way = f"AUTH {self.mechanism.upper()}" if self.mechanism else "AUTH by a password"
            raise RelayError(f"{self.name} does not offer {way}; it offers {_shown(offered)}")
        # One only: after a refusal a weaker one would show the password to whoever refused.
        try:
            client.auth(chosen.upper(), _MECHANISMS[chosen](self, client))
        except ValueError as error:  # a character that no password may have, no TLS to bind to
            raise RelayError(f"no login to {self.name}: {error}") from None


def parse_relay(
    url: str,
    *,
    ca_file: str | None = None,
    certificate: str | None = None,
    allow_plaintext_auth: bool = False,
    timeout: float = 120.0,
) -> Relay:
    """Read a relay's URL.

    Args:
        url: The URL; the password may be in `RAPIDSMTP_PASSWORD` instead.
        ca_file: Certificates to trust instead of the system's (PEM).
        certificate: A certificate and its key, to show to the relay (PEM).
        allow_plaintext_auth: Whether to log in over a connection that is not encrypted.
        timeout: For each read and write, in seconds.

    Raises:
        UsageError: It is not one; the text never has the password.
    """
    try:
        parsed = read_url(url)
    except ValueError as error:
        raise UsageError(str(error)) from None
    assert isinstance(parsed.password, str)
    return Relay(
        scheme=parsed.scheme,
        host=parsed.host,
        port=parsed.port,
        path=parsed.path,
        starttls=parsed.starttls,
        user=parsed.user,
        password=parsed.password,
        context=_context(ca_file, certificate),
        mechanism=parsed.mechanism,
        allow_plaintext_auth=allow_plaintext_auth,
        timeout=timeout,
    )


def _context(ca_file: str | None, certificate: str | None) -> ssl.SSLContext:
    option, file = "--ca-file", ca_file
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if certificate is not None:
            option, file = "--certificate", certificate
            # An empty pass phrase: OpenSSL would ask the terminal for one.
            context.load_cert_chain(certificate, password="")
    except ssl.SSLError:
        wanted = (
            "certificates" if file == ca_file else "a certificate and its key, without a phrase"
        )
        raise UsageError(f"{option} {file}: it must be {wanted}, in PEM") from None
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from None
    return context


@contextmanager
def _faults_named(relay: Relay) -> Iterator[None]:
    """Turn whatever a connection can raise into one line that says what to look at."""
    try:
        yield
    except RelayError:
        raise
    except smtplib.SMTPAuthenticationError as error:
        raise RelayError(f"{relay.name} refused the login: {_reply(error)}") from None
    except smtplib.SMTPResponseException as error:
        raise RelayError(f"{relay.name} would not have us: {_reply(error)}") from None
    except smtplib.SMTPException as error:
        raise RelayError(f"{relay.name}: {error}") from None
    except (socket.gaierror, UnicodeError):  # no such name, or none that could be
        raise RelayError(f"the host name {relay.host!r} does not resolve") from None
    except ssl.SSLCertVerificationError as error:
        fault = error.verify_message or error.reason
        raise RelayError(f"the certificate of {relay.name} is not trusted: {fault}") from None
    except ssl.SSLError as error:
        raise RelayError(f"no TLS with {relay.name}: {error.reason or error}") from None
    except TimeoutError:
        raise RelayError(f"no answer from {relay.name} in {relay.timeout:g} seconds") from None
    except (OSError, ValueError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise RelayError(f"no connection to {relay.name}: {cause}") from None


def _reply(error: smtplib.SMTPResponseException) -> str:
    text = error.smtp_error
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return " ".join(f"{error.smtp_code} {shown}".split())


def _shown(offered: Sequence[str]) -> str:
    return " ".join(offered).upper() or "none"
