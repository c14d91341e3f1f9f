"""The client's part of one SMTP connection: greeting, EHLO, STARTTLS, transactions, QUIT.

Every reply has a deadline of its own as a whole (RFC 5321 4.5.3.2), so that one octet a minute
does not hold a connection. A reply that nobody awaits is a 421 at best: the connection ends.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rapidsmtp._pure.capability import parse_ehlo
from rapidsmtp._pure.diagnosis import RELAY, diagnose
from rapidsmtp._pure.job import line_of, words
from rapidsmtp._pure.reply import Reply, ReplyReader, enhanced_status
from rapidsmtp._pure.settings import Settings
from rapidsmtp._pure.stuffing import stuffed_pieces
from rapidsmtp._pure.transaction import ACCEPTED, Transaction
from rapidsmtp._pure.wire import Lost, Wire

_LONE_DOT = b".\r\n"
_NO_REPLY = "no reply in"
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH

MAX_AUTH_LINE = 12288 + 8
"""Octets in a line of an AUTH exchange (RFC 4954 section 4), a code and a line end beside it."""


class Unavailable(Exception):
    """There is no connection to be had.

    Attributes:
        line: why, in one line for people.
        reply: the relay's word, or None.
        stops: whether no other attempt would fare better until somebody changes something.
        for_good: whether it must not be tried again in this engine's life.
        unreachable: whether there was not even a connection.
        at_greeting: whether this connection was turned away before anything was said on it.
    """

    def __init__(
        self,
        line: str,
        reply: Reply | None = None,
        *,
        stops: bool = False,
        for_good: bool = False,
        unreachable: bool = False,
        at_greeting: bool = False,
    ) -> None:
        super().__init__(line)
        self.line = line
        self.reply = reply
        self.stops = stops or for_good
        self.for_good = for_good
        self.unreachable = unreachable
        self.at_greeting = at_greeting


class Delivery(NamedTuple):
    """A transaction that is over.

    Attributes:
        transaction: with its verdict.
        lost: how the connection was lost; empty where it was not.
        timed_out: whether that was for want of a reply.
        refused_before_body: the recipients that were refused when the message began to be
            written; None where it never was.
    """

    transaction: Transaction
    lost: str
    timed_out: bool
    refused_before_body: frozenset[int] | None


class Dialogue:
    """One connection, from its greeting on.

    Attributes:
        features: what the relay offers, by keyword in lower case (RFC 5321 4.1.1.1).
        messages: transactions that were carried out.
        opened: when it was, by `time.monotonic`.
        wary: whether the mail before this one was refused: the next waits for each reply.
    """

    def __init__(self, wire: Wire, settings: Settings, tell: Callable[[str], None] | None) -> None:
        self.wire = wire
        self.features: dict[str, str] = {}
        self.messages = 0
        self.opened = time.monotonic()
        self.wary = False
        self._settings = settings
        self._limits = settings.timeouts
        self._tell = tell
        self._untold = b""

    # Setting up

    def greet(self) -> None:
        """Read the greeting.

        Raises:
            Unavailable: the relay will not have us.
            Lost, TimeoutError: nothing came of it.
        """
        reply = self.reply("greeting")
        if reply[0] != 220:
            raise self.refusal("connect", reply)

    def hello(self, name: str) -> None:
        """Introduce ourselves and learn what the relay offers.

        Raises:
            Unavailable: the relay will not have us.
            Lost, TimeoutError: nothing came of it.
        """
        verb = "LHLO" if self._settings.lmtp else "EHLO"
        reply = self.command(f"{verb} {name}")
        if reply[0] // 100 == 5 and not self._settings.lmtp:
            # RFC 5321 3.2: a server that does not know EHLO is greeted in the old way.
            reply = self.command(f"HELO {name}")
            if reply[0] == 250:
                self.features = {}
                return
        if reply[0] != 250:
            raise self.refusal("hello", reply)
        self.features = parse_ehlo(reply[1])

    def start_tls(self) -> None:
        """Ask for TLS, and make sure that nothing follows the 220 in clear text.

        Raises:
            Unavailable: the relay does not agree, or somebody meddles.
            Lost, TimeoutError: nothing came of it.
        """
        reply = self.command("STARTTLS")
        if reply[0] != 220:
            raise self.refusal("starttls", reply)
        # It would be read as if it had come through TLS.
        if self.wire.unread():
            relay = self._settings.relay
            raise Unavailable(f"{relay} sent clear text behind its reply to STARTTLS", stops=True)

    def secure(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None, deadline: float
    ) -> None:
        """Turn to TLS.

        Raises:
            Unavailable: the certificate is not trusted.
            Lost, TimeoutError: there is no agreement.
        """
        settings = self._settings
        try:
            name = settings.server_hostname or settings.host
            self.wire.start_tls(context, name, deadline, session)
        except ssl.SSLCertVerificationError as error:
            fault = error.verify_message or error.reason
            if error.verify_code in _OTHER_NAME:
                fault = f"host name mismatch: it is not valid for {name}"
            line = f"the certificate of {settings.relay} is not trusted: {fault}"
            raise Unavailable(line, for_good=True) from None
        except ssl.SSLError as error:
            raise Unavailable(f"no TLS with {settings.relay}: {error.reason or error}") from None
        # RFC 3207 4.2: what was offered in clear text may have been forged.
        self.features = {}

    def refusal(self, phase: str, reply: Reply) -> Unavailable:
        """What a reply means that does not let us in."""
        blame = diagnose(phase, *reply, enhanced_status(*reply))
        what = "refused the login" if phase == "auth" else "would not have us"
        return Unavailable(
            f"{self._settings.relay} {what}: {line_of(reply)}",
            reply,
            stops=blame == RELAY,
            for_good=blame == RELAY and phase == "auth",
            at_greeting=phase == "connect",
        )

    # Commands

    def command(self, line: str, limit: str = "command", *, shown: str | None = None) -> Reply:
        """Write a command and read its reply.

        Args:
            line: the command without its line end.
            limit: the name of the time limit.
            shown: what the trace shows instead, where the line holds a secret.

        Raises:
            Lost, TimeoutError: no reply came, or one that nobody awaited.
        """
        if lost := self.look():
            raise Lost(lost)
        self.tell(f"C: {shown or line}")
        self.wire.write(line.encode("utf-8") + b"\r\n", self._limits["block"])
        return self.reply(limit)

    def reply(self, limit: str) -> Reply:
        """Read one reply."""
        reader = ReplyReader(MAX_AUTH_LINE)
        deadline = time.monotonic() + self._limits[limit]
        while True:
            data = self.wire.read(deadline)
            used = reader.receive_data(data, 1)
            self._tell_replies(data[:used])
            replies = reader.events()
            if reader.fault is not None:
                raise Lost(f"the relay sent what is no reply: {reader.fault}")
            if replies:
                if used < len(data):
                    self.wire.put_back(data[used:])
                return replies[0]

    # Transactions

    def deliver(
        self, transaction: Transaction, recipients: int, large: bytes | None = None
    ) -> Delivery:
        """Carry a transaction out.

        Args:
            transaction: one that has not begun.
            recipients: how many it has.
            large: its body, where that is not yet made ready for the wire.

        Returns:
            Always: what was lost is told by it.
        """
        refused: frozenset[int] | None = None
        due = 0
        lost = ""
        while not lost and (flight := transaction.data_to_send()):
            due += transaction.awaiting
            # A lone dot would be an empty mail for whoever the relay takes to be accepted, and on
            # LMTP nobody could say whose replies to the message would come.
            lone_dot = flight == _LONE_DOT and not transaction.body_sent
            if (lone_dot or self._settings.lmtp) and not _all_refused(transaction):
                transaction.write_failed()
                transaction.receive_eof(strict=True)
                lost = "the relay gave no valid reply to RCPT"
                break
            if transaction.body_sent:
                refused = frozenset(index for index, _ in transaction.refused)
            self._tell_flight(flight, transaction.body_sent)
            pieces = stuffed_pieces(flight) if flight is large else ((flight, 0),)
            lost = self._write_flight(transaction, pieces)
            if not lost:
                lost = self._read_replies(transaction, due, recipients)
        self.messages += 1
        self.wary = transaction.verdict != ACCEPTED
        return Delivery(transaction, lost, lost.startswith(_NO_REPLY), refused)

    def _write_flight(self, transaction: Transaction, pieces: Iterable[tuple[bytes, int]]) -> str:
        """Write it; after a failure read what has come: it explains it, most times."""
        try:
            for piece, _ in pieces:
                self.wire.write(piece, self._limits["block"], silently=transaction.body_sent)
            return ""
        except (Lost, TimeoutError) as error:
            lost = str(error) or "the relay does not read"
        transaction.write_failed()
        data = self.wire.last_words()
        if transaction.awaiting and data:
            used = transaction.receive_data(data)
            self._tell_replies(data[:used])
        transaction.receive_eof(strict=True)
        return lost

    def _read_replies(self, transaction: Transaction, due: int, recipients: int) -> str:
        awaiting, deadline = -1, 0.0
        while transaction.awaiting:
            if transaction.awaiting != awaiting:
                awaiting = transaction.awaiting
                limit = self._limits[_phase(due - awaiting, recipients)]
                deadline = time.monotonic() + limit
            try:
                data = self.wire.read(deadline)
            except Lost as error:
                transaction.receive_eof(strict=True)
                return str(error)
            except TimeoutError:
                transaction.receive_eof(strict=True)
                return f"{_NO_REPLY} {limit:g} seconds"
            used = transaction.receive_data(data)
            self._tell_replies(data[:used])
            if used < len(data):
                self.wire.put_back(data[used:])
        if transaction.verdict is None and self.wire.unread():
            # Whose reply the next one is can no longer be said.
            transaction.receive_eof(strict=True)
            return "the relay sent a reply that nobody awaited"
        return ""

    def reset(self) -> bool:
        """End a transaction that was refused; whether the connection can be used on."""
        try:
            return self.command("RSET")[0] == 250
        except (Lost, TimeoutError):
            return False

    def look(self) -> str:
        """Why the connection can be used no more; empty where it can.

        No command is sent to learn that: a server that ended it has said so, or has closed.
        """
        unread = self.wire.unread()
        if unread:
            self._tell_replies(unread)
            return f"a reply that nobody awaited: {words(unread)}"
        return self.wire.end

    def quit(self) -> None:
        """Say goodbye and read the answer."""
        with contextlib.suppress(Lost, TimeoutError):
            self.command("QUIT", "quit")

    # The trace

    def tell(self, line: str) -> None:
        """Tell a line of the dialogue to whoever wants to know."""
        if self._tell is not None:
            self._tell(line)

    def _tell_flight(self, flight: bytes, is_body: bool) -> None:
        if self._tell is None:
            return
        if is_body:
            self._tell(f"C: <{len(flight)} octets of message>")
            return
        for line in flight.decode("utf-8", "replace").splitlines():
            self._tell(f"C: {line}")

    def _tell_replies(self, data: bytes) -> None:
        if self._tell is None:
            return
        *lines, self._untold = (self._untold + data).split(b"\n")
        for line in lines:
            self._tell(f"S: {_shown(line)}")


def _all_refused(transaction: Transaction) -> bool:
    """Whether every reply to RCPT so far was a plain no."""
    return all(reply[0] // 100 in (4, 5) for _, reply in transaction.refused)


def _shown(line: bytes) -> str:
    text = line.rstrip(b"\r").decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in text)


def _phase(replies: int, recipients: int) -> str:
    """Which time limit the next reply of a transaction has, after so many replies."""
    if replies == 0:
        return "mail"
    if replies <= recipients:
        return "rcpt"
    return "data" if replies == recipients + 1 else "body"


def literal_of(sock: socket.socket) -> str:
    """This end's address as a literal for EHLO (RFC 5321 4.1.3), where it has no name."""
    address = sock.getsockname()
    if sock.family == socket.AF_INET:
        return f"[{address[0]}]"
    if sock.family == socket.AF_INET6:
        return f"[IPv6:{address[0].partition('%')[0]}]"
    return "[127.0.0.1]"
