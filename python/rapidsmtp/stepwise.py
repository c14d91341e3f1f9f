"""The slow way of `sendmail`: step by step through the client's own methods, as smtplib goes.

It is for servers without PIPELINING, and for programs that have put something of their own in the
place of `mail`, `rcpt`, `data` or what these stand on: all of it is called, in smtplib's order.
"""

from collections.abc import Sequence
from typing import Any

from rapidsmtp import _core, delivery
from rapidsmtp.delivery import Refused, accepts
from rapidsmtp.errors import (
    SMTPDataError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)


def send(
    client: Any,
    from_addr: str,
    recipients: list[str],
    msg: Any,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
) -> Refused:
    """Send one mail; arguments, result and errors are those of `sendmail`."""
    if isinstance(msg, str):
        msg = _core.repair(msg.encode("ascii"))
    elif not isinstance(msg, bytes) and delivery.is_ours(client, "data"):
        memoryview(msg)  # what is no buffer must not be found out when MAIL has gone
    parameters = delivery.mail_parameters(client, len(msg), mail_options)
    _check_envelope(client, from_addr, recipients, parameters, rcpt_options)
    client._body_sent = False
    client._final_replies = ()
    accepted: list[str] = []
    refused: dict[str, tuple[int, bytes]] = {}
    encoding = client.command_encoding
    try:
        code, text = client.mail(from_addr, parameters)
        if code != 250:
            _leave(client, code)
            raise SMTPSenderRefused(code, text, from_addr)
        _name_recipients(client, recipients, rcpt_options, accepted, refused)
        return _send_body(client, msg, accepted, refused)
    except (SMTPServerDisconnected, SMTPResponseException) as error:
        if type(error) not in (SMTPServerDisconnected, SMTPResponseException):
            raise  # a refusal: it speaks for itself
        kept = _settle(accepted, client._final_replies, refused)
        delivery.tell_fates(error, client._body_sent, kept, refused)
        raise
    finally:
        client.command_encoding = encoding  # what `mail` did for SMTPUTF8 ends with the mail


def _name_recipients(
    client: Any,
    recipients: list[str],
    rcpt_options: Sequence[str],
    accepted: list[str],
    refused: dict[str, tuple[int, bytes]],
) -> None:
    for recipient in recipients:
        reply = client.rcpt(recipient, rcpt_options)
        if reply[0] == 250 or reply[0] == 251:
            accepted.append(recipient)
            continue
        refused[recipient] = reply
        if reply[0] == 421:
            client.close()
            raise SMTPRecipientsRefused(refused)
    if not accepted:
        client._rset()
        raise SMTPRecipientsRefused(refused)


def _send_body(
    client: Any, msg: Any, accepted: list[str], refused: dict[str, tuple[int, bytes]]
) -> Refused:
    client._recipients_left = len(accepted)
    # Our `data` tells when the body is gone; of another one nobody knows.
    client._body_sent = not delivery.is_ours(client, "data")
    try:
        reply = client.data(msg)
    except SMTPDataError as error:
        _leave(client, error.smtp_code)
        raise delivery.data_refused((error.smtp_code, error.smtp_error), refused) from None
    finals = client._final_replies or [reply] * len(accepted)
    return _conclude(client, reply, finals, accepted, refused)


def _conclude(
    client: Any,
    reply: tuple[int, bytes],
    finals: Sequence[tuple[int, bytes]],
    accepted: list[str],
    refused: dict[str, tuple[int, bytes]],
) -> Refused:
    """The result of a mail whose body was answered: once, or by LMTP for each recipient."""
    if any(final[0] == 421 for final in finals):
        client.close()
    kept = _settle(accepted, finals, refused) if client.ehlo_msg == "lhlo" else accepted
    if not accepts(reply):
        _leave(client, reply[0])
        raise delivery.data_refused(reply, refused)
    return Refused(refused, reply, kept)


def _settle(
    accepted: list[str],
    finals: Sequence[tuple[int, bytes]],
    refused: dict[str, tuple[int, bytes]],
) -> list[str]:
    """Give LMTP's replies to their recipients: those refused join the others, the rest is left."""
    replies = list(zip(accepted, finals, strict=False))
    refused.update((recipient, reply) for recipient, reply in replies if not accepts(reply))
    return [recipient for recipient, reply in replies if accepts(reply)]


def _check_envelope(
    client: Any,
    from_addr: str,
    recipients: list[str],
    mail_parameters: Sequence[str],
    rcpt_options: Sequence[str],
) -> None:
    """Nothing is written of a mail that could not be written whole.

    What goes to a method that is not ours is not judged: only that method knows what it sends.
    """
    utf8 = client.command_encoding != "ascii"
    if mail_parameters:
        utf8 = delivery.wants_utf8(mail_parameters, client) or utf8
    ours = delivery.is_ours(client, "mail"), delivery.is_ours(client, "rcpt")
    # The transaction is not used: it is made because making it checks and encodes everything.
    _core.Transaction(
        delivery.path(from_addr) if ours[0] else "<>",
        [delivery.path(recipient) for recipient in recipients] if ours[1] else [],
        b"",
        mail_parameters if ours[0] else (),
        rcpt_options if ours[1] and client.does_esmtp else (),
        utf8=utf8,
        lower_case=delivery.LOWER_CASE,  # an error shows the command that could not be written
    )


def _leave(client: Any, code: int) -> None:
    """Go out of a transaction that a reply has ended."""
    if code == 421:
        client.close()
    else:
        client._rset()
