"""A real SMTP server in the process, for tests, the demo and benchmarks.

`Sink` takes mail over SMTP (RFC 5321) or LMTP (RFC 2033), keeps it for inspection, delivers it
nowhere, and misbehaves where a `Fault` tells it to. It runs on threads of the compiled half that
never touch Python, so that a program under test may block as it likes.

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

from rapidsmtp import _core

__all__ = ["Fault", "ReceivedMessage", "Sink"]

# Seconds between two looks of `Sink.wait_for`.
_LOOK = 0.005


@dataclass(frozen=True)
class Fault:
    """One thing that a sink does wrong, or slowly.

    The command belongs to the transaction that its connection's last MAIL began, until that has
    ended; any other command belongs to the transaction that would begin next. The first fault of
    the list that fits a command strikes.

    Attributes:
        at: Where: `connect` (the greeting), `ehlo` (LHLO too), `helo`, `starttls`, `auth`, `mail`,
            `rcpt`, `data`, `body` (the final reply; LMTP has one for each recipient), `bdat`,
            `rset`, `noop`, `vrfy`, `expn`, `help`, `quit`, or `unknown` for any other command.
        message: Only in this transaction, counted from 1 over the sink's life.
        occurrence: Only at this occurrence: of `rcpt`, `data`, `body` and `bdat` inside the
            transaction, of `connect` over the sink's life, of all others over the connection's.
        address: Only for this sender (`mail`), this recipient (`rcpt`, and `body` over LMTP), or
            an envelope that has it (`data`, `bdat`, and `body` over SMTP).
        times: How often it strikes; `None` for always.
        reply: What is said instead. A `str` gets its final CRLF where that is missing; `bytes` go
            out as they are. After a 2yz (354 for `data`) the command is executed all the same,
            after anything else it is not.
        close: Whether the connection ends there, after the reply if there is one: `orderly`, or
            by a TCP `reset`.
        delay: Seconds to wait first. A delay alone leaves the rest to the sink.
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
    """A message as a sink accepted it: an `email.message.EmailMessage` that knows its envelope.

    `message["Subject"]`, `get_body()`, `iter_attachments()` and all else read what `data` says, by
    `email.policy.default`; it is parsed when that is first asked for. Two are equal when their
    envelopes and their data are.

    Attributes:
        sender: The reverse path without its brackets; empty for a bounce.
        recipients: The recipients that were accepted, in their order.
        mail_options: The parameters of MAIL, as they were written.
        rcpt_options: The parameters of each recipient's RCPT.
        data: The content, without the dots that the transfer added.
        user: Who was authenticated.
        tls: Whether it came through TLS.
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
        # A test may take hundreds of thousands and look at none: EmailMessage's own attributes
        # come with `__getattr__`. A policy comes from the inherited methods that make new parts.
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
            """Called for an attribute that has no value yet: parse the data for all of them."""
            if name not in _PARSED or "data" not in vars(self):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            content = self.data.replace(b"\r\n", b"\n")
            parsed = email.message_from_bytes(content, policy=email.policy.default)
            # What was set before anything was read stays.
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


# What an EmailMessage keeps in itself differs from one Python to the next.
_PARSED = frozenset(vars(EmailMessage()))


class Sink:
    """An SMTP or LMTP server that runs until it is closed; a context manager.

    Args:
        extensions: The lines of the EHLO reply, such as `"SIZE 1000"`; what is not in them is not
            accepted either. `None` is PIPELINING, SIZE, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES,
            CHUNKING and DSN. STARTTLS and AUTH come by themselves with `tls` and `credentials`;
            an AUTH line of yours limits the mechanisms.
        latency: Seconds that every byte takes, each way; a round trip takes twice that.
        faults: What goes wrong.
        lmtp: LMTP in the place of SMTP.
        host: The address to listen on.
        port: The port to listen on; 0 for any free one.
        path: A unix socket to listen on, in the place of host and port; removed at the end.
        tls: `"starttls"` or `"implicit"`; both need a certificate.
        certificate: The certificate chain in PEM: a path, or the `bytes` themselves.
        key: The private key likewise; `None` where it is in the certificate's PEM.
        credentials: Passwords, or tokens, of users. Where there are any, MAIL needs AUTH first.
        store: Keep the accepted messages.
        wire: Keep the bytes that each client sent (inside TLS, where there is TLS).
        threads: How many threads serve connections. They inherit the CPUs of the thread that
            makes the sink: pin that for a moment to pin them.

    Raises:
        RuntimeError: the compiled half of rapidsmtp is not installed.
        ValueError: a setting is not a setting.
        OSError: the socket cannot be opened.
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
        native: type[_core.Sink] | None = _core.native("Sink")
        if native is None:
            raise RuntimeError(
                "Sink needs the compiled half of rapidsmtp, and only the pure half is installed"
            )
        if threads < 1:
            raise ValueError(f"threads is {threads}: a sink needs at least one")
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
        """Where the sink is, as the URL that a sender takes."""
        if self.path is not None:
            return f"{self._scheme}://{quote(str(Path(self.path).absolute()))}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages that were accepted so far, in their order; empty with `store=False`.

        The list is a new one each time, the messages are the same ones.
        """
        with self._lock:
            self._messages += map(_received, self._native.messages(len(self._messages)))
            return self._messages.copy()

    def wait_for(self, count: int = 1, timeout: float = 5.0) -> list[ReceivedMessage]:
        """Wait until so many messages were accepted: for programs that send in the background.

        Args:
            count: How many, counted from the start or the last `reset`.
            timeout: Seconds to wait.

        Returns:
            `messages`, which may be more by then.

        Raises:
            TimeoutError: There were fewer; the text says what there was.
        """
        deadline = time.monotonic() + timeout
        while (accepted := self.counts["messages"]) < count:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{accepted} of {count} messages came within {timeout:g} seconds: "
                    f"{self.messages}"
                )
            time.sleep(_LOOK)
        return self.messages

    @property
    def counts(self) -> dict[str, int]:
        """What was counted so far.

        `connections`, `tls_handshakes`, `authentications`, `transactions` (begun), `messages` and
        `recipients` (accepted), `bytes` (from clients), `body_bytes`, `bare_cr`, `bare_lf` and
        `eight_bit` (in message content), `flights` (reads that brought something), `writes`
        (batches of replies), `faults` (that struck), and each command by its verb in lower case,
        `unknown` for those that are none.
        """
        return self._native.counts()

    @property
    def wire(self) -> list[bytes]:
        """The bytes that each connection's client has sent so far; empty without `wire=True`."""
        return self._native.wire()

    def reset(self) -> None:
        """Forget what was seen and arm the faults anew; connections stay open."""
        with self._lock:
            self._native.reset()
            self._messages.clear()

    def close(self) -> None:
        """End all connections and the threads; what was seen can still be read."""
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
