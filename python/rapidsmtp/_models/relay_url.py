"""The URL of a relay.

Its forms are `smtp://host`, `smtps://host`, `lmtp://host:port` and `lmtp:///path/of/a/socket`.
STARTTLS (RFC 3207) is required if there are credentials or the port is the submission port
(RFC 8314).
"""

import ipaddress
import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from rapidsmtp._domain import to_a_labels

_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
_SUBMISSION = 587
_IMPLICIT_TLS = 465
_STARTTLS = ("required", "opportunistic", "off")
_OPTIONS = ("starttls", "auth")

_UNQUOTED = (
    "in a user name or a password '#', '/', '?', '[' and ']' are written as %23, %2F, %3F, %5B, "
    "%5D, and in a path '@' is written as %40"
)

Password = str | Callable[[], str]
"""A password, or a function that returns a password.

A function is useful for tokens that expire.
"""


class SaslMechanism(NamedTuple):
    """One SASL mechanism, as `sasl_mechanisms` of both backends returns it.

    Attributes:
        name: The name in the EHLO reply.
        tls_rank: The rank on an encrypted connection; 1 is the best. A mechanism with the rank None
            is used only if the caller names it.
        clear_text_rank: The rank on an unencrypted connection, with the same scale as `tls_rank`.
        needs_channel_binding: Whether the mechanism needs channel binding to TLS.
        needs_user: Whether the mechanism needs a user.
        needs_password: Whether the mechanism needs a password or token.
    """

    name: str
    tls_rank: int | None
    clear_text_rank: int | None
    needs_channel_binding: bool
    needs_user: bool
    needs_password: bool


@dataclass(frozen=True, slots=True)
class FixedPassword:
    """A password function that returns a text.

    After a refused login (535), a sender whose password is a text sends no other login. The Django
    backend and the logging handler keep their senders for the whole process, so they pass this
    function instead, and a later message logs in again.

    Attributes:
        text: The password.
    """

    text: str = field(repr=False)

    def __call__(self) -> str:
        return self.text


SaslTable = Iterable[tuple[str, int | None, int | None, bool, bool, bool]]
"""`SaslMechanism` objects as plain tuples."""


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay: the address of the server, and the credentials for the login.

    Attributes:
        scheme: "smtp", "smtps" or "lmtp".
        host: The name or the address; "" for a unix socket.
        port: The port.
        path: The path of a unix socket, or "".
        starttls: "required", "opportunistic" or "off".
        user: The user to log in as, or "".
        password: The password or token, or a function that returns it.
        mechanism: The name of a SASL mechanism in lower case, or "" for the best that the relay
            supports.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    starttls: str = "off"
    user: str = ""
    password: Password = field(default="", repr=False)
    mechanism: str = ""

    @property
    def name(self) -> str:
        """The name of the relay in error and log texts, without credentials."""
        return self.path or f"{self.host}:{self.port}"

    @property
    def logs_in(self) -> bool:
        """Whether the client logs in."""
        return bool(self.user or self.mechanism)

    def for_engine(self) -> dict[str, Any]:
        """Return the engine settings that concern the relay."""
        ask = callable(self.password)
        return {
            "scheme": self.scheme,
            "host": self.host,
            "port": self.port,
            "path": self.path or None,
            "starttls": self.starttls,
            "user": self.user if self.logs_in else None,
            "mechanism": self.mechanism.upper() or None,
            "password": None if ask or not self.logs_in else self.password,
            "ask_password": ask and self.logs_in,
        }


def parse_relay(url: str, password: Password | None = None, *, mechanisms: SaslTable) -> Relay:
    """Parse a relay's URL.

    Args:
        url: The URL.
        password: The password. If None, the password in the URL is used. If the URL has no password
            either, the value of the environment variable `RAPIDSMTP_PASSWORD` is used.
        mechanisms: The SASL mechanisms that the option `auth=` may name, as
            `_backend.sasl_mechanisms()` returns them.

    Raises:
        ValueError: The URL is wrong. The error text never contains the password.
    """
    parts = _split(url)
    given = password or parts.password
    secret = given or os.environ.get("RAPIDSMTP_PASSWORD", "")
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    mechanism, needs_password = _mechanism(parts.options, parts.user, mechanisms)
    if needs_password and not secret:
        raise ValueError("the relay's URL has no password: set RAPIDSMTP_PASSWORD")
    if given and not needs_password and not parts.user:
        # Without this check, the client would send without a login.
        raise ValueError(
            "the relay's URL has no user for the password: write user@ before the host"
        )
    login = bool(parts.user or mechanism)
    starttls = _starttls(parts.options, parts.scheme, parts.path, login or port == _SUBMISSION)
    if parts.scheme == "smtp" and port == _IMPLICIT_TLS and parts.options.get("starttls") != "off":
        # RFC 8314 section 3: a server on this port sends its greeting after the TLS handshake. A
        # client without TLS would wait for the greeting until its time limit.
        raise ValueError(
            "the relay's URL has port 465, where TLS begins before the greeting: write smtps:// "
            "instead of smtp://, or ?starttls=off if the server does not use TLS"
        )
    return Relay(
        scheme=parts.scheme,
        host=parts.host,
        port=port,
        path=parts.path,
        starttls=starttls,
        user=parts.user,
        password=secret,
        mechanism=mechanism,
    )


def without_password(url: str) -> tuple[str, str]:
    """Return a URL without its password, and the password, or "".

    Raises:
        ValueError: The URL is wrong.
    """
    password = _split(url).password
    if not password:
        return url, ""
    scheme, separator, rest = url.partition("://")
    before, slash, path = rest.partition("/")
    before, question, query = before.partition("?")
    userinfo, at, address = before.rpartition("@")
    user = userinfo.partition(":")[0]
    return f"{scheme}{separator}{user}{at}{address}{question}{query}{slash}{path}", password


