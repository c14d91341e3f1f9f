"""The client's side of one SMTP connection: greeting, EHLO, STARTTLS, commands, transactions, QUIT.

RFC 5321 4.5.3.2: each reply has a deadline, which applies to the whole reply. So a server that
sends one byte per minute cannot block a connection.
"""

import contextlib
import ssl
import time
from collections.abc import Callable

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.capability import Capabilities
from rapidsmtp._pure.content import Content
from rapidsmtp._pure.failure import ConnectionFailure, ConnectionLost, FailureKind, refusal
from rapidsmtp._pure.job import Job
from rapidsmtp._pure.outcome import MessageOutcome, RecipientOutcome, outcome_of
from rapidsmtp._pure.reply import MALFORMED, Reply, ReplyReader, reply_line
from rapidsmtp._pure.reply_code import succeeds_by_first_digit
from rapidsmtp._pure.transaction import (
    ACCEPTED,
    DATA_REFUSED,
    RECIPIENTS_REFUSED,
    Transaction,
    invalid_reply,
    strict_reply,
)
from rapidsmtp._pure.transport import Transport
from rapidsmtp.errors import printable_reply

SHUTDOWN = 421  # RFC 5321 3.8: the server ends the session with this reply to any command
MAX_LINE = 12288 + len("334 \r\n")  # in bytes: a challenge in base64 (RFC 4954 section 4)

USE_SMTPS = "; if TLS begins before the greeting, as on port 465, use smtps://"


