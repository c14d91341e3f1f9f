"""`sendmail_many`: send many messages over one connection, and return outcomes.

After a refused message, the next message is sent. A lost connection is not opened again, because
the caller opened it and chose its login and its TLS settings.

If the connection is lost before the final reply to a message, the outcome of the message is UNKNOWN
or NOT_ATTEMPTED. UNKNOWN means that the message was written completely. The server may then have
accepted the message (RFC 5321 section 4.2.5, RFC 1047).
"""

import smtplib
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from rapidsmtp import _backend
from rapidsmtp._compose.convert import prepare
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, RecipientResult, Status, outcome_without_reply
from rapidsmtp._models.reply import Reply
from rapidsmtp._smtp.commands import Steps
from rapidsmtp._smtp.face import Face
from rapidsmtp._smtp.state import ReplyPair
from rapidsmtp.errors import brief, line_of, printable_reply

Replies: TypeAlias = Mapping[str, ReplyPair]

ACCEPTED = RecipientResult(Status.ACCEPTED, None, None, "")
_LOST_BEFORE_REPLY = "the connection was lost before the final reply"
_LOST = "the connection was lost"


def send(client: Face, messages: Iterable[Any]) -> Steps[list[Outcome]]:
    """Send messages one after the other.

    This function is a generator that `commands.run` or `run_async` must run.

    Args:
        client: The client.
        messages: The messages, of the types that `Sender.send` accepts.

    Returns:
        One outcome for each message, in the same order.
    """
    outcomes = []
    for item in messages:
        outcomes.append((yield from _outcome(client, item)))
    return outcomes


def _outcome(client: Face, item: Any) -> Steps[Outcome]:
    prepared, invalid = prepare([item])
    if invalid:
        return invalid[0]
    message = prepared[0]
    if client.sock is None:
        return outcome_without_reply(message, Status.NOT_ATTEMPTED, "connect", _LOST)
    start = time.monotonic()
    try:
        yield client._begin_session()
    except OSError as error:  # a failed TLS handshake raises no SMTPException
        return outcome_without_reply(message, Status.NOT_ATTEMPTED, "connect", line_of(error))
    missing = missing_capability(client, message)
    if missing:
        return outcome_without_reply(message, Status.INVALID, "mail", missing)
    phase, known, reply = yield from _send_one(client, message)
    # After a 421 to a RCPT, the server sends no replies for the later recipients. So `known` has no
    # result for them.
    no_reply = RecipientResult(Status.NOT_ATTEMPTED, None, None, _LOST)
    results = {address: known.get(address, no_reply) for address in message.recipients}
    status = Status[_backend.message_status([each.status.name for each in results.values()])]
    return Outcome(
        message.tag,
        message,
        status,
        results,
        reply,
        phase,
        1,
        time.monotonic() - start,
        reason(results),
    )


_SendmailResult: TypeAlias = tuple[str, dict[str, RecipientResult], Reply | None]


def _send_one(client: Face, message: Message) -> Steps[_SendmailResult]:
    """Send one message with `sendmail`.

    Returns:
        The phase that determined the message's status, the results by recipient, and the final
        reply.
    """
    recipients = message.recipients
    try:
        refused = yield client.sendmail(
            message.sender,
            list(recipients),
            message.data,
            message.mail_options,
            message.rcpt_options,
        )
    except smtplib.SMTPRecipientsRefused as error:
        return "rcpt", recipient_results(error.recipients, False), None
    except smtplib.SMTPSenderRefused as error:
        return "mail", recipient_results(for_all(message, error), False), None
    except smtplib.SMTPDataError as error:
        single: Replies = getattr(error, "recipients", {})
        # An exception of a replaced method has no `body_sent`.
        sent = getattr(error, "body_sent", True)
        return "data", recipient_results({**for_all(message, error), **single}, sent), None
    except (smtplib.SMTPNotSupportedError, ValueError, TypeError) as error:
        invalid = RecipientResult(Status.INVALID, None, None, line_of(error))
        return "build", dict.fromkeys(recipients, invalid), None
    except OSError as error:
        return _after_lost_connection(client, message, error)
    results = dict.fromkeys(recipients, ACCEPTED)
    results |= recipient_results(refused, True)
    return "body", results, getattr(refused, "reply", None)


def _after_lost_connection(client: Face, message: Message, error: OSError) -> _SendmailResult:
    # The connection may still be open, but the next reply on it may belong to an earlier command.
    # So the client must not send another message over this connection.
    client.close()
    # An exception of a replaced method has no `body_sent`. The default is true, because such a
    # method may have written the whole message before it raised the exception.
    sent = getattr(error, "body_sent", True)
    status = Status.UNKNOWN if sent else Status.NOT_ATTEMPTED
    text = brief(f"{_LOST_BEFORE_REPLY if sent else _LOST}: {line_of(error)}")
    results = dict.fromkeys(message.recipients, RecipientResult(status, None, None, text))
    results |= recipient_results(getattr(error, "recipients", {}), sent)
    results |= dict.fromkeys(getattr(error, "accepted", ()), ACCEPTED)
    return "body" if sent else "connect", results, None


def recipient_results(replies: Replies, body_sent: bool) -> dict[str, RecipientResult]:
    """Convert the replies of refused recipients to results, by address.

    Args:
        replies: The last reply for each recipient.
        body_sent: Whether the server may have received the whole message.
    """
    results = {}
    for address, (code, text) in replies.items():
        status = Status[_backend.refusal_status(code, body_sent)]
        enhanced = _backend.enhanced_status(code, text)
        results[address] = RecipientResult(status, code, enhanced, brief(printable_reply(text)))
    return results


def for_all(message: Message, error: smtplib.SMTPResponseException) -> dict[str, ReplyPair]:
    """Assign the reply that refused the sender or the message to each recipient."""
    text = error.smtp_error
    reply = (error.smtp_code, text if isinstance(text, bytes) else text.encode())
    return dict.fromkeys(message.recipients, reply)


def reason(results: Mapping[str, RecipientResult]) -> str:
    """Return the code and the text of the first result other than ACCEPTED.

    The recipient's address in the text of a relay is replaced by an ellipsis, so that reports can
    group equal reasons. The reason of an invalid message may name the invalid address.
    """
    for address, result in results.items():
        if result.status is not Status.ACCEPTED:
            code = "" if result.code is None else f"{result.code} "
            line = f"{code}{result.text}"
            if result.status is Status.INVALID or not address:
                return line
            return line.replace(address, "\N{HORIZONTAL ELLIPSIS}")
    return ""


def missing_capability(client: Face, message: Message) -> str:
    """Return an error text if the relay lacks a capability that the message needs, else ""."""
    needed = {"SMTPUTF8": "smtputf8", "BODY=8BITMIME": "8bitmime"}
    for option in message.mail_options:
        if option in needed and not client.has_extn(needed[option]):
            return f"the relay does not support {needed[option].upper()}, which the message needs"
    return ""
