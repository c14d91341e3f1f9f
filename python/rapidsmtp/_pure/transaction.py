"""One mail transaction (RFC 5321 3.3): it groups the commands and interprets the replies.

Theory of operation
-------------------
Each command of a transaction gets one reply, in order:

    MAIL  RCPT 1 … RCPT n  DATA  body

RFC 2920 lets a client write several commands without waiting. The commands of one write are a
flight. The next flight is built when all replies to the preceding flight have been read. Each reply
belongs to the oldest command without a reply.

    flight      holds                                       is written
    first       MAIL, up to 8 RCPT, DATA after the last     at once
    next        up to 100 RCPT, DATA after the last         after an accepted MAIL
    body        the message and CRLF.CRLF                   after 354, with an accepted recipient
    lone dot    CRLF.CRLF without a message                 after 354, without accepted recipient

The first flight is short, because servers penalise errors. For example, Postfix 3.7 refused a
sender and received 50 RCPT commands in the same flight. It then paused for eleven seconds and
closed the connection. A later flight contains no more than 100 RCPT commands, so that its replies
fit into any socket buffer. With longer flights, the client and the server could both block in a
write.

Servers also count the errors since the last accepted message. Postfix 3.7 pauses before each reply
from the tenth error on, and closes the connection at the twentieth error. If MAIL is refused, each
later command in the same flight is another error. So after a refused message the caller sets
`mail_alone` and `data_alone`. A second refusal then counts as one error. For a message above the
server's SIZE limit the caller also sets `mail_alone`, because the server will refuse MAIL.

    reply to    success            421                    -1 (malformed)         anything else
    MAIL        continue           sender refused, close  sender refused, close  sender refused
    RCPT        accepted           recipients refused,    refused; the end (a)   refused
                                   close
    DATA        see above          data refused, close    data refused, close    data refused
    body        accepted           data refused, close    data refused, close    data refused

`reply_code` lists the success codes of each command, and the codes after which the connection is
closed because the state of the server is unknown.

(a) After a malformed reply, later replies cannot be matched to commands, so the connection is
closed. The end is "recipients refused" if all recipients were refused, otherwise "disconnected".

If the stream ends or a reply times out after MAIL or every recipient was refused, the transaction
still ends with this refusal: "sender refused" or "recipients refused". Otherwise it ends with
"disconnected". If the connection stays open after "recipients refused" or "data refused", the
client must send RSET before the next transaction.

Without PIPELINING the transaction is sequential: each flight is one command.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rapidsmtp._pure.address import plain_path
from rapidsmtp._pure.capability import exceeds_size
from rapidsmtp._pure.command import mail, rcpt
from rapidsmtp._pure.reply import MALFORMED, Reply, ReplyReader
from rapidsmtp._pure.reply_code import (
    leaves_state_known,
    refuses,
    succeeds,
    succeeds_by_first_digit,
)
from rapidsmtp._pure.stuffing import stuff

FIRST_FLIGHT_RECIPIENTS = 8
"""The maximum number of RCPT commands in the first flight."""

FLIGHT_RECIPIENTS = 100
"""The maximum number of RCPT commands in a later flight."""

ACCEPTED = "accepted"
SENDER_REFUSED = "sender refused"
RECIPIENTS_REFUSED = "recipients refused"
DATA_REFUSED = "data refused"
DISCONNECTED = "disconnected"
FAULT = "fault"

_SHUTDOWN = 421
_ENDING = (_SHUTDOWN, MALFORMED)
_DATA = b"data\r\n"
_LONE_DOT = b".\r\n"


class Transaction:
    """One transaction, from MAIL to the reply to the body.

    The caller writes the result of `data_to_send`. It then passes received bytes to `receive_data`
    until no reply is awaited. It repeats both steps until `end` is set.

    Attributes:
        awaiting: The number of awaited replies.
        end: `"accepted"`, `"sender refused"`, `"recipients refused"`, `"data refused"`,
            `"disconnected"`, `"fault"`, or None while the transaction is open.
        close: Whether the connection must be closed.
        reply: The reply that ended the transaction. For "sender refused" it is the reply to MAIL,
            otherwise the reply to DATA or to the body. None if no such reply ended the transaction.
        fault: The limit that a reply exceeded, if the end is `"fault"`.
        is_data_accepted: Whether the server accepted DATA. A later refusal is the reply to the
            body, also if only a part of the body was written.
        accepted: The indices of the accepted recipients: before the end, those that RCPT accepted;
            after the end, those for whom the server accepted the message.
        refused: The index and the reply of each recipient refused so far.
        body_sent: Whether `data_to_send` has returned the body, and `write_failed` was not called.
        lmtp_replies: The replies to the body in LMTP, by the index of the recipient.
        refused_after_body: LMTP: the indices of the recipients that were accepted after RCPT but
            refused after the body.
    """

    __slots__ = (
        "_body",
        "_data_alone",
        "_data_reply",
        "_final_replies",
        "_flight",
        "_flight_limit",
        "_flight_replies",
        "_is_mail_accepted",
        "_is_state_unknown",
        "_lmtp",
        "_lone_dot",
        "_mail_reply",
        "_rcpt_commands",
        "_rcpt_replies",
        "_rcpt_sent",
        "_reader",
        "_write_failed",
        "accepted",
        "awaiting",
        "body_sent",
        "close",
        "end",
        "is_data_accepted",
        "lmtp_replies",
        "refused",
        "refused_after_body",
        "reply",
    )

    def __init__(
        self,
        sender: str,
        recipients: Sequence[str],
        body: bytes,
        mail_parameters: Sequence[str] = (),
        rcpt_parameters: Sequence[str] = (),
        *,
        utf8: bool = False,
        lower_case: bool = False,
        lmtp: bool = False,
        mail_alone: bool = False,
        data_alone: bool = False,
        sequential: bool = False,
    ) -> None:
        """Check and encode the whole envelope before any write.

        Args:
            sender: The sender's path in angle brackets.
            recipients: The recipients' paths in angle brackets.
            body: The stuffed message.
            mail_parameters: ESMTP parameters of MAIL, in order.
            rcpt_parameters: ESMTP parameters of each RCPT, in order.
            utf8: Whether the transaction uses SMTPUTF8 (RFC 6531).
            lower_case: Whether to write `from:` and `to:` in lower case.
            lmtp: Whether the server uses LMTP (RFC 2033).
            mail_alone: Whether to write MAIL alone and wait for its reply.
            data_alone: Whether to write DATA only after a recipient was accepted.
            sequential: Whether to wait for the reply to each command, for a server without
                PIPELINING.

        Raises:
            ValueError: A path or parameter contains a forbidden character.
            UnicodeEncodeError: A path or parameter is not ASCII, and `utf8` is false.
        """
        self.awaiting: int = 0
        self.end: str | None = None
        self.close: bool = False
        self.reply: Reply | None = None
        self.accepted: list[int] = []
        self.refused: list[tuple[int, Reply]] = []
        self.is_data_accepted: bool = False
        self.body_sent: bool = False
        self.lmtp_replies: dict[int, Reply] = {}
        self.refused_after_body: list[int] = []
        self._body = body
        self._lmtp = lmtp
        self._data_alone = data_alone or sequential
        self._flight_limit = 1 if sequential else FLIGHT_RECIPIENTS
        self._reader = ReplyReader()
        self._mail_reply: Reply | None = None
        self._is_mail_accepted = False
        self._rcpt_replies = 0
        self._rcpt_sent = 0
        self._data_reply: Reply | None = None
        self._lone_dot = False
        self._final_replies: list[Reply] = []
        self._write_failed = False
        self._is_state_unknown = False
        command = mail(sender, mail_parameters, utf8=utf8, lower_case=lower_case)
        self._rcpt_commands = [
            rcpt(path, rcpt_parameters, utf8=utf8, lower_case=lower_case) for path in recipients
        ]
        self._flight = command
        self._flight_replies = 1
        # RFC 2920 3.1: RCPT may be written together with MAIL, before the reply to MAIL arrives.
        if not (mail_alone or sequential):
            self._add_recipients(FIRST_FLIGHT_RECIPIENTS)

    @classmethod
    def of_message(
        cls,
        sender: str,
        recipients: Sequence[str],
        message: Any,
        path_of: Callable[[str], str],
        mail_options: Sequence[str],
        rcpt_parameters: Sequence[str],
        *,
        size: int | None,
        size_limit: str | None,
        utf8: bool,
        lower_case: bool,
        lmtp: bool,
        cautious: bool,
        sequential: bool,
    ) -> "Transaction":
        """Create the transaction of a message that is not stuffed.

        Args:
            sender: The sender's address.
            recipients: The recipients' addresses.
            message: The message: bytes or another buffer.
            path_of: The function that converts an address to a path if the address is not plain.
            mail_options: The caller's parameters of MAIL.
            rcpt_parameters: As for the constructor.
            size: None; or the size of the message in bytes, if the message is large. The body is
                then the message without dot-stuffing.
            size_limit: The parameter of SIZE in the reply to EHLO (RFC 1870); None if the server
                does not support SIZE.
            utf8: As for the constructor.
            lower_case: As for the constructor.
            lmtp: As for the constructor.
            cautious: Whether to write MAIL alone and DATA alone.
            sequential: As for the constructor.
        """
        if size is None:
            message, size = stuff(message)
        return cls(
            plain_path(sender) or path_of(sender),
            [plain_path(recipient) or path_of(recipient) for recipient in recipients],
            message,
            mail_options if size_limit is None else [f"size={size}", *mail_options],
            rcpt_parameters,
            utf8=utf8,
            lower_case=lower_case,
            lmtp=lmtp,
            # The server refuses MAIL if the message is too large.
            mail_alone=cautious or (size_limit is not None and exceeds_size(size_limit, size)),
            data_alone=cautious,
            sequential=sequential,
        )

    @property
    def fault(self) -> str | None:
        return self._reader.fault

    @property
    def phase(self) -> str:
        """The command to which the next reply belongs."""
        if self._mail_reply is None:
            return "mail"
        if self._rcpt_replies < self._rcpt_sent:
            return "rcpt"
        return "data" if self._data_reply is None else "body"

    @property
    def has_left_data_mode(self) -> bool:
        """Whether the transaction ends the data mode with a lone dot instead of a message."""
        return self._lone_dot

    def data_to_send(self) -> bytes:
        """Return the next flight; empty while replies are awaited and after the end.

        Each flight is returned only once.
        """
        flight = self._flight
        self._flight = b""
        self.awaiting += self._flight_replies
        self._flight_replies = 0
        if flight and flight is self._body:
            self.body_sent = True
        return flight

    def receive_data(self, data: bytes) -> int:
        """Read replies.

        Args:
            data: The next bytes from the server.

        Returns:
            The number of bytes used. Unused bytes belong to no command of this transaction.
        """
        used = self._reader.receive_data(data, self.awaiting)
        self._receive_replies()
        return used

    def run(
        self,
        client: Any,
        audit: Callable[..., Any],
        write: Callable[[bytes], Any],
        read: Callable[[int], bytes],
        read_size: int,
    ) -> tuple[OSError | None, bool, bytes] | None:
        """Write flights and read their replies, until the transaction has ended or is interrupted.

        Args:
            client: The argument of the audit event of each write.
            audit: `sys.audit`.
            write: The function that writes a flight.
            read: The function that reads bytes; it returns none at the end of the stream.
            read_size: The maximum number of bytes in one read.

        Returns:
            None after the end of the transaction. Otherwise the error of a write or read, whether
            it is the error of a write, and received bytes that belong to no command. Without an
            error and without bytes, the stream has ended.
        """
        while flight := self.data_to_send():
            audit("smtplib.send", client, flight)
            try:
                write(flight)
            except OSError as error:
                return error, True, b""
            while self.awaiting:
                try:
                    data = read(read_size)
                except OSError as error:
                    return error, False, b""
                used = self.receive_data(data)
                if used < len(data) or not data:
                    return None, False, data[used:]
        return None

    def receive_eof(self, *, strict: bool = False) -> None:
        """End the transaction because the server closed the connection.

        Args:
            strict: Whether to ignore a last line without a line end, because it may be incomplete.
                Otherwise it is parsed, as in smtplib at the end of the stream.
        """
        if not strict:
            self._reader.receive_eof()
        self._receive_replies()
        self._end_of_stream(DISCONNECTED)

    def write_failed(self) -> None:
        """Record that the last flight was not written completely.

        Replies may still be read, but a 2yz does not show that the server accepted the message.
        """
        self._write_failed = True
        self.body_sent = False

    def _receive_replies(self) -> None:
        for reply in self._reader.events():
            self.receive_reply(reply)
            if self.end is not None:
                return
        if self._reader.fault is not None:
            self._end_of_stream(FAULT)

    def receive_reply(self, reply: Reply) -> None:
        """Match a reply to the oldest command without a reply (RFC 2920 3.2).

        `awaiting` must not be 0.
        """
        self.awaiting -= 1
        phase, code = self.phase, reply[0]
        accepts = succeeds(phase, code)
        if not accepts and not self._lone_dot and not leaves_state_known(phase, code):
            self._is_state_unknown = True
        if phase == "mail":
            self._receive_mail(reply, accepts)
        elif phase == "rcpt":
            self._receive_rcpt(reply, accepts)
        elif phase == "data":
            self._receive_data_reply(reply, accepts)
        elif self._lone_dot:
            # A lone dot is sent only after refusals. They determine the transaction's result, and
            # the reply to the lone dot does not change it.
            self._finish(self._refusal(), code in _ENDING)
        else:
            self._receive_final(reply, accepts)
        if self.end is None and self.awaiting == 0:
            self._next_flight()

    def _receive_mail(self, reply: Reply, accepts: bool) -> None:
        # RFC 2920 3.1: all replies to the flight are read before a refusal ends the transaction.
        self._mail_reply = reply
        self._is_mail_accepted = accepts
        if reply[0] in _ENDING:
            self._finish(SENDER_REFUSED, True)

    def _receive_rcpt(self, reply: Reply, accepts: bool) -> None:
        code = reply[0]
        index = self._rcpt_replies
        self._rcpt_replies += 1
        if accepts:
            self.accepted.append(index)
            return
        self.refused.append((index, reply))
        if code not in _ENDING:
            return
        if not self._is_mail_accepted:
            self._finish(SENDER_REFUSED, True)
        elif code == _SHUTDOWN or self._all_refused():
            self._finish(RECIPIENTS_REFUSED, True)
        else:
            self._finish(DISCONNECTED, True)

    def _receive_data_reply(self, reply: Reply, accepts: bool) -> None:
        self._data_reply = reply
        self.is_data_accepted = accepts
        if accepts:
            return
        # RFC 5321 3.3: if the server refused the sender or all recipients, it refuses DATA as a
        # consequence. The earlier refusals then determine the transaction's result, not the refusal
        # of DATA.
        end = DATA_REFUSED if self._is_mail_accepted and self.accepted else self._refusal()
        self._finish(end, reply[0] in _ENDING, reply)

    def _receive_final(self, reply: Reply, accepts: bool) -> None:
        code = reply[0]
        # If the body was not written completely, a 2yz does not mean that the server accepted it.
        if accepts and self._write_failed:
            self._finish(DISCONNECTED, True)
            return
        self._final_replies.append(reply)
        if not self._lmtp:
            end = ACCEPTED if accepts else DATA_REFUSED
            self._finish(end, code in _ENDING, reply)
        else:
            # RFC 5321 3.8: after a 421 the server closes the connection. So the 421 applies to all
            # recipients that have no reply yet.
            if code == _SHUTDOWN:
                self._final_replies += [reply] * (len(self.accepted) - len(self._final_replies))
            if len(self._final_replies) == len(self.accepted):
                self._finish_lmtp()
            elif code == MALFORMED:
                self._finish(DISCONNECTED, True)

    def _finish_lmtp(self) -> None:
        lmtp_replies = self._final_replies
        accepting = [reply for reply in lmtp_replies if succeeds("body", reply[0])]
        close = any(reply[0] in _ENDING for reply in lmtp_replies)
        if accepting:
            self._finish(ACCEPTED, close, accepting[0])
        else:
            self._finish(DATA_REFUSED, close, lmtp_replies[0])

    def _next_flight(self) -> None:
        # RFC 2920 3.1: DATA may be accepted although MAIL or every RCPT was refused.
        if self._data_reply is not None:
            self._answer_data_mode()
        elif not self._is_mail_accepted:
            self._finish(SENDER_REFUSED, False)
        elif self._rcpt_sent < len(self._rcpt_commands):
            self._add_recipients(self._flight_limit)
        elif not self.accepted:
            self._finish(RECIPIENTS_REFUSED, False)
        else:
            self._add_data()

    def _answer_data_mode(self) -> None:
        """Choose the flight after a 354, or end the transaction."""
        may_send = self.accepted and self._is_mail_accepted
        if may_send and self._lmtp and not self._all_refused_clearly():
            # RFC 2033 4.2: the number of replies to the body is the number of accepted recipients.
            # A reply to RCPT that is neither a success nor a refusal leaves this number unknown.
            self._finish(DISCONNECTED, True)
        elif may_send:
            self._flight = self._body
            # RFC 2033 4.2: in LMTP, the server sends one reply to the body for each accepted RCPT.
            self._flight_replies = len(self.accepted) if self._lmtp else 1
        elif self.accepted or self._lmtp or not self._all_refused_clearly():
            # If the reply to an RCPT is not clearly a refusal, for example a 252, a lone dot could
            # send an empty message to this recipient. In LMTP, a lone dot gets no reply, because no
            # recipient is accepted (RFC 2033 4.2). In both cases the connection is closed instead.
            self._finish(self._refusal(), True)
        else:
            # RFC 2920 3.1: "if the DATA command was accepted the client SMTP should send a single
            # dot".
            self._lone_dot = True
            self._flight = _LONE_DOT
            self._flight_replies = 1

    def _add_recipients(self, limit: int) -> None:
        """Add the next recipients to the flight, and DATA after the last one."""
        commands = self._rcpt_commands[self._rcpt_sent : self._rcpt_sent + limit]
        self._rcpt_sent += len(commands)
        self._flight_replies += len(commands)
        self._flight += b"".join(commands)
        if commands and self._rcpt_sent == len(self._rcpt_commands) and not self._data_alone:
            self._add_data()

    def _add_data(self) -> None:
        self._flight += _DATA
        self._flight_replies += 1

    def _end_of_stream(self, undecided: str) -> None:
        if self.end is not None:
            return
        if self._mail_reply is not None and not self._is_mail_accepted:
            self._finish(SENDER_REFUSED, True)
        elif self._all_refused():
            self._finish(RECIPIENTS_REFUSED, True)
        else:
            self._finish(undecided, True)

    def _finish(self, end: str, close: bool, reply: Reply | None = None) -> None:
        self.end = end
        self.close = close or self._write_failed or self._is_state_unknown
        self.awaiting = 0
        # No flight may be written after the end of the transaction, so an unwritten flight is
        # dropped.
        self._flight = b""
        self._flight_replies = 0
        self.reply = self._mail_reply if end == SENDER_REFUSED else reply
        if self._lmtp and self._final_replies:
            self._assign_lmtp_replies()
        elif end != ACCEPTED:
            self.accepted = []

    def _assign_lmtp_replies(self) -> None:
        """Pair each accepted recipient with its reply to the body, in order (RFC 2033 4.2)."""
        replies = list(zip(self.accepted, self._final_replies, strict=False))
        self.lmtp_replies = dict(replies)
        self.accepted, self.refused_after_body = [], []
        for index, reply in replies:
            if succeeds("body", reply[0]):
                self.accepted.append(index)
            else:
                self.refused_after_body.append(index)
                self.refused.append((index, reply))
        self.refused.sort()

    def _all_refused_clearly(self) -> bool:
        """Return whether each recipient without success got a refusal (4yz, 5yz).

        A code such as 252 may mean that the server accepted the recipient.
        """
        return all(refuses(reply[0]) for _, reply in self.refused)

    def _all_refused(self) -> bool:
        return 0 < len(self._rcpt_commands) == len(self.refused)

    def _refusal(self) -> str:
        """Return the end of a transaction whose body was never written."""
        return RECIPIENTS_REFUSED if self._is_mail_accepted else SENDER_REFUSED


def invalid_reply(reply: Reply) -> Reply:
    """Return a reply with the code MALFORMED. Its text begins with the original code."""
    return reply if reply[0] == MALFORMED else (MALFORMED, b"%d %b" % reply)


def strict_reply(phase: str, reply: Reply) -> Reply:
    """Return a reply as the engine interprets it. The drop-in follows smtplib instead.

    Args:
        phase: The command to which the reply belongs: `Transaction.phase`.
        reply: The reply.
    """
    code, text = reply
    is_success = succeeds_by_first_digit(phase, code)
    if not is_success and not refuses(code):
        # RFC 5321 4.3.2: a code that the command cannot have is an invalid reply.
        return invalid_reply(reply)
    # RFC 5321 4.2: a client interprets an unknown code by its first digit. So any 2yz accepts a
    # MAIL or RCPT command.
    return (250, text) if is_success and phase in ("mail", "rcpt") else reply
