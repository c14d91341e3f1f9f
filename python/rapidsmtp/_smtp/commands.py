"""The SMTP commands, as generators that the blocking client and the asyncio client share.

A generator yields the value of each call that does I/O, and receives the result of that call. In
the blocking client, the yielded value is already the result, and `run` sends it back. In the
asyncio client (`rapidsmtp.aio`), `run_async` awaits each yielded awaitable and sends its result
back. `face.Face` lists the members that a client must provide. The client stores its state in
smtplib's attributes.
"""

import smtplib
from collections.abc import Callable, Generator, Sequence
from email.message import Message
from typing import Any, TypeAlias, TypeVar

from rapidsmtp import _backend
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._smtp import overrides, results
from rapidsmtp._smtp.face import Face
from rapidsmtp._smtp.results import NOT_CONNECTED, Refused, is_positive
from rapidsmtp._smtp.state import ReplyPair
from rapidsmtp.errors import (
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPResponseException,
    SMTPServerDisconnected,
    printable,
)

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]

_SEND = overrides.Methods("send")
_SENDING = overrides.Methods("send", "putcmd")

_MAIL_FROM, _RCPT_TO = ("from:", "to:") if results.LOWER_CASE else ("FROM:", "TO:")


def run(steps: Steps[T]) -> T:
    """Run a generator for a blocking client and return the generator's result.

    Args:
        steps: A generator for a blocking client. It yields the result of each call that does I/O.
    """
    done = None
    try:
        while True:
            done = steps.send(done)
    except StopIteration as end:
        result: T = end.value
        return result


# Greetings


def helo(client: Face, name: str) -> Steps[ReplyPair]:
    """Send HELO with `name`, or with the name of this host if `name` is empty."""
    name = _checked_host_name(client, name)
    yield client.putcmd("helo", name)
    reply: ReplyPair = yield client.getreply()
    client.helo_resp = reply[1]
    return reply


def ehlo(client: Face, name: str) -> Steps[ReplyPair]:
    """Send EHLO and store the server's capabilities (RFC 5321 section 4.1.1.1)."""
    client.esmtp_features = {}
    name = _checked_host_name(client, name)
    yield client.putcmd(client.ehlo_msg, name)
    code, text = yield client.getreply()
    if code == -1 and not text:
        client.close()
        raise results.disconnected("Server not connected")
    store_ehlo(client, code, text)
    return code, text


def store_ehlo(client: Face, code: int, text: bytes) -> None:
    """Store the reply to EHLO, and the server's capabilities."""
    client.ehlo_resp = text
    if code == 250:
        client.does_esmtp = True
        client.esmtp_features = _backend.parse_ehlo(text)
        client._protocol.greeted_on = client.sock


def _checked_host_name(client: Face, name: str) -> str:
    name = str(name or client.local_hostname)
    _backend.check_host_name(name)
    may_encode = not _SENDING.are_original(client)
    if name.isascii() or client.command_encoding != "ascii" or may_encode:
        return name
    _backend.check_command(name)  # A control character is another error.
    start = next(place for place, character in enumerate(name) if not character.isascii())
    reason = f"the host name {printable(name)} for EHLO is not ASCII; use its A-labels"
    raise UnicodeEncodeError("ascii", name, start, start + 1, reason)


def greet(client: Face) -> Steps[None]:
    """Send EHLO if no reply to EHLO or HELO is stored; send HELO if EHLO is refused.

    Raises:
        SMTPHeloError: The server refused both commands.
    """
    if client.helo_resp is not None or client.ehlo_resp is not None:
        return
    if not is_positive((yield client.ehlo())):
        reply = yield client.helo()
        if not is_positive(reply):
            raise SMTPHeloError(*reply)


def start_tls(client: Face, handshake: Callable[[], Any]) -> Steps[ReplyPair]:
    """Send STARTTLS (RFC 3207) and do the handshake.

    Args:
        client: The client.
        handshake: The function that does the TLS handshake. It is called after the reply 220.

    Raises:
        SMTPNotSupportedError: The server does not support STARTTLS.
        SMTPResponseException: The server refused STARTTLS.
    """
    yield client.ehlo_or_helo_if_needed()
    if not client.has_extn("starttls"):
        raise SMTPNotSupportedError("STARTTLS extension not supported by server.")
    code, text = yield client.docmd("STARTTLS")
    if code != 220:
        raise SMTPResponseException(code, text)
    yield handshake()
    # RFC 3207 section 4.2: the client must discard the capabilities that it received before the
    # handshake.
    forget_greeting(client)
    return code, text


def quit(client: Face) -> Steps[ReplyPair]:
    """Send QUIT, close the connection and discard the stored capabilities."""
    reply: ReplyPair = yield client.docmd("quit")
    forget_greeting(client)
    client.close()
    return reply


def forget_greeting(client: Face) -> None:
    """Discard the stored replies to EHLO and HELO."""
    client.ehlo_resp = client.helo_resp = None
    client.esmtp_features = {}
    client.does_esmtp = False


# Commands


def ask_about(client: Face, verb: str, address: str) -> Steps[ReplyPair]:
    """Ask whether a mailbox exists (VRFY), or ask for the members of a mailing list (EXPN)."""
    _backend.check_command(address)
    yield client.putcmd(verb, smtplib._addr_only(address))  # type: ignore[attr-defined]  # private
    reply: ReplyPair = yield client.getreply()
    return reply


