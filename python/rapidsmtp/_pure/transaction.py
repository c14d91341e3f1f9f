"""One mail transaction (RFC 5321 3.3): what is written together, and what the replies mean.

Theory of operation
-------------------
A transaction is a row of commands, and each command gets one reply, in order:

    MAIL  RCPT 1 … RCPT n  DATA  body

RFC 2920 lets a client write MAIL, RCPT and DATA without waiting. What it wrote in one go is a
flight; the next flight is made when every reply to the last one was read. So the reply that is
read next always belongs to the oldest command that has none, and the verdict is the one that a
client which waits after each command would have come to.

    flight      holds                                           goes on when
    first       MAIL, up to 8 RCPT, DATA if that is all of them
    next        up to 100 RCPT, DATA after the last of them      MAIL was accepted
    body        the message and CRLF.CRLF                        354, and a recipient is left
    lone dot    CRLF.CRLF for nobody, to leave the data mode     354, and no recipient is left

The first flight is short because servers punish errors: a sender refused with 50 recipients
behind it made Postfix 3.7 sleep eleven seconds and close. The others are bounded so that the
replies to a flight fit any socket's buffer: a server that waits to write its replies must not
meet a client that waits to write its commands. MAIL goes alone when the message is larger than
the server takes, since then all that follows is in vain.

Servers count errors over a connection too (Postfix 3.7 sleeps from the tenth on and closes at the
twentieth, until a mail is accepted), and each command behind a refused one is one more. So after
a refused mail MAIL may go alone, and DATA when a recipient is known to be left: then a refusal
costs one error, as it does a client that waits after each command. Where PIPELINING is not
offered the transaction is sequential: one command a flight.

    reply to    250, (RCPT) 251    421                    -1 (malformed)         anything else
    MAIL        go on              sender refused, close  sender refused, close  sender refused (a)
    RCPT        left               recipients refused,    refused; the end, (b)  refused
                                   close
    DATA        (354) see above    data refused, close    data refused, close    data refused
    body        (2yz) accepted     data refused, close    data refused, close    data refused

(a) The replies to the rest of the flight are read first. If DATA got 354 although no recipient
    is left, a lone dot ends the data mode; if a recipient was accepted behind a refused sender,
    a lone dot would send empty mail, so the connection is dropped.
(b) Nobody can say which command the next reply belongs to: the connection is closed. If it was
    the last recipient and none is left, all were refused; else the connection was lost.

The end of the stream, or of the reader's patience, leaves standing what was decided before it.
A refused transaction wants an RSET where the connection stays open.

LMTP (RFC 2033) answers the body once for each recipient that is left; one accepted is enough.
After a 421 among those replies there are no others: it holds for all the recipients behind it.
"""

from collections.abc import Sequence

from rapidsmtp._pure.command import mail, rcpt
from rapidsmtp._pure.reply import MALFORMED, Reply, ReplyReader

FIRST_FLIGHT_RECIPIENTS = 8
"""Recipients that may follow MAIL before its reply is known."""

