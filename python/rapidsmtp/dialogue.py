"""What is said to a server step by step, and what its replies change: the same on every face.

Each function is a generator of steps. Whatever may have to wait is yielded and comes back as its
result: on the blocking face it is done by the time it is yielded, and `run` hands it back; on
asyncio it is awaited in between (`rapidsmtp.aio`). The client keeps the state, where smtplib keeps
it, and brings the methods that write, read and close.
"""

import datetime
import smtplib
import sys
from collections.abc import Generator, Sequence
from email.message import Message
from typing import Any, TypeAlias, TypeVar

from rapidsmtp import _core, delivery
from rapidsmtp.delivery import NOT_CONNECTED, Refused, accepts
from rapidsmtp.errors import (
    SMTPDataError,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from rapidsmtp.message import envelope, flatten

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]
Reply: TypeAlias = tuple[int, bytes]

_MAIL_FROM, _RCPT_TO = ("from:", "to:") if delivery.LOWER_CASE else ("FROM:", "TO:")


class State:
    """What smtplib keeps on its object, and the methods of it that wait for nothing."""

    helo_resp: bytes | None = None
    ehlo_resp: bytes | None = None
    debuglevel: int = 0

    # Of the running transaction, for LMTP's replies to the body (RFC 2033).
    _recipients_left = 0
    _final_replies: Sequence[Reply] = ()
    _body_sent = False
    # The connection on which EHLO was answered.
    _greeted: Any = None
    # The one on which the last mail was refused: servers count errors (see `pipelined`).
    _refused_on: Any = None
    # While `auth` runs: what is written is secret.
    _redacting = False

    esmtp_features: dict[str, str]

    def set_debuglevel(self, debuglevel: int) -> None:
        """Set how much is told on `sys.stderr`: 0 nothing, 1 the dialogue, 2 with the time."""
        self.debuglevel = debuglevel

    def has_extn(self, opt: str) -> bool:
        """Whether the server offers an extension, by its EHLO keyword."""
        return opt.lower() in self.esmtp_features

    def _print_debug(self, *args: object) -> None:
        if self.debuglevel > 1:
            print(datetime.datetime.now().time(), *args, file=sys.stderr)
        else:
            print(*args, file=sys.stderr)

    def _print_sent(self, s: Any) -> None:
        self._print_debug("send:", _redacted(s, self._redacting))


def _redacted(s: Any, authenticating: bool) -> str:
    """What debug output shows of a line that is sent: never a secret."""
    if not isinstance(s, str):
        return repr(s)
    words = s.split(" ", 2)
    if words[0].upper() == "AUTH" and len(words) == 3:
        return repr(f"{words[0]} {words[1]} [redacted]\r\n")
    if authenticating and words[0].upper() != "AUTH":
        return repr("[redacted]\r\n")
    return repr(s)


def run(steps: Steps[T]) -> T:
    """Take steps that are done when they are yielded; what the last of them returns."""
    done = None
    try:
        while True:
            done = steps.send(done)
    except StopIteration as end:
        result: T = end.value
        return result


# Greetings


def helo(client: Any, name: str) -> Steps[Reply]:
    """Say HELO, by the given name or this host's own."""
    name = str(name or client.local_hostname)
    _core.check_host_name(name)
    yield client.putcmd("helo", name)
    reply: Reply = yield client.getreply()
    client.helo_resp = reply[1]
    return reply


def ehlo(client: Any, name: str) -> Steps[Reply]:
    """Say EHLO and take note of what the server offers (RFC 5321 4.1.1.1)."""
    client.esmtp_features = {}
    name = str(name or client.local_hostname)
    _core.check_host_name(name)
    yield client.putcmd(client.ehlo_msg, name)
    code, text = yield client.getreply()
    if code == -1 and not text:
        client.close()
        raise SMTPServerDisconnected("Server not connected")
    client.ehlo_resp = text
    if code == 250:
        client.does_esmtp = True
        client.esmtp_features = _core.parse_ehlo(text)
        client._greeted = client.sock
    return code, text


def greet(client: Any) -> Steps[None]:
    """Say EHLO, or else HELO, if neither was said yet.

    Raises:
        SMTPHeloError: the server took neither.
    """
    if client.helo_resp is None and client.ehlo_resp is None and not accepts((yield client.ehlo())):
        reply = yield client.helo()
        if not accepts(reply):
            raise SMTPHeloError(*reply)


def start_tls(client: Any, secure: Any) -> Steps[Reply]:
    """Turn to TLS (RFC 3207).

    Args:
        client: the client.
        secure: called without arguments when the server agreed; does the handshake.

    Raises:
        SMTPNotSupportedError: the server does not offer it.
        SMTPResponseException: the server did not agree.
    """
    yield client.ehlo_or_helo_if_needed()
    if not client.has_extn("starttls"):
        raise SMTPNotSupportedError("STARTTLS extension not supported by server.")
    code, text = yield client.docmd("STARTTLS")
    if code != 220:
        raise SMTPResponseException(code, text)
    yield secure()
    forget(client)  # RFC 3207 4.2: what was offered in clear text may have been forged
    return code, text


