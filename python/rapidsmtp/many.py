"""Many mails over one connection of the drop-in, and what `sendmail` says of each as an outcome.

A refused mail is its own affair and the next one follows. A connection that is lost is not opened
again here: it is the caller's, logged in and secured by the caller. What was under way then is
UNKNOWN if its body was handed over whole (RFC 5321 section 4.2.5, RFC 1047), else not attempted.
"""

import smtplib
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from rapidsmtp import _core
from rapidsmtp.dialogue import Steps
from rapidsmtp.errors import line_of
from rapidsmtp.intake import prepare
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, RecipientResult, Status, without_reply

Replies: TypeAlias = Mapping[str, tuple[int, bytes]]

ACCEPTED = RecipientResult(Status.ACCEPTED, None, None, "")
_LOST = "the connection was lost before the final reply"
_GONE = "the connection was lost"


def send(client: Any, messages: Iterable[Any]) -> Steps[list[Outcome]]:
    """Send messages, one after the other; steps as in `dialogue`.

    Args:
        client: an object with the methods of `smtplib.SMTP`.
        messages: what `Sender.send` takes.

    Returns:
        One outcome for each, in their order.
    """
    outcomes = []
    for item in messages:
        outcomes.append((yield from _outcome(client, item)))
    return outcomes


def _outcome(client: Any, item: Any) -> Steps[Outcome]:
    prepared, told = prepare([item])
    if told:
        return told[0]
    message = prepared[0]
    if client.sock is None:
        return without_reply(message, Status.NOT_ATTEMPTED, "connect", _GONE)
    start = time.monotonic()
    try:
        yield client._greet()
    except smtplib.SMTPException as error:
        return without_reply(message, Status.NOT_ATTEMPTED, "connect", line_of(error))
    fault = not_offered(client, message)
    if fault:
        return without_reply(message, Status.INVALID, "mail", fault)
    phase, known, reply = yield from _sent(client, message)
    # A 421 in the midst of the recipients leaves the others without a word.
    silent = RecipientResult(Status.NOT_ATTEMPTED, None, None, _GONE)
    results = {address: known.get(address, silent) for address in message.recipients}
    status = Status[_core.message_status([each.status.name for each in results.values()])]
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


_Sent: TypeAlias = tuple[str, dict[str, RecipientResult], tuple[int, bytes] | None]


def _sent(client: Any, message: Message) -> Steps[_Sent]:
    """Send a mail by `sendmail`.

    Returns:
        The phase in which its fate was decided, its recipients' results, the final reply.
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
        return "rcpt", judged(error.recipients), None
    except smtplib.SMTPSenderRefused as error:
        return "mail", judged(for_all(message, error)), None
    except smtplib.SMTPDataError as error:
        single: Replies = getattr(error, "recipients", {})
        return "data", judged({**for_all(message, error), **single}), None
    except (smtplib.SMTPNotSupportedError, ValueError, TypeError) as error:
        invalid = RecipientResult(Status.INVALID, None, None, line_of(error))
        return "build", dict.fromkeys(recipients, invalid), None
    except OSError as error:
        return _lost(client, message, error)
    results = dict.fromkeys(recipients, ACCEPTED)
    results |= judged(refused)
    return "body", results, getattr(refused, "reply", None)


def _lost(client: Any, message: Message, error: OSError) -> _Sent:
    """The connection is gone or out of step; no later mail may go over it."""
    client.close()
    # A fault that does not say whether the body is gone may have come after it.
    sent = getattr(error, "body_sent", True)
    status = Status.UNKNOWN if sent else Status.NOT_ATTEMPTED
    text = f"{_LOST if sent else _GONE}: {line_of(error)}"
    results = dict.fromkeys(message.recipients, RecipientResult(status, None, None, text))
    results |= judged(getattr(error, "recipients", {}))
    results |= dict.fromkeys(getattr(error, "accepted", ()), ACCEPTED)
    return "body" if sent else "connect", results, None


def judged(replies: Replies) -> dict[str, RecipientResult]:
    """What the last words on each recipient mean."""
    results = {}
    for address, (code, text) in replies.items():
        status = Status[_core.recipient_status(code)]
        enhanced = _core.enhanced_status(code, text)
        results[address] = RecipientResult(status, code, enhanced, words(text))
    return results


def for_all(message: Message, error: smtplib.SMTPResponseException) -> dict[str, tuple[int, bytes]]:
    """A refusal of the sender or the message, as one of each recipient."""
    text = error.smtp_error
    reply = (error.smtp_code, text if isinstance(text, bytes) else text.encode())
    return dict.fromkeys(message.recipients, reply)


def reason(results: Mapping[str, RecipientResult]) -> str:
    """The first refusal; without the address, so that a report can count equal ones."""
    for address, result in results.items():
        if result.status is not Status.ACCEPTED:
            code = "" if result.code is None else f"{result.code} "
            return f"{code}{result.text}".replace(address, "\N{HORIZONTAL ELLIPSIS}")
    return ""


def words(text: bytes) -> str:
    """A reply's text in one line that a terminal may show: a relay may send anything."""
    line = " ".join(text.decode("utf-8", "replace").split())
    return "".join(each for each in line if each.isprintable())


def not_offered(client: Any, message: Message) -> str:
    """What a message needs and the relay does not have, in one line; "" where it has all."""
    wanted = {"SMTPUTF8": "smtputf8", "BODY=8BITMIME": "8bitmime"}
    for option in message.mail_options:
        if option in wanted and not client.has_extn(wanted[option]):
            return f"the relay does not offer {wanted[option].upper()}, which the message needs"
    return ""
