"""The password prompt of `rapidsmtp send`."""

import getpass
import os
import sys
from collections.abc import Iterable

from rapidsmtp import _backend
from rapidsmtp._models.relay_url import Relay, parse_relay
from rapidsmtp.cli.usage import UsageError


def asked_password(url: str) -> str | None:
    """Ask for the password on the terminal if only the password of a relay is missing.

    Args:
        url: The URL of the relay.

    Returns:
        The password; None if it is not needed, or if the standard input is no terminal.

    Raises:
        UsageError: The user ended the input without a password.
    """
    if not sys.stdin.isatty() or _parsed(url, None) is not None:
        return None
    relay = _parsed(url, "unknown")
    if relay is None:  # the URL is wrong; `Sender` reports the error
        return None
    try:
        return getpass.getpass(f"password of {relay.user} at {relay.name}: ")
    except EOFError:
        raise UsageError("no password was given") from None


def relay_passwords(urls: Iterable[str]) -> dict[str, str]:
    """Return the passwords of the relays of a campaign, as far as they have passwords of their own.

    The password of the n-th relay is `RAPIDSMTP_PASSWORD_<n>`. `RAPIDSMTP_PASSWORD` is the password
    of the others. If both are missing, the terminal asks for the password.

    Args:
        urls: The URLs of the relays, in order.

    Raises:
        UsageError: The user ended the input without a password.
    """
    found = {}
    for number, url in enumerate(urls, 1):
        password = os.environ.get(f"RAPIDSMTP_PASSWORD_{number}") or asked_password(url)
        if password:
            found[url] = password
    return found


def _parsed(url: str, password: str | None) -> Relay | None:
    try:
        return parse_relay(url, password, mechanisms=_backend.sasl_mechanisms())
    except ValueError:
        return None
