"""The password prompt of `rapidsmtp send`."""

import getpass
import sys

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


def _parsed(url: str, password: str | None) -> Relay | None:
    try:
        return parse_relay(url, password, mechanisms=_backend.sasl_mechanisms())
    except ValueError:
        return None
