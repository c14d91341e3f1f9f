"""The URL of a proxy: `socks5://user:password@host:1080`, `socks5h://host` or `http://host:3128`.

`socks5://` and `socks5h://` have the same meaning: the proxy resolves the relay's host name. If
this host resolved the name, its DNS query would not pass through the proxy and would disclose the
relay.
"""

import ipaddress
import os
import re
from urllib.parse import unquote, urlsplit

from rapidsmtp._models.relay_url import Relay, has_control
from rapidsmtp._models.settings import Proxy

DIRECT = "direct"
"""The value of `proxy=` for connections without a proxy, even if `socket.socket` is replaced."""

_PORTS = {"socks5": 1080, "socks5h": 1080, "http": 80}
_MAX_LENGTH = 255  # RFC 1928 section 5 and RFC 1929: a length is one byte
# The characters of a host name in an HTTP request. Other characters could add header fields.
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
_WRONG = "proxy= must be a URL such as socks5://host:1080, socks5h://host:1080 or http://host:3128"


def parse_proxy(url: str | None, relay: Relay) -> Proxy | None:
    """Parse a proxy's URL, and check that a proxy can connect to the relay.

    Args:
        url: The URL; None or `DIRECT` for no proxy. If the URL has a user and no password, the
            value of the environment variable `RAPIDSMTP_PROXY_PASSWORD` is used.
        relay: The relay.

    Returns:
        The proxy; None for no proxy.

    Raises:
        TypeError: The URL is not a text.
        ValueError: The URL is wrong, or no proxy can connect to the relay. The error text never
            contains the password.
    """
    if url is None or url == DIRECT:
        return None
    if not isinstance(url, str):
        raise TypeError(f"proxy must be a URL, not {type(url).__name__}")
    if has_control(url):  # `urlsplit` would remove some of them
        raise ValueError(_WRONG)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The text of the original error may quote the password.
        raise ValueError(_WRONG) from None
    if parts.scheme not in _PORTS or not _is_host(parts.hostname or ""):
        raise ValueError(_WRONG)
    if port == 0:
        raise ValueError("proxy= has port 0: write the proxy's port")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            "proxy= must end after the host and the port; in a user name or a password "
            "'#', '/', '?', '[' and ']' are written as %23, %2F, %3F, %5B, %5D"
        )
    proxy = Proxy(
        scheme="http" if parts.scheme == "http" else "socks5",
        host=parts.hostname or "",
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username or ""),
        password=_password(parts.username, parts.password),
    )
    _check_login(proxy)
    _check_relay(relay)
    return proxy


def _password(user: str | None, password: str | None) -> str:
    if password is None and user:
        return os.environ.get("RAPIDSMTP_PROXY_PASSWORD", "")
    return unquote(password or "")


def _check_login(proxy: Proxy) -> None:
    if proxy.password and not proxy.user:
        raise ValueError("proxy= has a password but no user: write user:password@ before the host")
    if proxy.scheme == "http" and ":" in proxy.user:
        raise ValueError("proxy= has a user with a colon, which HTTP does not permit (RFC 7617)")
    if has_control(proxy.user + proxy.password):
        # RFC 7617 section 2: the user and the password for HTTP contain no control character.
        raise ValueError(
            "proxy= has a control character in the user or the password; check the percent-encoding"
        )
    try:
        longest = max(len(each.encode()) for each in (proxy.user, proxy.password))
    except UnicodeEncodeError:  # the exception contains the password
        raise ValueError("proxy= has a user or a password that is not valid UTF-8") from None
    if longest > _MAX_LENGTH:
        raise ValueError(f"proxy= has a user or a password longer than {_MAX_LENGTH} bytes")


def _check_relay(relay: Relay) -> None:
    if relay.path:
        raise ValueError("proxy= is not possible with a unix socket: remove proxy=")
    # A zone ("%eth0") has a meaning on this host only.
    if not _is_host(relay.host) or "%" in relay.host:
        raise ValueError(
            f"a proxy cannot reach the relay's host {relay.host!r}: write a name of at most "
            f"{_MAX_LENGTH} characters, or an address without a zone"
        )


def _is_host(host: str) -> bool:
    """Return whether a text is an IP address or a host name in ASCII."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST_NAME.fullmatch(host) is not None
    return True
