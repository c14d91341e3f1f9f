"""A relay's URL.

`smtp://`, `smtps://`, `lmtp://host:port`, `lmtp:///path/of/a/socket`. STARTTLS (RFC 3207) is
required as soon as there are credentials or the port is that of submission (RFC 8314).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

MECHANISMS = (
    "plain",
    "login",
    "cram-md5",
    "xoauth2",
    "oauthbearer",
    "scram-sha-1",
    "scram-sha-1-plus",
    "scram-sha-256",
    "scram-sha-256-plus",
    "external",
)
"""What `auth=` in a URL may name; the token of the bearer mechanisms is the password."""

_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
_SUBMISSION = 587
_STARTTLS = ("required", "opportunistic", "off")
_OPTIONS = ("starttls", "auth")

_BROKEN = (
    "in a user name or a password '#', '/', '?', '[' and ']' are written as %23, %2F, %3F, %5B, %5D"
)

Password = str | Callable[[], str]
"""A password, or where to ask for it: tokens expire."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Where to send to.

    Attributes:
        scheme: "smtp", "smtps" or "lmtp".
        host: A name or an address; "" where there is a path.
        port: The port.
        path: A unix socket's path, or "".
        starttls: "required", "opportunistic" or "off".
        user: Who logs in, or "".
        password: The password or token, or where to ask for it.
        mechanism: One of `MECHANISMS`, or "" for the best that is offered.
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
        """What to call it in a message: no credentials."""
        return self.path or f"{self.host}:{self.port}"

    @property
    def logs_in(self) -> bool:
        """Whether AUTH is needed."""
        return bool(self.user or self.mechanism)

    def for_engine(self) -> dict[str, Any]:
        """What an engine wants to know of it."""
        asked = callable(self.password)
        return {
            "scheme": self.scheme,
            "host": self.host,
            "port": self.port,
            "path": self.path or None,
            "starttls": self.starttls,
            "user": self.user if self.logs_in else None,
            "mechanism": self.mechanism.upper() or None,
            "password": None if asked or not self.logs_in else self.password,
            "ask_password": asked and self.logs_in,
        }


def parse_relay(url: str, password: Password | None = None) -> Relay:
    """Read a relay's URL.

    Args:
        url: The URL.
        password: The password; where there is none it is the URL's, else that of the environment's
            `RAPIDSMTP_PASSWORD`.

    Raises:
        ValueError: It is not one; the text never has the password.
    """
    try:
        parts = urlsplit(url)
        _check_at(parts)
        port = parts.port
    except ValueError as error:
        # It may quote what stands before the host.
        what = _BROKEN if "@" in url else error
        raise ValueError(f"the relay's URL is wrong: {what}") from None
    scheme = parts.scheme
    if scheme not in _PORTS:
        raise ValueError("the relay's URL must begin with smtp://, smtps:// or lmtp://")
    path = parts.path if scheme == "lmtp" and not parts.hostname else ""
    if (not parts.hostname and not path.strip("/")) or (port == 0):
        raise ValueError("the relay's URL names no host" if port != 0 else "no port 0 in a URL")
    if (parts.path.strip("/") and not path) or parts.fragment:
        raise ValueError("the relay's URL has something behind the host that has no meaning")
    user = unquote(parts.username or "")
    secret = password or unquote(parts.password or "") or os.environ.get("RAPIDSMTP_PASSWORD", "")
    port = port or _PORTS[scheme]
    options = _options(parts.query)
    mechanism = _mechanism(options, user, secret)
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
    """An @ behind the host belongs to a password that ends the host too early for any parser."""
    behind = parts.query + parts.fragment + (parts.path if parts.netloc else "")
    if "@" in behind:
        raise ValueError(_BROKEN)


def _options(query: str) -> dict[str, str]:
    options = parse_qsl(query, keep_blank_values=True)
    for key, _ in options:
        if key not in _OPTIONS:
            raise ValueError(f"the relay's URL has an unknown option {key!r}")
    return dict(options)


def _mechanism(options: dict[str, str], user: str, password: Password) -> str:
    chosen = options.get("auth", "").lower()
    if chosen not in MECHANISMS and "auth" in options:
        names = ", ".join(MECHANISMS)
        raise ValueError(f"auth={chosen} in the relay's URL: it takes {names}")
    if chosen == "external":
        return chosen
    if chosen and not user and chosen != "oauthbearer":
        raise ValueError(f"auth={chosen} in the relay's URL, but no user: user@ before the host")
    if (user or chosen) and not password:
        raise ValueError("the relay's URL has no password: set RAPIDSMTP_PASSWORD")
    return chosen


def _starttls(options: dict[str, str], scheme: str, path: str, wanted: bool) -> str:
    chosen = options.get("starttls")
    if chosen is not None and chosen not in _STARTTLS:
        raise ValueError(f"starttls={chosen} in the relay's URL: it takes {', '.join(_STARTTLS)}")
    if scheme == "smtps" or path:
        if chosen not in (None, "off"):
            raise ValueError(f"starttls={chosen} has no meaning over {scheme}:// like this")
        return "off"
    return chosen or ("required" if wanted else "off")
