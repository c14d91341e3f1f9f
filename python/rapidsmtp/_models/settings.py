"""The settings of a sender: time limits, retries, TLS, rate.

Each object checks its values when it is created. So a wrong value raises an exception at the line
that sets this value, not when the first message is sent. No repr contains a secret.
"""

import ipaddress
import os
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from rapidsmtp._models.pem import read_certificates, read_key

Pipelining: TypeAlias = Literal["auto", "off", "transaction", "stream", "window"]
OnUnknown: TypeAlias = Literal["report", "resend"]

_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_SECONDS |= {"d": 86400, "day": 86400}
_RATE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*/\s*([a-z]{1,6})\s*", re.ASCII)
_VERSIONS = ("1.2", "1.3")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)

MAX_SECONDS = 1_000_000.0
"""The maximum of a time, in seconds: 11 days.

Sockets of Python take at most 2**31 milliseconds. Longer times also overflow clocks and timers.
"""

_MAX_FACTOR = 1000.0
_MAX_COUNT = 2**31 - 1
# With a lower rate, the time between two messages would be above `MAX_SECONDS`.
_MIN_RATE = 1 / MAX_SECONDS
_MAX_RATE = 1e9


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before a retry: random, up to a limit that grows with each attempt.

    The wait before attempt n + 1 is between 0 and `base * factor ** (n - 1)` seconds, but not
    longer than `maximum`. The wait is random, so that messages that were deferred together are not
    retried together.

    Attributes:
        base: The longest possible wait before the second attempt, in seconds.
        factor: The factor by which the longest possible wait grows with each further attempt.
        maximum: The maximum length of any wait, in seconds.

    Raises:
        ValueError: A value is out of its range.
    """

    base: float = 5.0
    factor: float = 2.0
    maximum: float = 300.0

    def __post_init__(self) -> None:
        check_number("base", self.base)
        check_number("factor", self.factor, 1.0, _MAX_FACTOR)
        check_number("maximum", self.maximum, self.base)


Backoff.__module__ = "rapidsmtp"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds; the defaults follow RFC 5321 section 4.5.3.2.

    The limit for a reply applies to the complete reply, not to each read. So a server that sends
    one byte per minute cannot keep a connection busy.

    Attributes:
        connect: The time to open the TCP connection.
        tls: The time for the TLS handshake.
        greeting: The time for the greeting of the server.
        command: The time for the reply to EHLO, STARTTLS, AUTH or RSET.
        mail: The time for the reply to MAIL.
        rcpt: The time for the reply to RCPT.
        data: The time for the reply to DATA.
        block: The time to write one block of the message.
        body: The time for the reply to the message content.
        quit: The time for the reply to QUIT.
        idle: The time after which an unused connection is closed.
        age: The time after which a connection is replaced. A connection is never replaced during a
            message, or before its first message.

    Raises:
        ValueError: A limit is not above zero, or is above 1,000,000.
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
            check_number(name, seconds)
            if not seconds:
                raise ValueError(f"{name} must be above 0")

    def by_name(self) -> dict[str, float]:
        """Return a dict of the limits by their names."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


Timeouts.__module__ = "rapidsmtp"


@dataclass(frozen=True, slots=True)
class TLS:
    """The TLS settings: the certificates and the TLS version.

    Attributes:
        verify: Whether to verify the relay's certificate and name.
        ca_file: The certificates to trust instead of the system's: the path of a PEM file, or its
            bytes.
        certificate: The client's certificate: the path of a PEM file, or its bytes.
        key: The client's private key: the path of a PEM file, or its bytes. None means that
            `certificate` also contains the key.
        server_hostname: The name that the relay's certificate must have; None for the host in the
            URL.
        minimum_version: The lowest TLS version: `"1.2"` or `"1.3"`.

    Raises:
        ValueError: `key` is set without `certificate`, `server_hostname` is no name for a
            certificate, or the version is unknown.
    """

    verify: bool = True
    ca_file: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    # The repr does not contain `certificate`, because its PEM may contain the private key.
    certificate: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    server_hostname: str | None = None
    minimum_version: Literal["1.2", "1.3"] = "1.2"

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise ValueError("a key needs a certificate")
        name = self.server_hostname
        if name is not None and not _is_host_name(name):
            raise ValueError(f"server_hostname is {name!r}: it must be a host name or an address")
        if self.minimum_version not in _VERSIONS:
            raise ValueError(f"minimum_version is {self.minimum_version!r}: it must be 1.2 or 1.3")


