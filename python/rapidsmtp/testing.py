"""A real SMTP server inside the process, for tests, the demo and benchmarks.

`Sink` accepts messages over SMTP (RFC 5321) or LMTP (RFC 2033) and keeps them for inspection. It
delivers no message. A `Fault` is a wrong or late reply of the sink, or a closed connection. The
sink runs on threads of the compiled backend that never call Python. So the sink also replies while
the program under test blocks.

    with Sink(faults=[Fault("rcpt", occurrence=3, reply="450 4.2.1 later")]) as sink:
        client = smtplib.SMTP(sink.host, sink.port)
"""

import email
import email.policy
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import Policy
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from rapidsmtp import _backend

__all__ = ["Fault", "ReceivedMessage", "Sink"]

# The time between two checks of `Sink.wait_for`, in seconds.
_CHECK_INTERVAL = 0.005


@dataclass(frozen=True)
class Fault:
    """A wrong or late reply of a sink, or a connection that the sink closes.

    The attribute `message` counts transactions. MAIL starts a transaction, and the following
    commands on the connection belong to the transaction until it ends. A command outside a
    transaction belongs to the next transaction. If several faults match a command, the sink applies
    the first of them, in the order of its argument `faults`.

    Attributes:
        at: The command: `connect` (the greeting), `ehlo` (LHLO too), `helo`, `starttls`, `auth`,
            `mail`, `rcpt`, `data`, `body` (the final reply; LMTP has one for each recipient),
            `bdat`, `rset`, `noop`, `vrfy`, `expn`, `help`, `quit`, or `unknown` for any other
            command.
        message: The number of the transaction, counted from 1 since the start of the sink or the
            last `reset`; `None` means every transaction.
        occurrence: The number of the command among the commands of its kind, counted from 1; `None`
            means every command. `rcpt`, `data`, `body` and `bdat` are counted in the transaction,
            `connect` since the start of the sink or the last `reset`, and all other commands on the
            connection.
        address: The address that must match: the sender (`mail`), the recipient (`rcpt`, and `body`
            over LMTP), or one of the envelope's addresses (`data`, `bdat`, and `body` over SMTP);
            `None` means every address.
        times: The maximum number of commands to which the fault is applied; `None` for no limit.
        reply: The reply to send instead of the sink's own reply. If a `str` does not end in CRLF,
            the sink appends CRLF. `bytes` are sent unchanged. The sink executes the command only if
            this reply is 2yz (354 for `data`).
        close: The way to close the connection after the reply: `orderly`, or with a TCP `reset`.
            `None` keeps the connection open.
        delay: The delay before the reply, in seconds. If only `delay` is set, the sink sends its
            own reply after the delay.
    """

    at: str
    message: int | None = field(default=None, kw_only=True)
    occurrence: int | None = field(default=None, kw_only=True)
    address: str | None = field(default=None, kw_only=True)
    times: int | None = field(default=None, kw_only=True)
    reply: str | bytes | None = field(default=None, kw_only=True)
    close: Literal["orderly", "reset"] | None = field(default=None, kw_only=True)
    delay: float = field(default=0.0, kw_only=True)

    def _reply_bytes(self) -> bytes | None:
        if not isinstance(self.reply, str):
            return self.reply
        reply = self.reply.encode("utf-8", "surrogateescape")
        return reply if reply.endswith(b"\r\n") else reply + b"\r\n"