def mail(client: Face, sender: str, options: Sequence[str]) -> Steps[ReplyPair]:
    """Start a transaction (MAIL)."""
    parameters = ""
    if options and client.does_esmtp:
        if results.wants_utf8(options, client):
            client.command_encoding = "utf-8"
        parameters = " " + " ".join(options)
    client._protocol.recipients_left = 0
    client._protocol.has_unclear_recipient = False
    yield client.putcmd("mail", _MAIL_FROM + smtp_path(sender) + parameters)
    reply: ReplyPair = yield client.getreply()
    return reply


def rcpt(client: Face, recipient: str, options: Sequence[str]) -> Steps[ReplyPair]:
    """Add a recipient (RCPT)."""
    parameters = ""
    if options and client.does_esmtp:
        parameters = " " + " ".join(options)
    yield client.putcmd("rcpt", _RCPT_TO + smtp_path(recipient) + parameters)
    reply: ReplyPair = yield client.getreply()
    if _backend.succeeds("rcpt", reply[0]):
        client._protocol.recipients_left += 1
    elif not _backend.refuses(reply[0]):
        client._protocol.has_unclear_recipient = True
    return reply


def data(client: Face, message: Any) -> Steps[ReplyPair]:
    """Send DATA and the message, with CRLF line ends and dot-stuffing.

    Raises:
        SMTPDataError: The server refused DATA.
        SMTPServerDisconnected: The connection was lost, or a reply arrived before the message was
            written. The attribute `body_sent` is true if the server may have accepted the message.
    """
    if isinstance(message, str):
        message = message.encode("ascii")
    # If a program has replaced `send`, the new method receives the whole message in one call,
    # because smtplib calls it in this way.
    may_split = _SEND.are_original(client) and not client.debuglevel
    in_pieces = results.is_large(message) and may_split
    body = message if in_pieces else _backend.stuff(message)[0]
    yield client.putcmd("data")
    reply: ReplyPair = yield client.getreply()
    if client.debuglevel > 0:
        client._print_debug("data:", tuple(reply))
    if not _backend.succeeds("data", reply[0]):
        if not _backend.leaves_state_known("data", reply[0]):
            client.close()
        raise SMTPDataError(*reply)
    state = client._protocol
    state.body_sent = False
    try:
        reply = yield from _send_body(client, body, in_pieces)
    except BaseException as error:
        # Close the connection after any failure. On an open connection, the server could read the
        # next command as text of an incomplete message. The client could also read a late reply to
        # this message as the reply to the next command.
        client.close()
        if isinstance(error, SMTPException):
            results.attach_progress(error, state.body_sent, (), {})
        raise
    finally:
        state.recipients_left = 0
    if client.debuglevel > 0:
        client._print_debug("data:", tuple(reply))
    return reply


def _send_body(client: Face, body: bytes, in_pieces: bool) -> Steps[ReplyPair]:
    state = client._protocol
    if state.link is not None:
        state.link.body_begun = True
    if client.ehlo_msg == "lhlo" and state.has_unclear_recipient:
        # RFC 2033 section 4.2: the number of replies to the message is the number of accepted
        # recipients. A reply to RCPT such as 252 leaves this number unknown.
        raise results.disconnected(NOT_CONNECTED)
    # A reply that arrived before the message does not belong to the message. It could show that a
    # message was accepted that the server has not read. smtplib reports a 421 as the reply to the
    # message.
    yield client._reject_unexpected_reply(results.SHUTDOWN)
    try:
        if in_pieces:
            for piece, _ in results.stuffed_parts(body):
                # A server may refuse the message before it has read the whole message, but it
                # cannot accept the message.
                state.body_sent = False
                yield client._reject_unexpected_reply(*results.REFUSALS)
                state.body_sent = client.sock is not None
                yield client.send(piece)
        else:
            state.body_sent = client.sock is not None
            yield client.send(body)
    except SMTPServerDisconnected as error:
        # Only a ConnectionError proves that the message was not written completely. Any other
        # exception may come from a signal handler that ran after the write, so the server may have
        # received the message.
        state.body_sent &= not isinstance(error.__context__, ConnectionError)
        raise
    if client.ehlo_msg != "lhlo":
        reply: ReplyPair = yield client.getreply()
        return reply
    yield from _read_final_replies(client)
    positive = [reply for reply in state.final_replies if _backend.succeeds("body", reply[0])]
    first: ReplyPair = (positive or state.final_replies)[0]
    return first


def _read_final_replies(client: Face) -> Steps[None]:
    """Read one reply for each accepted recipient (LMTP, RFC 2033 section 4.2)."""
    state = client._protocol
    replies: list[ReplyPair] = []
    state.final_replies = replies
    while len(replies) < max(1, state.recipients_left):
        if client.sock is None:
            raise results.disconnected(NOT_CONNECTED)
        reply = yield client.getreply()
        replies.append(reply)
        # RFC 5321 section 3.8: 421 may come in reply to any command, and the server closes the
        # connection. No further replies follow, so the 421 counts as the reply for each remaining
        # recipient.
        if reply[0] == 421:
            replies += [reply] * (state.recipients_left - len(replies))


# Whole messages


def send_message(
    client: Face,
    message: Message,
    from_addr: str | None,
    to_addrs: str | Sequence[str] | None,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
) -> Steps[Refused]:
    """Send an email.message object.

    Args:
        client: The client.
        message: The message.
        from_addr: The sender of the envelope; None for the sender in the header.
        to_addrs: The recipients: one address (str), or several; None for those in the header.
        mail_options: ESMTP parameters of MAIL.
        rcpt_options: ESMTP parameters of every RCPT.
    """
    # Imported here and not at the top, because a client that sends only bytes never needs this
    # module.
    from rapidsmtp._compose.envelope import envelope, flatten

    yield client._begin_session()
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
