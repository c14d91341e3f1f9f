"""Options that several commands share, and what they become for a `Sender`."""

import argparse
import re
import ssl
from typing import TypeAlias

from rapidsmtp.cli.usage import UsageError, positive
from rapidsmtp.settings import TLS, Timeouts, messages_a_second

PIPELINING = ("auto", "off", "transaction", "stream", "window")

_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s|)", re.ASCII)

_Parser: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"


def add_tls(parser: _Parser) -> None:
    """Add the options about certificates and logging in."""
    parser.add_argument("--ca-file", metavar="FILE", help="certificates to trust (PEM)")
    parser.add_argument(
        "--certificate", metavar="FILE", help="ours, with its key, to show to the relay (PEM)"
    )
    parser.add_argument(
        "--allow-plaintext-auth",
        action="store_true",
        help="log in even without TLS, where the URL has ?starttls=off or opportunistic",
    )


def add_connections(parser: _Parser, default: int) -> None:
    """Add the number of connections of a `Sender`."""
    parser.add_argument(
        "--connections",
        type=positive,
        default=default,
        metavar="N",
        help=f"connections of a Sender at most (default {default})",
    )


def port(text: str) -> int:
    """The number of a port, for argparse; 0 is any free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a port")
    return int(text)


def tls_of(options: argparse.Namespace) -> TLS:
    """Read what `add_tls` has added.

    Raises:
        UsageError: One of the files is not what it must be.
    """
    check = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    option, file, wanted = "--ca-file", options.ca_file, "certificates"
    try:
        if options.ca_file is not None:
            check.load_verify_locations(options.ca_file)
        if options.certificate is not None:
            option, file = "--certificate", options.certificate
            wanted = "a certificate and its key, without a phrase"
            # An empty pass phrase: OpenSSL would ask the terminal for one.
            check.load_cert_chain(options.certificate, password="")
    except ssl.SSLError:
        raise UsageError(f"{option} {file}: it must be {wanted}, in PEM") from None
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from None
    return TLS(ca_file=options.ca_file, certificate=options.certificate)


def timeouts_of(seconds: int | None) -> Timeouts:
    """One limit for each thing that a relay is waited for; the usual ones where it is None."""
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


def rate(text: str) -> float:
    """A number of messages a second, or "600/min"; for argparse."""
    try:
        number: float | str = float(text)
    except ValueError:
        number = text
    try:
        found = messages_a_second(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    assert found is not None
    return found


def duration(text: str) -> float:
    """Seconds, or "20ms"; for argparse."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: it must be like 20ms or 0.02s")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)
