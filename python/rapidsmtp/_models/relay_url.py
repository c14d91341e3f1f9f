"""The URL of a relay.

Its forms are `smtp://host`, `smtps://host`, `lmtp://host:port` and `lmtp:///path/of/a/socket`.
STARTTLS (RFC 3207) is required if there are credentials or the port is the submission port
(RFC 8314).
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
_SUBMISSION = 587
_STARTTLS = ("required", "opportunistic", "off")
_OPTIONS = ("starttls", "auth")

_UNQUOTED = (
    "in a user name or a password '#', '/', '?', '[' and ']' are written as %23, %2F, %3F, %5B, %5D"
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
    try:
        parts = urlsplit(url)
        _check_at(parts)
        port = parts.port
    except ValueError as error:
        # The text of the original error may quote the password. So this text is used only if the
        # URL has no "@" and therefore no password.
        what = _UNQUOTED if "@" in url else error
        raise ValueError(f"the relay's URL is wrong: {what}") from None
    scheme = parts.scheme
    if scheme not in _PORTS:
        raise ValueError("the relay's URL must begin with smtp://, smtps:// or lmtp://")
    path = parts.path if scheme == "lmtp" and not parts.hostname else ""
    if port == 0:
        raise ValueError("the relay's URL has port 0")
    if not parts.hostname and not path.strip("/"):
        raise ValueError("the relay's URL has no host")
    if (parts.path.strip("/") and not path) or parts.fragment:
        raise ValueError("the relay's URL must end after the host, the port and the options")
    user = unquote(parts.username or "")
    secret = password or unquote(parts.password or "") or os.environ.get("RAPIDSMTP_PASSWORD", "")
    port = port or _PORTS[scheme]
    options = _options(parts.query)
    mechanism = _mechanism(options, user, secret, mechanisms)
    login = bool(user or mechanism)
    return Relay(
        scheme=scheme,
        host=parts.hostname or "",
        port=port,
        path=unquote(path),
        starttls=_starttls(options, scheme, path, login or port == _SUBMISSION),
        user=user,
        password=secret,
        mechanism=mechanism,
    )


def _check_at(parts: SplitResult) -> None:
    # An "@" after the host means that the user name or the password contains an unquoted "/", "?"
    # or "#". Every URL parser ends the host at such a character, so the result would be a wrong
    # host.
    after_host = parts.query + parts.fragment + (parts.path if parts.netloc else "")
    if "@" in after_host:
        raise ValueError(_UNQUOTED)


def _options(query: str) -> dict[str, str]:
    options = parse_qsl(query, keep_blank_values=True)
    for key, _ in options:
        if key not in _OPTIONS:
            raise ValueError(f"the relay's URL has an unknown option {key!r}")
    return dict(options)


def _mechanism(
    options: dict[str, str], user: str, password: Password, mechanisms: SaslTable
) -> str:
    if "auth" not in options:
        _require_password(bool(user), password)
        return ""
    rows = {row.name.lower(): row for row in map(SaslMechanism._make, mechanisms)}
    chosen = options["auth"].lower()
    if chosen not in rows:
        names = ", ".join(rows)
        raise ValueError(f"auth={chosen} in the relay's URL is unknown; use one of {names}")
    if rows[chosen].needs_user and not user:
        raise ValueError(
            f"auth={chosen} in the relay's URL needs a user: write user@ before the host"
        )
    _require_password(rows[chosen].needs_password, password)
    return chosen


def _require_password(needed: bool, password: Password) -> None:
    if needed and not password:
        raise ValueError("the relay's URL has no password: set RAPIDSMTP_PASSWORD")


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
