"""Options that several commands share, and functions that convert them for a `Sender`."""

import argparse
import re
from typing import TypeAlias, get_args

from rapidsmtp._models.settings import (
    MAX_SECONDS,
    TLS,
    Pipelining,
    Timeouts,
    messages_per_second,
)
from rapidsmtp.cli.usage import UsageError, positive

PIPELINING: tuple[Pipelining, ...] = get_args(Pipelining)

DEFAULT_TO = "{{ email }}"
"""The To field of a message without --template: the column `email` of the recipients list."""

_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s|)", re.ASCII)
_LAST_PORT = 65_535

_Parser: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"


def add_tls(parser: _Parser) -> None:
    """Add the options for certificates and for the login."""
    parser.add_argument(
        "--ca-file", metavar="FILE", help="trusted certificates (PEM), instead of the system's"
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        help="client certificate and its private key, in one PEM file",
    )
    parser.add_argument(
        "--allow-plaintext-auth",
        action="store_true",
        help="allow a login without TLS if the URL has ?starttls=off or ?starttls=opportunistic",
    )


def add_connections(parser: _Parser, default: int) -> None:
    """Add the option for the maximum number of connections of a `Sender`."""
    parser.add_argument(
        "--connections",
        type=positive,
        default=default,
        metavar="N",
        help=f"maximum number of connections (default {default})",
    )


def port(text: str) -> int:
    """Parse a port number, for argparse. With port 0, the system chooses a free port.

    Raises:
        argparse.ArgumentTypeError: The text is not a port number.
    """
    if not (text.isascii() and text.isdecimal()) or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number (0 to {_LAST_PORT})")
    return int(text)


def tls_settings(options: argparse.Namespace) -> TLS:
    """Check the files of `--ca-file` and `--certificate`, and return the TLS settings.

    Raises:
        UsageError: A file cannot be read, or does not contain what its option requires.
    """
    import ssl  # imported here, because --help does not need it

    check = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    option, file, content = "--ca-file", options.ca_file, "certificates"
    try:
        if options.ca_file is not None:
            check.load_verify_locations(options.ca_file)
        if options.certificate is not None:
            option, file = "--certificate", options.certificate
            content = "a certificate and its unencrypted private key"
            # With `password=""`, an encrypted key causes an error. Without this argument, OpenSSL
            # would ask for the key's password on the terminal.
            check.load_cert_chain(options.certificate, password="")
    except ssl.SSLError:
        raise UsageError(f"{option} {file}: the file must contain {content}, in PEM") from None
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from None
    return TLS(ca_file=options.ca_file, certificate=options.certificate)


def timeout_settings(seconds: int | None) -> Timeouts:
    """Return the timeouts of a `Sender`.

    Args:
        seconds: The time limit for connecting and for each reply, in seconds. None means the
            default timeouts.
    """
    if seconds is None:
        return Timeouts()
    limit = float(seconds)
    return Timeouts(
        connect=limit,
        tls=limit,
        greeting=limit,
        command=limit,
        mail=limit,
        rcpt=limit,
        data=limit,
        block=limit,
        body=limit,
    )


def seconds(text: str) -> int:
    """Parse a whole number of seconds, from 1 to `MAX_SECONDS`, for argparse.

    Raises:
        argparse.ArgumentTypeError: The text is not such a number.
    """
    number = positive(text)
    if number > MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is too large: the maximum is {MAX_SECONDS:.0f}")
    return number


def rate(text: str) -> float:
    """Parse a number of messages per second, or a rate such as "600/min", for argparse.

    Raises:
        argparse.ArgumentTypeError: The text is not a rate.
    """
    try:
        number: float | str = float(text)
    except ValueError:
        number = text
    try:
        found = messages_per_second(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    assert found is not None
    return found


def duration(text: str) -> float:
    """Parse seconds, or a duration such as "20ms", for argparse.

    Returns:
        The duration in seconds.

    Raises:
        argparse.ArgumentTypeError: The text is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write it like 20ms or 0.02s")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)