class _Parts(NamedTuple):
    """The parts of a URL, without percent-encoding. The port is None if the URL has no port."""

    scheme: str
    user: str
    password: str
    host: str
    port: int | None
    path: str
    options: dict[str, str]


def _split(url: str) -> _Parts:
    """Split a URL into its parts (RFC 3986 section 3).

    `urllib.parse.urlsplit` is not used. It removes control characters from a URL, its rules differ
    between versions of Python, and its error texts quote the URL with the password.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise ValueError("the relay's URL must begin with smtp://, smtps:// or lmtp://")
    if " " in url or not url.isprintable():
        raise _wrong("it contains a space or an invisible character")
    before, hash_sign, fragment = rest.partition("#")
    before, _, query = before.partition("?")
    authority, slash, path = before.partition("/")
    # An "@" after the host means that the user or the password contains an unquoted "/", "?" or
    # "#". The part before this character would be the wrong host.
    if "@" in path + query + fragment:
        raise _wrong(_UNQUOTED)
    userinfo, _, address = authority.rpartition("@")
    if "[" in userinfo or "]" in userinfo:
        raise _wrong(_UNQUOTED)
    user, _, secret = userinfo.partition(":")
    host, port = _host_and_port(address)
    if port == 0:
        raise ValueError("the relay's URL has port 0")
    is_socket = scheme == "lmtp" and not address
    if not host and (not is_socket or not path.strip("/")):
        raise ValueError("the relay's URL has no host")
    if (path.strip("/") and not is_socket) or hash_sign:
        raise ValueError("the relay's URL must end after the host, the port and the options")
    if is_socket and authority:
        raise ValueError("the relay's URL has a user for a unix socket: remove the user")
    if authority.startswith("@"):
        raise ValueError("the relay's URL has an empty user: remove the @")
    socket = _visible(slash + path) if is_socket else ""
    return _Parts(scheme, _visible(user), _password(secret), host, port, socket, _options(query))


def _host_and_port(address: str) -> tuple[str, int | None]:
    """Split `host:port`. An IPv6 address is in brackets (RFC 3986 section 3.2.2)."""
    host, bracket, end = address.rpartition("]")
    if bracket:
        # RFC 6874 section 2: the zone of an IPv6 address follows "%25".
        host = host.removeprefix("[").replace("%25", "%", 1)
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _wrong("the address in brackets is not an IPv6 address") from None
        if not address.startswith("[") or end[:1] not in ("", ":"):
            raise _wrong("the brackets are not around the address")
        port = end[1:]
    else:
        host, _, port = address.partition(":")
        host = host.lower()
        # Compatibility characters, such as U+2100, would become other characters in the resolver.
        text = unicodedata.normalize("NFKC", host)
        if any(c.isascii() and not c.isalnum() and c not in "-._" for c in text):
            raise _wrong("a host name has only letters, digits, '-', '_' and '.'")
        try:
            host = to_a_labels(host)
        except ValueError as error:
            raise _wrong(str(error)) from None
    if port and not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65536):
        raise _wrong("the port must be a number from 1 to 65535")
    return host, int(port) if port else None


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if name not in _OPTIONS:
            raise ValueError(f"the relay's URL has an unknown option {name!r}")
        if name in options:
            raise ValueError(f"the relay's URL has the option {name} twice")
        options[name] = _visible(value)
    return options


def _unquoted(text: str) -> str:
    """Decode percent-encoding (RFC 3986 section 2.1)."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _wrong("percent-encoded text must be UTF-8") from None


def _password(text: str) -> str:
    """Decode a password. The error text does not contain the password.

    RFC 4616 section 2: a password for PLAIN contains no NUL. RFC 4013 section 2.3: a password for
    SCRAM contains no control character.
    """
    decoded = _unquoted(text)
    if has_control(decoded):
        raise _wrong("the password contains a control character; check its percent-encoding")
    return decoded


def has_control(text: str) -> bool:
    """Return whether a text contains a control character (C0, DEL or C1)."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def _visible(text: str) -> str:
    """Decode a part that is not secret. It is shown in error texts, and NUL would end a path."""
    decoded = _unquoted(text)
    if not decoded.replace(" ", "").isprintable():
        raise _wrong("it contains a percent-encoded invisible character")
    return decoded


def _wrong(fact: str) -> ValueError:
    return ValueError(f"the relay's URL is wrong: {fact}")


def _mechanism(options: dict[str, str], user: str, mechanisms: SaslTable) -> tuple[str, bool]:
    """Return the mechanism that the URL names, or "", and whether the login needs a password."""
    if "auth" not in options:
        return "", bool(user)
    rows = {row.name.lower(): row for row in map(SaslMechanism._make, mechanisms)}
    chosen = options["auth"].lower()
    if chosen not in rows:
        names = ", ".join(rows)
        raise ValueError(f"auth={chosen} in the relay's URL is unknown; use one of {names}")
    if rows[chosen].needs_user and not user:
        raise ValueError(
            f"auth={chosen} in the relay's URL needs a user: write user@ before the host"
        )
    return chosen, rows[chosen].needs_password


def _starttls(options: dict[str, str], scheme: str, path: str, default: bool) -> str:
    chosen = options.get("starttls")
    if chosen is not None and chosen not in _STARTTLS:
        names = ", ".join(_STARTTLS)
        raise ValueError(f"starttls={chosen} in the relay's URL is unknown; use one of {names}")
    if scheme == "smtps" or path:
        if chosen not in (None, "off"):
            what = "a unix socket" if path else "smtps://, which is TLS from the start"
            raise ValueError(f"starttls={chosen} is not possible over {what}")
        return "off"
    return chosen or ("required" if default else "off")