TLS.__module__ = "rapidsmtp"


def tls_for_engine(tls: TLS) -> dict[str, Any]:
    """Read the files, and return the engine settings that concern TLS.

    Raises:
        ValueError: A file does not contain what its setting requires.
        OSError: A file cannot be read.
    """
    ca, certificate, chain, key = tls.ca_file, tls.certificate, None, None
    if certificate is not None:
        chain = read_certificates("certificate", certificate)
    if tls.key is not None:
        key = read_key("key", tls.key)
    elif certificate is not None:
        key = read_key("certificate", certificate)
    return {
        "verify": tls.verify,
        "ca": None if ca is None else read_certificates("ca_file", ca),
        "certificate": chain,
        "key": key,
        "server_hostname": tls.server_hostname,
        "minimum_version": tls.minimum_version,
    }


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the login.

    Attributes:
        scheme: "socks5" or "http".
        host: The name or the address of the proxy, without brackets.
        port: The port.
        user: The user to log in as, or "".
        password: The password, or "".
    """

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """The name of the proxy in error and log texts, without credentials."""
        return authority(self.host, self.port)

    @property
    def logs_in(self) -> bool:
        """Whether the client logs in."""
        return bool(self.user)

    def __reduce__(self) -> Any:
        raise TypeError("a Proxy cannot be pickled: it may hold a password")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """The settings of an engine, compiled or pure-Python. `Sender` creates them from its arguments.

    Attributes:
        scheme: `"smtp"`, `"smtps"` (implicit TLS, RFC 8314) or `"lmtp"` (RFC 2033).
        host: The relay's name or address; empty for a Unix socket.
        port: The relay's port.
        path: The path of a Unix socket, or None.
        local_hostname: The name for EHLO; None for this host's name.
        source_address: Host and port to bind sockets to, or None.
        proxy: The proxy through which to connect, or None.
        genuine_sockets: Whether to use the standard library's sockets, even if the program has
            replaced `socket.socket`. The compiled engine always does.
        starttls: `"required"`, `"opportunistic"` or `"off"`.
        verify: Whether to verify the relay's certificate and host name.
        ca: The certificates to trust, as PEM; None for the system's.
        certificate: The client's certificate, as PEM, or None.
        key: The client's private key, as PEM, or None. It may be the same PEM as `certificate`.
        server_hostname: The name that the relay's certificate must have; None for `host`.
        minimum_version: The lowest version of TLS: `"1.2"` or `"1.3"`.
        user: The name to log in with, or None.
        mechanism: The SASL mechanism in upper case; None for the best that the relay supports.
        password: The password or token, or None.
        ask_password: Whether the engine requests the password at each login.
        allow_plaintext_auth: Whether to log in over a connection that is not encrypted.
        connections: The maximum number of connections.
        pipelining: The pipelining mode: `"auto"`, `"off"`, `"transaction"`, `"stream"` or
            `"window"`. The pure-Python engine uses `"transaction"` for all modes except `"off"`.
        window: The maximum number of transactions in flight on a connection with
            `pipelining="window"`.
        window_bytes: The maximum total size of the messages in flight on a connection with
            `pipelining="window"`, in bytes.
        rate: The maximum rate, in messages per second, or None.
        max_messages_per_connection: The maximum number of messages on one connection, or None.
        max_recipients: The maximum number of recipients of one transaction.
        max_attempts: The maximum number of attempts for a recipient that is refused temporarily.
        backoff: The waits between attempts.
        resend_unknown: Whether to send a message again if the relay may have accepted it.
        timeouts: The time limits.
        queue_size: The maximum number of messages without an outcome. While it is reached, the
            engine accepts no further message.
        queue_bytes: The maximum total size of the messages without an outcome, in bytes.
        trace: Whether the engine reports a trace of commands and replies.
        clock_speed: The speed of the clock for backoff, rate, hold-offs and the pace of new
            connections. 1 is real time. Tests set a higher speed to save time.
    """

    scheme: str
    host: str
    port: int
    path: str | None
    local_hostname: str | None
    source_address: tuple[str, int] | None
    proxy: Proxy | None
    genuine_sockets: bool
    starttls: str
    verify: bool
    ca: bytes | None
    certificate: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)
    server_hostname: str | None
    minimum_version: str
    user: str | None
    mechanism: str | None
    password: str | None = field(repr=False)
    ask_password: bool
    allow_plaintext_auth: bool
    connections: int
    pipelining: str
    window: int
    window_bytes: int
    rate: float | None
    max_messages_per_connection: int | None
    max_recipients: int
    max_attempts: int
    backoff: Backoff
    resend_unknown: bool
    timeouts: Timeouts
    queue_size: int
    queue_bytes: int
    trace: bool
    clock_speed: float

    @property
    def relay(self) -> str:
        """The name of the relay in error and log texts, without credentials."""
        if self.path is not None:
            return self.path
        return authority(self.host, self.port)

    @property
    def lmtp(self) -> bool:
        """Whether to use LMTP."""
        return self.scheme == "lmtp"


def authority(host: str, port: int) -> str:
    """Return a host and a port in the form of a URL (RFC 3986 section 3.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def messages_per_second(rate: float | str | None) -> float | None:
    """Return a rate in messages per second; None for no limit.

    Args:
        rate: The rate in messages per second, or a text such as `"600/min"`, `"10/s"`, `"1000/h"`,
            `"300/day"`; None for no limit.

    Raises:
        ValueError: The value is not a rate.
    """
    if rate is None:
        return None
    if isinstance(rate, str):
        match = _RATE.fullmatch(rate)
        if match is None or match[2] not in _SECONDS:
            raise ValueError(f'rate is {rate!r}: it must be a number or like "600/min"')
        rate = float(match[1]) / _SECONDS[match[2]]
    if rate == 0:
        raise ValueError("rate must be above 0")
    check_number("rate", rate, _MIN_RATE, _MAX_RATE)
    return float(rate)


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Check that a value is a whole number, not too small and not too large.

    Raises:
        TypeError: The value is not an `int`.
        ValueError: The value is below `minimum` or above 2**31 - 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} is {value}: it must be at least {minimum}")
    if value > _MAX_COUNT:
        raise ValueError(f"{name} is too large: it must be at most {_MAX_COUNT}")


