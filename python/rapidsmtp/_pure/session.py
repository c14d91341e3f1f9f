"""The client's side of one SMTP connection: greeting, EHLO, STARTTLS, transactions, QUIT.

Each complete reply has its own deadline (RFC 5321 4.5.3.2). So a server that sends one byte per
minute cannot block a connection. An unexpected reply, usually a 421, ends the connection.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.capability import parse_ehlo
from rapidsmtp._pure.diagnosis import QUOTA, RELAY, diagnose
from rapidsmtp._pure.job import reply_line
from rapidsmtp._pure.reply import MALFORMED, Reply, ReplyReader, enhanced_status
from rapidsmtp._pure.stuffing import stuffed_parts
from rapidsmtp._pure.tls import (
    CA,
    CLOSED_IN_HANDSHAKE,
    certificate_name,
    failure_text,
    is_untrusted_ca,
    untrusted_text,
)
from rapidsmtp._pure.transaction import ACCEPTED, Transaction
from rapidsmtp._pure.transport import CLOSED, ConnectionLost, Transport
from rapidsmtp.errors import printable, printable_reply

_NO_REPLY = "no reply in"
_NOT_READ = "the relay accepted no more bytes in time"
_USE_SMTPS = "; if TLS begins before the greeting, as on port 465, use smtps://"

SHUTDOWN = 421
"""The server closes the connection after this reply to any command (RFC 5321 3.8)."""

MAX_AUTH_LINE = 12288 + 8
"""The maximum length of a reply line in an AUTH exchange, in bytes.