class ReceivedMessage(EmailMessage):
    """A message that a sink accepted: an `email.message.EmailMessage` with its envelope.

    `message["Subject"]`, `get_body()`, `iter_attachments()` and all other methods read `data`. The
    first of these calls parses `data` with `email.policy.default`. Two messages are equal if all
    attributes in the following list are equal.

    Attributes:
        sender: The reverse path without its brackets; empty for a bounce.
        recipients: The accepted recipients, in the order of their RCPT commands.
        mail_options: The parameters of MAIL, as the client sent them.
        rcpt_options: The parameters of each recipient's RCPT.
        data: The content, without dot-stuffing.
        user: The user who logged in, or `None`.
        tls: Whether the connection was encrypted.
    """

    sender: str
    recipients: list[str]
    mail_options: list[str]
    rcpt_options: list[list[str]]
    data: bytes
    user: str | None
    tls: bool

    def __init__(
        self,
        policy: "Policy[Any] | None" = None,
        *,
        sender: str = "",
        recipients: Iterable[str] = (),
        mail_options: Iterable[str] = (),
        rcpt_options: Iterable[list[str]] = (),
        data: bytes = b"",
        user: str | None = None,
        tls: bool = False,
    ) -> None:
        # A test may receive hundreds of thousands of messages and read none of them. So the
        # attributes of EmailMessage are set on first access. A call with a policy comes from a
        # method of EmailMessage that creates a new part of a message. A part is not parsed, so its
        # attributes are set here.
        if policy is not None:
            super().__init__(policy)
        self.sender = sender
        self.recipients = list(recipients)
        self.mail_options = list(mail_options)
        self.rcpt_options = list(rcpt_options)
        self.data = data
        self.user = user
        self.tls = tls

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Parse the data. Python calls this method only for an attribute without a value."""
            if name not in _PARSED or "data" not in vars(self):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            content = self.data.replace(b"\r\n", b"\n")
            parsed = email.message_from_bytes(content, policy=email.policy.default)
            # An attribute that the program has set keeps its value.
            vars(self).update(vars(parsed) | vars(self))
            return vars(self)[name]

    def _identity(self) -> tuple[Any, ...]:
        return (
            self.sender,
            self.recipients,
            self.mail_options,
            self.rcpt_options,
            self.data,
            self.user,
            self.tls,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReceivedMessage):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((self.sender, self.data))

    def __repr__(self) -> str:
        recipients = ", ".join(self.recipients)
        return f"<ReceivedMessage from <{self.sender}> to {recipients}, {len(self.data)} bytes>"


# The attributes that parsing sets. Their names differ between Python versions, so they are read
# from an EmailMessage object.
_PARSED = frozenset(vars(EmailMessage()))


class Sink:
    """An SMTP or LMTP server that runs until it is closed. It is a context manager.

    Args:
        extensions: The capabilities in the EHLO reply, such as `"SIZE 1000"`. The sink rejects the
            use of any other capability. `None` means PIPELINING, SIZE, 8BITMIME, SMTPUTF8,
            ENHANCEDSTATUSCODES, CHUNKING and DSN. STARTTLS and AUTH are added for `tls` and
            `credentials`. An entry such as `"AUTH PLAIN"` limits the login to the listed
            mechanisms.
        latency: The delay in each direction, in seconds. A round trip takes twice this time.
        faults: The faults to inject.
        lmtp: Whether to use LMTP instead of SMTP.
        host: The address to listen on.
        port: The port to listen on; 0 for any free port.
        path: The path of a Unix socket to listen on, instead of host and port. `close` removes the
            socket.
        tls: `"starttls"` or `"implicit"`, which both need a certificate; `None` for no TLS.
        certificate: The certificate chain in PEM: a path, or the `bytes` themselves.
        key: The private key in PEM: a path, or the `bytes` themselves. `None` if `certificate` also
            contains the key.
        credentials: The password or token of each user. With at least one user, the sink accepts
            MAIL only after a login.
        store: Whether to keep the accepted messages.
        wire: Whether to keep the bytes that each client sent. With TLS, the bytes are decrypted.
        threads: The number of threads that serve connections. These threads inherit the CPU
            affinity of the thread that creates the sink.

    Raises:
        RuntimeError: The compiled backend of rapidsmtp is not installed.
        ValueError: A setting is wrong.
        OSError: The socket cannot be opened.
    """

    def __init__(
        self,
        extensions: Iterable[str] | None = None,
        latency: float = 0.0,
        faults: Iterable[Fault] = (),
        *,
        lmtp: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | os.PathLike[str] | None = None,
        tls: Literal["starttls", "implicit"] | None = None,
        certificate: str | os.PathLike[str] | bytes | None = None,
        key: str | os.PathLike[str] | bytes | None = None,
        credentials: Mapping[str, str] | None = None,
        store: bool = True,
        wire: bool = False,
        threads: int = 1,
    ) -> None:
        native: type[_backend.Sink] | None = _backend.native("Sink")
        if native is None:
            raise RuntimeError(
                "Sink needs the compiled backend of rapidsmtp; only the pure-Python one is "
                "installed"
            )
        if threads < 1:
            raise ValueError(f"threads is {threads}: it must be at least 1")
        self._native = native(
            host=host,
            port=port,
            path=path,
            lmtp=lmtp,
            extensions=None if extensions is None else list(extensions),
            latency=latency,
            faults=[_fault_tuple(fault) for fault in faults],
            tls=_tls_tuple(tls, certificate, key),
            credentials=dict(credentials or {}),
            store=store,
            wire=wire,
            threads=threads,
        )
        self._scheme = "lmtp" if lmtp else "smtps" if tls == "implicit" else "smtp"
        self._messages: list[ReceivedMessage] = []
        self._lock = threading.Lock()
        #: The path of the unix socket; `None` on TCP.
        self.path: str | None = None if path is None else os.fspath(path)
        #: The address and the port on TCP; empty and 0 on a unix socket.
        self.host: str
        self.port: int
        self.host, self.port = self._native.address() or ("", 0)

    @property
    def url(self) -> str:
        """The sink's URL, for a sender."""
        if self.path is not None:
            return f"{self._scheme}://{quote(str(Path(self.path).absolute()))}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages accepted so far, in the order of acceptance; empty with `store=False`.

        Each access returns a new list. All lists contain the same message objects.
        """
        with self._lock:
            self._messages += map(_received, self._native.messages(len(self._messages)))
            return self._messages.copy()

    def take_messages(self) -> list[ReceivedMessage]:
        """Return the messages accepted so far, and remove them from the sink.

        A sink that runs for a long time then needs no memory for old messages. The counters stay.
        """
        with self._lock:
            native = self._native.take_messages()[len(self._messages) :]
            taken, self._messages = self._messages, []
            return taken + list(map(_received, native))

    def wait_for(self, count: int = 1, timeout: float = 5.0) -> list[ReceivedMessage]:
        """Wait for a number of messages from a program that sends in the background.

        Args:
            count: The number of messages to wait for, counted since the start or the last `reset`.
            timeout: The maximum wait, in seconds.

        Returns:
            All messages so far. There may be more than `count`.

        Raises:
            TimeoutError: Fewer messages arrived in time. The error text lists the messages that
                arrived.
        """
        deadline = time.monotonic() + timeout
        while (accepted := self.counts["messages"]) < count:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{accepted} of {count} messages arrived within {timeout:g} seconds: "
                    f"{self.messages}"
                )
            time.sleep(_CHECK_INTERVAL)
        return self.messages

    @property
    def counts(self) -> dict[str, int]:
        """The counters so far.

        The names are `connections`, `tls_handshakes`, `authentications`, `transactions` (started),
        `messages` and `recipients` (accepted), `bytes` (from clients), `body_bytes`, `bare_cr`,
        `bare_lf` and `eight_bit` (in message content), `flights` (reads that returned bytes),
        `writes` (batches of replies) and `faults` (applied). The sink also counts each command
        under its verb in lower case, and any other line under `unknown`.
        """
        return self._native.counts()

    @property
    def wire(self) -> list[bytes]:
        """The bytes that the client of each connection sent so far; empty without `wire=True`."""
        return self._native.wire()

    def reset(self) -> None:
        """Clear the messages, the counters and the recorded bytes.

        The sink counts transactions, connections and the uses of each fault (`times`) from the
        start again. Open connections stay open.
        """
        with self._lock:
            self._native.reset()
            self._messages.clear()

    def close(self) -> None:
        """Close all connections and end the threads. Messages and counters stay readable."""
        self._native.close()

    def __enter__(self) -> "Sink":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sink {self.url}>"


def _fault_tuple(
    fault: Fault,
) -> tuple[str, int | None, int | None, bytes | None, int | None, bytes | None, str | None, float]:
    address = None if fault.address is None else fault.address.encode("utf-8", "surrogateescape")
    return (
        fault.at,
        fault.message,
        fault.occurrence,
        address,
        fault.times,
        fault._reply_bytes(),
        fault.close,
        fault.delay,
    )


def _tls_tuple(
    tls: str | None,
    certificate: str | os.PathLike[str] | bytes | None,
    key: str | os.PathLike[str] | bytes | None,
) -> tuple[str, bytes, bytes] | None:
    if tls is None:
        if certificate is not None or key is not None:
            raise ValueError('a certificate needs tls="starttls" or tls="implicit"')
        return None
    if certificate is None:
        raise ValueError(f"tls={tls!r} needs a certificate")
    return tls, _pem(certificate), _pem(certificate if key is None else key)


def _pem(source: str | os.PathLike[str] | bytes) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _received(
    native: tuple[bytes, list[bytes], list[tuple[bytes, list[bytes]]], bytes, bool, str | None],
) -> ReceivedMessage:
    sender, mail_options, recipients, data, tls, user = native
    return ReceivedMessage(
        sender=_text(sender),
        recipients=[_text(address) for address, _ in recipients],
        mail_options=[_text(option) for option in mail_options],
        rcpt_options=[[_text(option) for option in options] for _, options in recipients],
        data=data,
        user=user,
        tls=tls,
    )


def _text(written: bytes) -> str:
    return written.decode("utf-8", "surrogateescape")