def check_number(name: str, value: Any, minimum: float = 0.0, maximum: float = MAX_SECONDS) -> None:
    """Check that a value is a number from `minimum` to `maximum`.

    Raises:
        TypeError: The value is not an `int` or a `float`.
        ValueError: The value is out of its range, or is not a number.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if minimum <= value <= maximum:  # false for NaN
        return
    try:
        shown = f"{value:g}"
    except OverflowError:
        shown = "an int of more than 300 digits"
    bound = f"at most {maximum:.0f}" if value > maximum else f"at least {minimum:g}"
    raise ValueError(f"{name} is {shown}: it must be {bound}")


def check_source_address(address: Any) -> None:
    """Check that a value is None, or a host and a port.

    Raises:
        TypeError: The value is not such a pair.
        ValueError: The port is not from 0 to 65535.
    """
    if address is None:
        return
    if not isinstance(address, tuple) or list(map(type, address)) != [str, int]:
        raise TypeError("source_address must be a tuple of a host (str) and a port (int)")
    if not 0 <= address[1] <= 65535:
        raise ValueError("source_address has a port that is not from 0 to 65535")


def _is_host_name(name: str) -> bool:
    """Return whether a certificate can contain a name: a host name in ASCII, or an IP address."""
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return len(name) <= 254 and _HOST_NAME.fullmatch(name) is not None
    return True
