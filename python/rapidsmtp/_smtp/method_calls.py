"""`sendmail` through the client's own methods: `mail`, `rcpt` and `data`, in smtplib's order.

`sendmail` uses this module if the program replaced a method that `flights` does not call, so that
the replaced method runs. It also uses this module for debug output, which shows each command.
"""

from collections.abc import Sequence
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._smtp import overrides, results
from rapidsmtp._smtp.face import BlockingFace
from rapidsmtp._smtp.results import Refused
from rapidsmtp._smtp.state import ReplyPair
from rapidsmtp.errors import (
    SMTPDataError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)

_MAIL, _RCPT, _DATA = map(overrides.Methods, ("mail", "rcpt", "data"))


def send(
    client: BlockingFace,
    from_addr: str,
    recipients: list[str],
    msg: Any,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
) -> Refused:
    """Send one message. The arguments, the result and the exceptions are those of `sendmail`."""
    if isinstance(msg, str):
        msg = _backend.repair(msg.encode("ascii"))
    elif not isinstance(msg, bytes) and _DATA.are_original(client):
        memoryview(msg)  # raises TypeError for a wrong type, before MAIL is written
    size = len(msg) if client.does_esmtp and client.has_extn("size") else None
    parameters = results.mail_parameters(client, size, mail_options)
    _check_envelope(client, from_addr, recipients, parameters, rcpt_options)
    state = client._protocol
    state.body_sent = False
    state.final_replies = ()
    accepted: list[str] = []
    refused: dict[str, ReplyPair] = {}
    encoding = client.command_encoding
    try:
        code, text = client.mail(from_addr, parameters)
        if not _backend.succeeds("mail", code):
            _reset_or_close(client, "mail", code)
            raise SMTPSenderRefused(code, text, from_addr)
        _add_recipients(client, recipients, rcpt_options, accepted, refused)
        return _send_body(client, msg, accepted, refused)
    except (SMTPServerDisconnected, SMTPResponseException) as error:
        if type(error) not in (SMTPServerDisconnected, SMTPResponseException):
            # Subclasses, such as `SMTPDataError`, report a refusal. They do not need the attributes
            # of `attach_progress`, because the server has certainly not accepted the message.
            raise
        kept = _assign_final_replies(accepted, state.final_replies, refused)
        results.attach_progress(error, state.body_sent, kept, refused)
        raise
    finally:
        client.command_encoding = encoding  # `mail` sets "utf-8" for a transaction with SMTPUTF8


def _add_recipients(
    client: BlockingFace,
    recipients: list[str],
    rcpt_options: Sequence[str],
    accepted: list[str],
    refused: dict[str, ReplyPair],
) -> None:
    for recipient in recipients:
        client._reject_unexpected_reply(results.SHUTDOWN)
        reply = client.rcpt(recipient, rcpt_options)
        if _backend.succeeds("rcpt", reply[0]):
            accepted.append(recipient)
            continue
        refused[recipient] = reply
        if reply[0] == 421:
            client.close()
            raise SMTPRecipientsRefused(refused)
    if not accepted:
        if _is_state_known(refused):
            client._rset()
        else:
            client.close()
        raise SMTPRecipientsRefused(refused)
    client._reject_unexpected_reply(results.SHUTDOWN)


def _send_body(
    client: BlockingFace, msg: Any, accepted: list[str], refused: dict[str, ReplyPair]
) -> Refused:
    state = client._protocol
    state.recipients_left = len(accepted)
    # rapidsmtp's `data` sets `body_sent`. A replaced `data` does not set it, and may raise an
    # exception after it has written the message.
    state.body_sent = not _DATA.are_original(client)
    try:
        reply = client.data(msg)
    except SMTPDataError as error:
        _reset_or_close(client, "data", error.smtp_code)
        refusal = error.smtp_code, error.smtp_error
        raise results.data_error(refusal, refused, state.body_sent) from None
    finals = state.final_replies or [reply] * len(accepted)
    return _result(client, reply, finals, accepted, refused)


def _result(
    client: BlockingFace,
    reply: ReplyPair,
    finals: Sequence[ReplyPair],
    accepted: list[str],
    refused: dict[str, ReplyPair],
) -> Refused:
    """Return or raise the result of a message.

    Args:
        client: The client.
        reply: The reply that `data` returned.
        finals: The final reply for each accepted recipient. With SMTP, all of them are `reply`.
            With LMTP, they may differ.
        accepted: The recipients that were accepted at RCPT.
        refused: The refused recipients with their replies. With LMTP, this function adds the
            recipients whose final reply is negative.
    """
    codes = [final[0] for final in finals]
    if 421 in codes or not _is_state_known(refused):
        client.close()
    kept = accepted
    if client.ehlo_msg == "lhlo":
        kept = _assign_final_replies(accepted, finals, refused)
    if not all(_backend.leaves_state_known("body", code) for code in codes):
        client.close()
    if not _backend.succeeds("body", reply[0]):
        _reset_or_close(client, "body", reply[0])
        raise results.data_error(reply, refused, True)
    return Refused(refused, reply, kept)


def _is_state_known(refused: dict[str, ReplyPair]) -> bool:
    """Return whether the state of the server is known after the replies to RCPT."""
    return all(_backend.leaves_state_known("rcpt", reply[0]) for reply in refused.values())


def _assign_final_replies(
    accepted: list[str], finals: Sequence[ReplyPair], refused: dict[str, ReplyPair]
) -> list[str]:
    """Pair each accepted recipient with its final reply, in order (LMTP, RFC 2033 section 4.2).

    Recipients with a negative reply are added to `refused`.

    Returns:
        The recipients with a positive reply.
    """
    kept = []
    for recipient, reply in zip(accepted, finals, strict=False):
        if _backend.succeeds("body", reply[0]):
            kept.append(recipient)
        else:
            refused[recipient] = reply
    return kept


def _check_envelope(
    client: BlockingFace,
    from_addr: str,
    recipients: list[str],
    mail_parameters: Sequence[str],
    rcpt_options: Sequence[str],
) -> None:
    """Raise an exception if a command of the message is invalid, before the client writes MAIL.

    The arguments of a replaced method are not checked, because such a method may send a different
    command.
    """
    utf8 = client.command_encoding != "ascii"
    if mail_parameters:
        utf8 = results.wants_utf8(mail_parameters, client) or utf8
    checks_mail = _MAIL.are_original(client)
    checks_rcpt = _RCPT.are_original(client)
    # The constructor raises an exception for an invalid command. The created object is not used.
    _backend.Transaction(
        smtp_path(from_addr) if checks_mail else "<>",
        [smtp_path(recipient) for recipient in recipients] if checks_rcpt else [],
        b"",
        mail_parameters if checks_mail else (),
        rcpt_options if checks_rcpt and client.does_esmtp else (),
        utf8=utf8,
        # The error text contains the command, so the command is written as smtplib writes it.
        lower_case=results.LOWER_CASE,
    )


def _reset_or_close(client: BlockingFace, phase: str, code: int) -> None:
    """End a refused transaction with RSET.

    After a 421, or if the state of the server is unknown, close the connection instead.
    """
    if code == 421 or not _backend.leaves_state_known(phase, code):
        client.close()
    else:
        client._rset()