It is 12288 bytes of base64 (RFC 4954 section 4) plus the code and the line end.
"""


class ConnectionFailure(Exception):
    """The error for a connection that could not be opened.

    Attributes:
        line: The reason, in one line.
        reply: The relay's reply, or None.
        stops: Whether further attempts would fail in the same way, so that the engine must stop.
        permanent: Whether this engine must never connect again, for example after a refused login.
        unreachable: Whether the relay could not be reached: the TCP connection failed, or a reply
            did not arrive in time.
        at_greeting: Whether the relay refused the connection in its greeting.
    """

    def __init__(
        self,
        line: str,
        reply: Reply | None = None,
        *,
        stops: bool = False,
        permanent: bool = False,
        unreachable: bool = False,
        at_greeting: bool = False,
    ) -> None:
        super().__init__(line)
        self.line = line
        self.reply = reply
        self.stops = stops or permanent
        self.permanent = permanent
        self.unreachable = unreachable
        self.at_greeting = at_greeting


class SessionTransaction(Transaction):
    """A transaction that treats a reply as invalid if its code is impossible for the command.

    Attributes:
        last_reply: The last reply that was received; None before the first reply.
    """

    last_reply: Reply | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reader = ReplyReader(whole_invalid_lines=True)

    def _receive_reply(self, reply: Reply) -> None:
        code, text = reply
        is_envelope = self._mail_reply is None or self._rcpt_replies < self._rcpt_sent
        is_data = not is_envelope and self._data_reply is None
        if code // 100 == 2 and is_envelope:
            # RFC 5321 4.2: a client interprets an unknown code by its first digit. So any 2yz
            # accepts a MAIL or RCPT command.
            reply = (250, text)
        elif code // 100 not in (4, 5) and (code != 354 if is_data else code // 100 != 2):
            # RFC 5321 4.3.2: a code that the command cannot have is an invalid reply.
            reply = (MALFORMED, text if code == MALFORMED else b"%d %b" % reply)
        self.last_reply = reply
        super()._receive_reply(reply)


class FinishedTransaction(NamedTuple):
    """A transaction after its last reply, or after the connection was lost.

    Attributes:
        transaction: The transaction; its `end` is set.
        lost: The reason why the connection was lost, for example an invalid reply; empty if the
            connection was not lost.
        timed_out: Whether the connection was lost because a reply did not arrive in time.
        refused_before_body: The indices of the recipients that were refused before the message was
            written. None if the writing of the message did not start.
    """

    transaction: SessionTransaction
    lost: str
    timed_out: bool
    refused_before_body: frozenset[int] | None


class Session:
    """One SMTP connection, from the greeting to QUIT.

    Attributes:
        transport: The byte stream of the connection.
        capabilities: The relay's EHLO capabilities, by keyword in lower case (RFC 5321 4.1.1.1).
        messages: The number of transactions on this connection so far.
        opened: The time when the connection was opened, by `time.monotonic`.
        cautious: Whether the last transaction was not accepted. If true, the next transaction
            writes MAIL alone and waits for its reply, so that a second refusal causes only one
            error at the server.
    """

    def __init__(
        self, transport: Transport, settings: EngineSettings, trace: Callable[[str], None] | None
    ) -> None:
        self.transport = transport
        self.capabilities: dict[str, str] = {}
        self.messages = 0
        self.opened = time.monotonic()
        self.cautious = False
        self._settings = settings
        self._limits = settings.timeouts.by_name()
        self._trace = trace
        self._untraced = b""

    # Opening

    @property
    def _is_private(self) -> bool:
        """Whether the connection is protected against eavesdropping: TLS, or a Unix socket."""
        return self.transport.tls is not None or self._settings.path is not None

    def greet(self) -> None:
        """Read the greeting.

        Raises:
            ConnectionFailure: The relay refused the connection.
            ConnectionLost, TimeoutError: The greeting did not arrive, or it is invalid.
        """
        try:
            reply = self.reply("greeting")
        except TimeoutError as error:
            # RFC 8314 section 3: on a port with implicit TLS, the greeting follows the handshake.
            hint = _USE_SMTPS if self._settings.scheme == "smtp" else ""
            raise TimeoutError(f"{error}{hint}") from None
        if reply[0] != 220:
            raise self.refusal("connect", reply)

    def hello(self, name: str) -> None:
        """Send EHLO (or LHLO) and read the relay's capabilities.

        Raises:
            ConnectionFailure: The relay refused the command.
            ConnectionLost, TimeoutError: No reply arrived.
        """
        verb = "LHLO" if self._settings.lmtp else "EHLO"
        reply = self.command(f"{verb} {name}")
        if reply[0] != 250 and reply[0] // 100 != 4 and not self._needs_extensions:
            # RFC 5321 3.2: a client falls back to HELO if the server does not support EHLO.
            reply = self.command(f"HELO {name}")
            verb = "HELO"
        # RFC 5321 4.2.1: any 2yz is a positive reply.
        if reply[0] // 100 != 2:
            raise self.refusal("hello", reply)
        # RFC 5321 4.1.1.1: only a reply 250 to EHLO lists extensions.
        lists_extensions = reply[0] == 250 and verb != "HELO"
        self.capabilities = parse_ehlo(reply[1]) if lists_extensions else {}

    @property
    def _needs_extensions(self) -> bool:
        """Whether the session cannot continue after HELO.

        A session after HELO has no extensions, so it cannot use STARTTLS or AUTH. LMTP has no HELO.
        """
        settings = self._settings
        requires_tls = settings.starttls == "required" and not self._is_private
        return bool(settings.lmtp or settings.user or settings.mechanism or requires_tls)

    def start_tls(self) -> None:
        """Send STARTTLS, and check that no bytes follow the reply 220.

        Raises:
            ConnectionFailure: The relay refused STARTTLS, or bytes followed the reply.
            ConnectionLost, TimeoutError: No reply arrived.
        """
        reply = self.command("STARTTLS")
        if reply[0] != 220:
            raise self.refusal("starttls", reply)
        # RFC 3207 section 6: bytes that follow the reply 220 may come from an attacker. The client
        # would read them as if they had arrived through TLS.
        if self.transport.unread():
            line = "the relay sent clear text after its reply to STARTTLS"
            raise ConnectionFailure(f"relay {self._settings.relay}: {line}", stops=True)

    def secure(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None, deadline: float
    ) -> None:
        """Start TLS on the connection.

        Raises:
            ConnectionFailure: The certificate is not trusted, or the handshake failed.
        """
        settings = self._settings
        name = certificate_name(settings)
        prefix = "" if settings.scheme == "smtps" else f"relay {settings.relay}: "
        try:
            self.transport.start_tls(context, settings.host, name, deadline, session)
        except ssl.SSLCertVerificationError as error:
            raise self._untrusted(untrusted_text(error, name)) from None
        except ssl.SSLError as error:
            line = f"TLS with {settings.host} failed: {failure_text(error)}"
            raise ConnectionFailure(prefix + line) from None
        except TimeoutError:
            seconds = self._limits["tls"]
            line = f"TLS with {settings.relay} failed: timed out after {seconds:g} s"
            raise ConnectionFailure(prefix + line) from None
        except ConnectionLost as error:
            cause = str(error)
            if cause == CLOSED:
                cause = CLOSED_IN_HANDSHAKE
            line = f"TLS with {settings.host} failed: {cause}"
            raise ConnectionFailure(prefix + line) from None
        tls = self.transport.tls
        if tls is not None and is_untrusted_ca(tls, context):
            raise self._untrusted(CA)
        # RFC 3207 4.2: the client must discard capabilities that it received in clear text. They
        # may have been forged.
        self.capabilities = {}

    def _untrusted(self, reason: str) -> ConnectionFailure:
        settings = self._settings
        prefix = "" if settings.scheme == "smtps" else f"relay {settings.relay}: "
        line = f"{prefix}the certificate of {settings.host} is not trusted: {reason}"
        return ConnectionFailure(line, permanent=True)

    def refusal(self, phase: str, reply: Reply) -> ConnectionFailure:
        """Return the connection failure for a refused command or a refused connection.

        Args:
            phase: The phase of the session, as for `diagnose`.
            reply: The reply.
        """
        blame = diagnose(phase, *reply, enhanced_status(*reply))
        if reply[0] == MALFORMED:
            fact = f": {invalid_reply(printable_reply(reply[1]))}"
        elif phase == "auth" and blame != QUOTA:
            fact = f" refused the login: {reply_line(reply)}"
        else:
            fact = f" {rejection(reply, quota=blame == QUOTA)}"
        return ConnectionFailure(
            f"relay {self._settings.relay}{fact}",
            reply,
            stops=blame in (QUOTA, RELAY),
            permanent=blame == RELAY and phase == "auth",
            at_greeting=phase == "connect",
        )

    # Commands

    def command(self, line: str, limit: str = "command", *, shown: str | None = None) -> Reply:
        """Write a command and read its reply.

        Args:
            line: The command without its line end.
            limit: The name of the time limit.
            shown: The text that the trace shows instead of `line`, if `line` contains a secret.

        Raises:
            ConnectionLost: The connection was lost, or the reply is invalid or unexpected.
            TimeoutError: No reply arrived in time. The text of the exception contains the time
                limit.
        """
        if lost := self.check():
            raise ConnectionLost(lost)
        self.trace(f"C: {printable(shown or line)}")
        try:
            self.transport.write(line.encode("utf-8") + b"\r\n", self._limits["block"])
        except TimeoutError:
            raise TimeoutError(_NOT_READ) from None
        return self.reply(limit)

    def reply(self, limit: str) -> Reply:
        """Read one reply.

        Args:
            limit: The name of the time limit.

        Raises:
            ConnectionLost: The connection was lost, or the reply is invalid.
            TimeoutError: No reply arrived in time. The text of the exception contains the time
                limit.
        """
        reader = ReplyReader(MAX_AUTH_LINE, whole_invalid_lines=True)
        seconds = self._limits[limit]
        deadline = time.monotonic() + seconds
        while True:
            try:
                data = self.transport.read(deadline)
            except TimeoutError:
                raise TimeoutError(f"{_NO_REPLY} {seconds:g} seconds") from None
            used = reader.receive_data(data, 1)
            self._trace_replies(data[:used])
            replies = reader.events()
            if reader.fault is not None:
                raise ConnectionLost(invalid_reply(reader.fault))
            if replies:
                if used < len(data):
                    self.transport.put_back(data[used:])
                return replies[0]

    # Transactions

    def send(
        self, transaction: SessionTransaction, recipients: int, large: bytes | None = None
    ) -> FinishedTransaction:
        """Execute a transaction.

        Args:
            transaction: A new transaction.
            recipients: The number of recipients in the transaction.
            large: The body of the transaction if it has no dot-stuffing yet; else None. The session
                stuffs such a body in parts.

        Returns:
            The finished transaction, even if the connection was lost.
        """
        refused: frozenset[int] | None = None
        written = 0
        lost = ""
        while not lost and (flight := transaction.data_to_send()):
            written += transaction.awaiting
            if transaction.body_sent:
                refused = frozenset(index for index, _ in transaction.refused)
            self._trace_flight(flight, transaction.body_sent)
            pieces = stuffed_parts(flight) if flight is large else ((flight, 0),)
            lost = self._write_flight(transaction, pieces)
            if not lost:
                lost = self._read_replies(transaction, written, recipients)
        last = transaction.last_reply
        if not lost and last is not None and last[0] == MALFORMED:
            lost = invalid_reply(printable_reply(last[1]))
        elif not lost and transaction.fault:
            lost = invalid_reply(transaction.fault)
        self.messages += 1
        self.cautious = transaction.end != ACCEPTED
        return FinishedTransaction(transaction, lost, lost.startswith(_NO_REPLY), refused)

    def _write_flight(self, transaction: Transaction, pieces: Iterable[tuple[bytes, int]]) -> str:
        """Write a flight. After a failure, read the replies that have arrived.

        Such replies often contain the reason for the failure.

        Returns:
            The error text for a lost connection; empty if the connection was not lost.
        """
        seconds = self._limits["block"]
        try:
            for piece, _ in pieces:
                self.transport.write(piece, seconds, expect_silence=transaction.body_sent)
            return ""
        except ConnectionLost as error:
            lost = str(error)
        except TimeoutError:
            lost = _NOT_READ
        transaction.write_failed()
        data = self.transport.read_all()
        if transaction.awaiting and data:
            used = transaction.receive_data(data)
            self._trace_replies(data[:used])
        transaction.receive_eof(strict=True)
        return lost

    def _read_replies(self, transaction: Transaction, written: int, recipients: int) -> str:
        awaiting, seconds, deadline = -1, 0.0, 0.0
        while transaction.awaiting:
            if transaction.awaiting != awaiting:
                awaiting = transaction.awaiting
                seconds = self._limits[_phase(written - awaiting, recipients)]
                deadline = time.monotonic() + seconds
            try:
                data = self.transport.read(deadline)
            except ConnectionLost as error:
                transaction.receive_eof(strict=True)
                return str(error)
            except TimeoutError:
                transaction.receive_eof(strict=True)
                return f"{_NO_REPLY} {seconds:g} seconds"
            used = transaction.receive_data(data)
            self._trace_replies(data[:used])
            if used < len(data):
                self.transport.put_back(data[used:])
        if transaction.end is None and (unread := self.transport.unread()):
            # The unread bytes belong to no command. So the next reply could not be matched to its
            # command either.
            transaction.receive_eof(strict=True)
            return _unexpected(unread)
        return ""

    def reset(self) -> bool:
        """Send RSET, and return whether the connection can still be used."""
        try:
            return self.command("RSET")[0] == 250
        except (ConnectionLost, TimeoutError):
            return False

    def check(self) -> str:
        """Return the reason why the connection cannot be used; empty if it can be used.

        This check sends no command. The connection cannot be used if a reply is unread or the
        stream has ended. Both show that the server has ended the session.
        """
        unread = self.transport.unread()
        if unread:
            self._trace_replies(unread)
            return _unexpected(unread)
        return self.transport.end

    def unexpected_reply(self) -> Reply | None:
        """Return the first unread reply; None if no complete reply has arrived."""
        reader = ReplyReader(whole_invalid_lines=True)
        reader.receive_data(self.transport.unread(), 1)
        return next(iter(reader.events()), None)

    def quit(self) -> None:
        """Send QUIT and read the reply."""
        with contextlib.suppress(ConnectionLost, TimeoutError):
            self.command("QUIT", "quit")

    # The trace

    def trace(self, line: str) -> None:
        """Add a line to the trace, if the trace is enabled."""
        if self._trace is not None:
            self._trace(line)

    def _trace_flight(self, flight: bytes, is_body: bool) -> None:
        if self._trace is None:
            return
        if is_body:
            self._trace(f"C: <{len(flight)} bytes of message>")
            return
        for line in flight.splitlines():
            self._trace(f"C: {printable(line.decode('utf-8', 'replace'))}")

    def _trace_replies(self, data: bytes) -> None:
        if self._trace is None:
            return
        *lines, self._untraced = (self._untraced + data).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r").decode("utf-8", "replace")
            self._trace(f"S: {printable(text)}")


def rejection(reply: Reply, *, quota: bool = False) -> str:
    """Return the text for a reply that rejects the session.

    Args:
        reply: The reply.
        quota: Whether a limit of the account is used up.
    """
    fact = "accepts no more mail for now" if quota else "rejected the session"
    return f"{fact}: {reply_line(reply)}"


def invalid_reply(text: str) -> str:
    """Return the reason for the end of a connection after an invalid reply."""
    return f"the relay sent an invalid reply: {text}"


def _unexpected(data: bytes) -> str:
    return f"the relay sent an unexpected reply: {printable_reply(data)}"


def _phase(replies: int, recipients: int) -> str:
    """Return the name of the time limit for the next reply.

    Args:
        replies: The number of replies that were read in this transaction.
        recipients: The number of recipients in this transaction.
    """
    if replies == 0:
        return "mail"
    if replies <= recipients:
        return "rcpt"
    return "data" if replies == recipients + 1 else "body"


def literal_of(sock: socket.socket) -> str:
    """Return this host's address as a literal for EHLO (RFC 5321 4.1.3)."""
    address = sock.getsockname()
    if sock.family == socket.AF_INET:
        return f"[{address[0]}]"
    if sock.family == socket.AF_INET6:
        return f"[IPv6:{address[0].partition('%')[0]}]"
    return "[127.0.0.1]"