def quit(client: Any) -> Steps[Reply]:
    """Say QUIT, close, and forget what the server offered."""
    reply: Reply = yield client.docmd("quit")
    forget(client)
    client.close()
    return reply


def forget(client: Any) -> None:
    """Forget what the server has said of itself."""
    client.ehlo_resp = client.helo_resp = None
    client.esmtp_features = {}
    client.does_esmtp = False


# Commands


def ask(client: Any, verb: str, address: str) -> Steps[Reply]:
    """Ask for a mailbox (VRFY) or the members of a list (EXPN)."""
    _core.check_command(address)
    yield client.putcmd(verb, smtplib._addr_only(address))  # type: ignore[attr-defined]  # private
    reply: Reply = yield client.getreply()
    return reply


def mail(client: Any, sender: str, options: Sequence[str]) -> Steps[Reply]:
    """Begin a mail (MAIL)."""
    parameters = ""
    if options and client.does_esmtp:
        if delivery.wants_utf8(options, client):
            client.command_encoding = "utf-8"
        parameters = " " + " ".join(options)
    client._recipients_left = 0
    yield client.putcmd("mail", _MAIL_FROM + delivery.path(sender) + parameters)
    reply: Reply = yield client.getreply()
    return reply


def rcpt(client: Any, recipient: str, options: Sequence[str]) -> Steps[Reply]:
    """Name a recipient (RCPT)."""
    parameters = ""
    if options and client.does_esmtp:
        parameters = " " + " ".join(options)
    yield client.putcmd("rcpt", _RCPT_TO + delivery.path(recipient) + parameters)
    reply: Reply = yield client.getreply()
    if reply[0] == 250 or reply[0] == 251:
        client._recipients_left += 1
    return reply


def data(client: Any, message: Any) -> Steps[Reply]:
    """Send the message (DATA): line ends repaired, dots doubled.

    Raises:
        SMTPDataError: the server did not want to hear it.
    """
    if isinstance(message, str):
        message = message.encode("ascii")
    # A `send` of the program's own is called once, with the whole, as smtplib calls it.
    ours = delivery.is_ours(client, "send") and not client.debuglevel
    by_pieces = delivery.is_large(message) and ours
    body = message if by_pieces else _core.stuff(message)[0]
    yield client.putcmd("data")
    reply: Reply = yield client.getreply()
    if client.debuglevel > 0:
        client._print_debug("data:", reply)
    if reply[0] != 354:
        raise SMTPDataError(*reply)
    try:
        reply = yield from _send_body(client, body, by_pieces)
    except BaseException:
        # Half a body, or a reply that nobody has read: the next command would become part of
        # the one or read the other.
        client.close()
        raise
    finally:
        client._recipients_left = 0
    if client.debuglevel > 0:
        client._print_debug("data:", reply)
    return reply


def _send_body(client: Any, body: bytes, by_pieces: bool) -> Steps[Reply]:
    client._body_sent = client.sock is not None
    try:
        if by_pieces:
            for piece, _ in delivery.stuffed_pieces(body):
                yield client.send(piece)
        else:
            yield client.send(body)
    except SMTPServerDisconnected as error:
        # These say for sure that something was not written; others come from anywhere.
        client._body_sent &= not isinstance(error.__context__, ConnectionError)
        raise
    if client.ehlo_msg != "lhlo":
        reply: Reply = yield client.getreply()
        return reply
    yield from _read_final_replies(client)
    accepting = [reply for reply in client._final_replies if accepts(reply)]
    first: Reply = (accepting or client._final_replies)[0]
    return first


def _read_final_replies(client: Any) -> Steps[None]:
    """LMTP: a reply for each recipient that is left (RFC 2033 4.2)."""
    replies: list[Reply] = []
    client._final_replies = replies
    while len(replies) < max(1, client._recipients_left):
        if client.sock is None:
            raise SMTPServerDisconnected(NOT_CONNECTED)
        reply = yield client.getreply()
        replies.append(reply)
        if reply[0] == 421:  # the server is going: it speaks for the others too
            replies += [reply] * (client._recipients_left - len(replies))


# Whole mails


def send_message(
    client: Any,
    message: Message,
    from_addr: str | None,
    to_addrs: str | Sequence[str] | None,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
) -> Steps[Refused]:
    """Send an email.message object, by its own headers where no address is given."""
    yield client._greet()
    sender, recipients = envelope(message, from_addr, to_addrs)
    international = not "".join([sender, *recipients]).isascii()
    if international:
        if not client.has_extn("smtputf8"):
            raise SMTPNotSupportedError(
                "One or more source or delivery addresses require internationalized email "
                "support, but the server does not advertise the required SMTPUTF8 capability"
            )
        mail_options = (*mail_options, "SMTPUTF8", "BODY=8BITMIME")
    flat = flatten(message, utf8=international)
    refused: Refused = yield client.sendmail(sender, recipients, flat, mail_options, rcpt_options)
    return refused