FLIGHT_RECIPIENTS = 100
"""Recipients in any later flight."""

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
    """One mail from MAIL to the reply to its body.

    Write what `data_to_send` gives, then read until nothing is awaited, and again, until it
    gives nothing more: then there is a verdict.

    Attributes:
        awaiting: replies that are due to what was written.
        verdict: `"accepted"`, `"sender refused"`, `"recipients refused"`, `"data refused"`,
            `"disconnected"`, `"fault"`, or None while it is open.
        close: whether the connection is of no more use.
        reply: the reply that decided; None where it was none.
        fault: the reader's word where the verdict is `"fault"`.
        accepted: the indices of the recipients that have the mail, or, before the verdict, are
            left.
        refused: index and reply of those refused so far.
        body_sent: whether the body was handed out and, as far as is known, written in full.
        finals: LMTP's replies to the body, by the index of the recipient.
    """

    __slots__ = (
        "_body",
        "_data_alone",
        "_data_reply",
        "_finals",
        "_flight",
        "_flight_limit",
        "_flight_replies",
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
        "finals",
        "refused",
        "reply",
        "verdict",
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
        """Check and encode the whole envelope; nothing has been written if this raises.

        Args:
            sender: the sender's path, in angle brackets.
            recipients: the recipients' paths.
            body: the message as `stuff` made it.
            mail_parameters: ESMTP parameters of MAIL, in order.
            rcpt_parameters: ESMTP parameters of each RCPT, in order.
            utf8: whether the transaction is an SMTPUTF8 one.
            lower_case: whether to write `from:` and `to:` in lower case.
            lmtp: whether the server speaks LMTP.
            mail_alone: whether to wait for the reply to MAIL before anything else.
            data_alone: whether to wait with DATA until a recipient is known to be left.
            sequential: whether each command waits for the reply to the one before it, as it must
                where PIPELINING is not offered.

        Raises:
            ValueError: a path or parameter holds what it must not.
            UnicodeEncodeError: one is not ASCII, without `utf8`.
        """
        self.awaiting: int = 0
        self.verdict: str | None = None
        self.close: bool = False
        self.reply: Reply | None = None
        self.accepted: list[int] = []
        self.refused: list[tuple[int, Reply]] = []
        self.body_sent: bool = False
        self.finals: dict[int, Reply] = {}
        self._body = body
        self._lmtp = lmtp
        self._data_alone = data_alone or sequential
        self._flight_limit = 1 if sequential else FLIGHT_RECIPIENTS
        self._reader = ReplyReader()
        self._mail_reply: Reply | None = None
        self._rcpt_replies = 0
        self._rcpt_sent = 0
        self._data_reply: Reply | None = None
        self._lone_dot = False
        self._finals: list[Reply] = []
        self._write_failed = False
        command = mail(sender, mail_parameters, utf8=utf8, lower_case=lower_case)
        self._rcpt_commands = [
            rcpt(path, rcpt_parameters, utf8=utf8, lower_case=lower_case) for path in recipients
        ]
        self._flight = command
        self._flight_replies = 1
        if not (mail_alone or sequential):
            self._add_recipients(FIRST_FLIGHT_RECIPIENTS)

    @property
    def fault(self) -> str | None:
        return self._reader.fault

    def data_to_send(self) -> bytes:
        """Take the next flight; empty while replies are awaited and when all is over."""
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
            data: the next octets from the server.

        Returns:
            How many octets were used; what is left was not awaited.
        """
        used = self._reader.receive_data(data, self.awaiting)
        self._receive_replies()
        return used

    def receive_eof(self, *, strict: bool = False) -> None:
        """The server has closed: whatever was not decided by a reply is lost.

        Args:
            strict: whether a last line without a line end is no reply. The drop-in takes it for
                one, as smtplib does; who asks whether a mail was accepted must not.
        """
        if not strict:
            self._reader.receive_eof()
        self._receive_replies()
        self._end_of_stream(DISCONNECTED)

    def write_failed(self) -> None:
        """What `data_to_send` gave last was not written in full.

        Replies that are there may still be read, but no reply to the body can accept what the
        server does not have.
        """
        self._write_failed = True
        self.body_sent = False

    def _receive_replies(self) -> None:
        replies = self._reader.events()
        for reply in replies:
            self.awaiting -= 1
            self._receive_reply(reply)
            if self.verdict is not None:
                return
        if self._reader.fault is not None:
            self._end_of_stream(FAULT)
        elif replies and self.awaiting == 0:
            self._next_flight()

    def _receive_reply(self, reply: Reply) -> None:
        """Give a reply to the oldest command that has none."""
        if self._mail_reply is None:
            self._receive_mail(reply)
        elif self._rcpt_replies < self._rcpt_sent:
            self._receive_rcpt(reply)
        elif self._data_reply is None:
            self._receive_data_reply(reply)
        elif self._lone_dot:
            self._end(self._refusal(), reply[0] in _ENDING)
        else:
            self._receive_final(reply)

    def _receive_mail(self, reply: Reply) -> None:
        self._mail_reply = reply
        if reply[0] in _ENDING:
            self._end(SENDER_REFUSED, True)

    def _receive_rcpt(self, reply: Reply) -> None:
        code = reply[0]
        index = self._rcpt_replies
        self._rcpt_replies += 1
        if code == 250 or code == 251:
            self.accepted.append(index)
            return
        self.refused.append((index, reply))
        if code not in _ENDING:
            return
        if not self._mail_accepted():
            self._end(SENDER_REFUSED, True)
        elif code == _SHUTDOWN or self._all_refused():
            self._end(RECIPIENTS_REFUSED, True)
        else:
            self._end(DISCONNECTED, True)

    def _receive_data_reply(self, reply: Reply) -> None:
        self._data_reply = reply
        if reply[0] == 354:
            return
        verdict = DATA_REFUSED if self._mail_accepted() and self.accepted else self._refusal()
        self._end(verdict, reply[0] in _ENDING, reply)

    def _receive_final(self, reply: Reply) -> None:
        code = reply[0]
        if _accepts(reply) and self._write_failed:
            self._end(DISCONNECTED, True)
            return
        self._finals.append(reply)
        if not self._lmtp:
            verdict = ACCEPTED if _accepts(reply) else DATA_REFUSED
            self._end(verdict, code in _ENDING, reply)
        else:
            if code == _SHUTDOWN:
                self._finals += [reply] * (len(self.accepted) - len(self._finals))
            if len(self._finals) == len(self.accepted):
                self._end_lmtp()
            elif code == MALFORMED:
                self._end(DISCONNECTED, True)

    def _end_lmtp(self) -> None:
        finals = self._finals
        accepting = [reply for reply in finals if _accepts(reply)]
        close = any(reply[0] in _ENDING for reply in finals)
        if accepting:
            self._end(ACCEPTED, close, accepting[0])
        else:
            self._end(DATA_REFUSED, close, finals[0])

    def _next_flight(self) -> None:
        if self._data_reply is not None:
            self._answer_data_mode()
        elif not self._mail_accepted():
            self._end(SENDER_REFUSED, False)
        elif self._rcpt_sent < len(self._rcpt_commands):
            self._add_recipients(self._flight_limit)
        elif not self.accepted:
            self._end(RECIPIENTS_REFUSED, False)
        else:
            self._add_data()

    def _answer_data_mode(self) -> None:
        """After 354: the body for those who are left, or a way out."""
        if self.accepted and self._mail_accepted():
            self._flight = self._body
            self._flight_replies = len(self.accepted) if self._lmtp else 1
        elif self.accepted or self._lmtp or not all(_refuses(reply) for _, reply in self.refused):
            # A lone dot would mail an empty body, to a recipient behind a refused sender or to one
            # that got 252 or 999, say; on LMTP it would have no reply.
            self._end(self._refusal(), True)
        else:
            self._lone_dot = True
            self._flight = _LONE_DOT
            self._flight_replies = 1

    def _add_recipients(self, limit: int) -> None:
        """Put the next recipients on the flight, and DATA behind the last of them."""
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
        if self.verdict is not None:
            return
        if self._mail_reply is not None and not self._mail_accepted():
            self._end(SENDER_REFUSED, True)
        elif self._all_refused():
            self._end(RECIPIENTS_REFUSED, True)
        else:
            self._end(undecided, True)

    def _end(self, verdict: str, close: bool, reply: Reply | None = None) -> None:
        self.verdict = verdict
        self.close = close or self._write_failed
        self.awaiting = 0
        # A flight that nobody has taken yet must not leave after the verdict.
        self._flight = b""
        self._flight_replies = 0
        self.reply = self._mail_reply if verdict == SENDER_REFUSED else reply
        if self._lmtp and self._finals:
            self._settle_lmtp_recipients()
        elif verdict != ACCEPTED:
            self.accepted = []

    def _settle_lmtp_recipients(self) -> None:
        replies = list(zip(self.accepted, self._finals, strict=False))
        self.finals = dict(replies)
        self.refused += [(index, reply) for index, reply in replies if not _accepts(reply)]
        self.refused.sort()
        self.accepted = [index for index, reply in replies if _accepts(reply)]

    def _mail_accepted(self) -> bool:
        return self._mail_reply is not None and self._mail_reply[0] == 250

    def _all_refused(self) -> bool:
        return 0 < len(self._rcpt_commands) == len(self.refused)

    def _refusal(self) -> str:
        """The verdict where the body was never due."""
        return RECIPIENTS_REFUSED if self._mail_accepted() else SENDER_REFUSED


def _refuses(reply: Reply) -> bool:
    """Whether a reply says no: a code beyond RFC 5321's may mean anything."""
    return 400 <= reply[0] <= 599


def _accepts(final: Reply) -> bool:
    """Whether a reply to the body says that the server has the mail: any 2yz does."""
    return 200 <= final[0] <= 299
