"""A sender's settings: time limits, retries, TLS, rate.

All are checked when they are made, so that a mistake shows up where it stands and not with the
first message. Nothing secret is in a repr.
"""

import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_RATE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*/\s*([a-z]{1,6})\s*", re.ASCII)
_VERSIONS = ("1.2", "1.3")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a message is tried again, drawn at random up to a limit that grows.

    The wait before attempt n + 1 is anything from 0 to `base * factor ** (n - 1)` seconds, so
    that what was deferred together does not come back together.

    Attributes:
        base: The limit before the second attempt, in seconds.
        factor: By how much the limit grows with each attempt.
        maximum: Where it stops growing, in seconds.

    Raises:
        ValueError: One of them is out of its range.
    """

    base: float = 5.0
    factor: float = 2.0
    maximum: float = 300.0

    def __post_init__(self) -> None:
        _check_number("base", self.base, 0.0)
        _check_number("factor", self.factor, 1.0)
        _check_number("maximum", self.maximum, self.base)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each thing may take, in seconds; the limits of RFC 5321 section 4.5.3.2.

    A limit is for a whole reply: one byte a minute does not hold a connection.

    Attributes:
        connect: A TCP connection.
        tls: A TLS handshake.
        greeting: The greeting.
        command: The reply to EHLO, STARTTLS, AUTH and RSET.
        mail: The reply to MAIL.
        rcpt: The reply to RCPT.
        data: The reply to DATA.
        block: A block of the message, to be written.
        body: The reply to the message.
        quit: The reply to QUIT.
        idle: So long a connection with nothing to do is kept.
        age: So old a connection may become; it is replaced between two messages.

    Raises:
        ValueError: One of them is not above zero.
    """

    connect: float = 30.0
    tls: float = 60.0
    greeting: float = 300.0
    command: float = 300.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    block: float = 180.0
    body: float = 600.0
    quit: float = 5.0
    idle: float = 20.0
    age: float = 600.0

    def __post_init__(self) -> None:
        for name, seconds in self.by_name().items():
            _check_number(name, seconds, 0.0)
            if not seconds:
                raise ValueError(f"{name} must be above 0")

    def by_name(self) -> dict[str, float]:
        """The seconds by the name of what they limit."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, slots=True)
class TLS:
    """How a connection is encrypted, and who is believed.

    Attributes:
        verify: Whether the relay's certificate and name are checked.
        ca_file: Certificates to trust instead of the system's: a PEM file's path, or its bytes.
        certificate: A certificate to show to the relay, likewise.
        key: Its private key, likewise; None where it is in the same PEM.
        server_hostname: The name that the certificate must have, where it is not the URL's.
        minimum_version: `"1.2"` or `"1.3"`.

    Raises:
        ValueError: There is a key and no certificate, or no such version.
    """

    verify: bool = True
    ca_file: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    # A private key may stand in the certificate's PEM as well.
    certificate: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    server_hostname: str | None = None
    minimum_version: str = "1.2"

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise ValueError("a key needs a certificate")
        if self.minimum_version not in _VERSIONS:
            raise ValueError(f"minimum_version is {self.minimum_version!r}: it must be 1.2 or 1.3")

    def for_engine(self) -> dict[str, Any]:
        """Read the files.

        Raises:
            ValueError: One of them is not PEM.
            OSError: One of them cannot be read.
        """
        certificate = _pem("certificate", self.certificate)
        return {
            "verify": self.verify,
            "ca": _pem("ca_file", self.ca_file),
            "certificate": certificate,
            "key": certificate if self.key is None else _pem("key", self.key),
            "server_hostname": self.server_hostname,
            "minimum_version": self.minimum_version,
        }


def messages_a_second(rate: float | str | None) -> float | None:
    """Read a rate.

    Args:
        rate: Messages a second, or a text such as `"600/min"`, `"10/s"`, `"1000/h"`; None for
            no limit.

    Raises:
        ValueError: It is not a rate.
    """
    if rate is None:
        return None
    if isinstance(rate, str):
        match = _RATE.fullmatch(rate)
        if match is None or match[2] not in _SECONDS:
            raise ValueError(f'rate is {rate!r}: it must be a number or like "600/min"')
        rate = float(match[1]) / _SECONDS[match[2]]
    _check_number("rate", rate, 0.0)
    if not rate:
        raise ValueError("rate must be above 0")
    return float(rate)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not a whole number.

    Raises:
        TypeError: It is no int.
        ValueError: It is below the least.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} is {value}: it must be at least {least}")


def _check_number(name: str, value: Any, least: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{name} is {value:g}: it must be at least {least:g}")


def _pem(name: str, source: str | os.PathLike[str] | bytes | None) -> bytes | None:
    if source is None:
        return None
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if b"-----BEGIN " not in content:
        where = "" if isinstance(source, bytes) else f" {os.fspath(source)}:"
        raise ValueError(f"{name}:{where} not PEM")
    return content