class Session:
    """One SMTP connection, from the greeting to QUIT.

    The methods raise `ConnectionFailure` if the relay rejects the session, and `ConnectionLost` if
    the connection cannot be used again.
    """

    def __init__(
        self, transport: Transport, settings: EngineSettings, trace: Callable[[str], None] | None
    ) -> None:
        self.transport = transport
        self.capabilities = Capabilities()
        self.pipelining = False  # whether to write several commands in one flight
        self._settings = settings
        self._trace = trace
        self._reader = ReplyReader(MAX_LINE, whole_invalid_lines=True)
        # After a refused message, MAIL and DATA are written alone, so that a second refusal causes
        # only one error.
        self._cautious = False
        self._reset_due = False

    # The start

    @property
    def secured(self) -> bool:
        """Whether the connection is private: TLS, or a Unix socket."""
        return self.transport.tls is not None or self._settings.path is not None

    def open(self, name: str, tls: ssl.SSLContext, earlier: ssl.SSLSession | None) -> None:
        """Read the greeting, send EHLO as `name`, and start TLS as the settings require.

        TLS resumes the TLS session `earlier` if possible.
        """
        if self._settings.scheme == "smtps":
            self.transport.start_tls(self._settings, tls, earlier)
        # RFC 8314 section 3: on a port with implicit TLS, the greeting follows the handshake.
        hint = USE_SMTPS if self._settings.scheme == "smtp" else ""
        self._expect(220, "connect", self._read_reply("greeting", hint))
        self._hello(name)
        if self._settings.starttls == "off" or self.secured:
            return
        if "STARTTLS" in self.capabilities:
            self._expect(220, "starttls", self.command("STARTTLS"))
            # RFC 3207 section 6: bytes that follow the reply 220 may come from an attacker. The
            # client would read them as if they had arrived through TLS.
            if self.transport.receive():
                raise self.unusable("the relay sent clear text after its reply to STARTTLS")
            self.transport.start_tls(self._settings, tls, earlier)
            # RFC 3207 4.2: capabilities that arrived in clear text may be forged.
            self._hello(name)
        elif self._settings.starttls == "required":
            # RFC 3207 section 6: an attacker can remove STARTTLS from the reply to EHLO.
            raise self.unusable("the relay does not support STARTTLS, which is required")

    def _hello(self, name: str) -> None:
        settings = self._settings
        verb = "LHLO" if settings.lmtp else "EHLO"
        reply = self.command(f"{verb} {name}")
        requires_tls = settings.starttls == "required" and not self.secured
        needs_extension = settings.lmtp or settings.user or settings.mechanism or requires_tls
        # RFC 5321 4.1.1.1: only a reply 250 to EHLO lists extensions.
        self.capabilities = Capabilities(reply[1] if reply[0] == 250 else b"")
        if reply[0] != 250 and reply[0] // 100 != 4 and not needs_extension:
            # RFC 5321 3.2: a client falls back to HELO if the server does not support EHLO.
            reply = self.command(f"HELO {name}")
        # RFC 5321 4.2.1: any 2yz is a positive reply.
        if reply[0] // 100 != 2:
            raise self.refusal("hello", reply)

    def _expect(self, code: int, phase: str, reply: Reply) -> None:
        if reply[0] != code:
            raise self.refusal(phase, reply)

    def refusal(self, phase: str, reply: Reply) -> Exception:
        return refusal(self._settings.relay, phase, reply)

    def unusable(self, reason: str, reply: Reply | None = None) -> ConnectionFailure:
        """Return the failure of a relay that the settings do not allow."""
        text = f"relay {self._settings.relay}: {reason}"
        return ConnectionFailure(text, FailureKind.PERMANENT, reply)

    # Commands

    def command(self, line: str, limit: str = "command", *, shown: str | None = None) -> Reply:
        """Write a command, and read its reply within the time limit named `limit`.

        The trace contains `shown` if `line` contains a secret.
        """
        self.check()
        self._trace_lines("C:", (shown or line).encode())
        try:
            self.transport.write(line.encode() + b"\r\n", self._settings.timeouts.block)
        except ConnectionLost:
            # A relay that ends a session sends the reason before it closes the connection.
            self.check()
            raise
        reply = self._read_reply(limit)
        if reply[0] == MALFORMED:
            # The start of the next reply is unknown, so no further command is possible.
            raise self.refusal("connect", reply)
        return reply

    def check(self) -> None:
        """Check that the stream is open, and that no unexpected reply has arrived."""
        if self.transport.receive():
            reply = self._next_reply()
            if reply is None:
                raise ConnectionLost("the relay sent an unexpected reply")
            # RFC 5321 3.8: a 421 needs no command.
            if reply[0] in (SHUTDOWN, MALFORMED):
                raise self.refusal("connect", reply)
            raise ConnectionLost(f"the relay sent an unexpected reply: {reply_line(reply)}", reply)
        if self.transport.end:
            raise ConnectionLost(self.transport.end)

    def quit(self) -> None:
        with contextlib.suppress(ConnectionFailure, ConnectionLost):
            self.command("QUIT", "quit")

    def _read_reply(self, limit: str, hint: str = "") -> Reply:
        seconds: float = getattr(self._settings.timeouts, limit)
        deadline = time.monotonic() + seconds
        while (reply := self._next_reply()) is None:
            self.transport.read(deadline, f"no reply in {seconds:g} seconds{hint}")
        return reply

    def _next_reply(self) -> Reply | None:
        received = self.transport.received
        if received:
            del received[: self._reader.receive_data(bytes(received), 1)]
        if self._reader.fault is not None:
            raise ConnectionLost(f"the relay sent an invalid reply: {self._reader.fault}")
        for code, text in self._reader.events():
            self._trace_lines(f"S: {code}", text)
            # RFC 5321 4.2.1: the first digit of each code is 2, 3, 4 or 5.
            return (code, text) if 200 <= code <= 599 else invalid_reply((code, text))
        return None

    # Transactions

    def send(self, job: Job, content: Content) -> tuple[MessageOutcome, Exception | None]:
        """Execute a transaction for the current recipients of a job.

        The second result is the reason why the connection cannot be used again, or None.
        """
        transaction = job.envelope.transaction(
            self.capabilities,
            content,
            job.current,
            lmtp=self._settings.lmtp,
            cautious=self._cautious,
            sequential=not self.pipelining,
        )
        end: Exception | None = None
        try:
            while flight := transaction.data_to_send():
                self._write_flight(transaction, flight, content)
                while transaction.awaiting:
                    self._receive(transaction, self._read_reply(transaction.phase))
                if transaction.end is None:
                    self.check()
        except (ConnectionFailure, ConnectionLost) as error:
            end = error
            reply = error.reply
            if transaction.end is None and reply is not None and reply[0] == SHUTDOWN:
                # RFC 5321 3.8: a relay executes no command after a 421.
                return MessageOutcome([RecipientOutcome.unexecuted(reply)] * len(job.current)), end
            # A reply without a line end may be incomplete, so it is ignored.
            transaction.receive_eof(strict=True)
        self._cautious = transaction.end != ACCEPTED
        # RFC 5321 4.1.4: while a refused transaction is open, MAIL gets a 503. No transaction is
        # open after a refused MAIL, and after a body or a lone dot.
        self._reset_due = (
            transaction.end == RECIPIENTS_REFUSED and not transaction.has_left_data_mode
        ) or (transaction.end == DATA_REFUSED and not transaction.body_sent)
        reason = str(end) if isinstance(end, ConnectionLost) else "the session ended"
        return outcome_of(transaction, len(job.current), transaction.body_sent, reason), end

    def reset(self) -> None:
        """Send RSET if a refused transaction is still open at the relay."""
        if self._reset_due:
            # RFC 5321 4.1.1.5: a server accepts RSET at any time, so a refusal ends the session.
            reply = self.command("RSET")
            if not succeeds_by_first_digit("rset", reply[0]):
                raise self.refusal("rset", reply)

    def _write_flight(self, transaction: Transaction, flight: bytes, content: Content) -> None:
        is_body = transaction.body_sent
        shown = b"<%d bytes of message>" % len(flight) if is_body else flight
        self._trace_lines("C:", shown)
        seconds = self._settings.timeouts.block
        try:
            for piece in content.pieces() if is_body else (flight,):
                self.transport.write(piece, seconds, expect_silence=is_body)
        except ConnectionLost:
            transaction.write_failed()
            # A relay that ends a session sends the reason before it closes the connection.
            self.transport.receive()
            while transaction.awaiting and (reply := self._next_reply()) is not None:
                self._receive(transaction, reply)
            raise

    def _receive(self, transaction: Transaction, reply: Reply) -> None:
        phase = transaction.phase
        reply = strict_reply(phase, reply)
        transaction.receive_reply(reply)
        if transaction.close:
            raise self.refusal(phase, reply)

    def _trace_lines(self, prefix: str, data: bytes) -> None:
        if self._trace is not None:
            for line in data.splitlines() or [b""]:
                self._trace(f"{prefix} {printable_reply(line)}")
