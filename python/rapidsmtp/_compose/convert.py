"""Convert the elements that callers pass to a sender into messages.

An element that cannot be converted becomes an `Outcome` with the status INVALID, so that one bad
element does not stop the others.
"""

import email.message
from collections.abc import Iterable
from typing import Any

from rapidsmtp._compose.envelope import checked_envelope, flatten
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, Status, outcome_without_reply
from rapidsmtp.errors import line_of

_ACCEPTED_TYPES = "a Message, (from, to, message), an email.message object"


def prepare(items: Iterable[Any], merged: bool = False) -> tuple[list[Any], list[Outcome]]:
    """Convert elements to messages for the engine, or to outcomes if no message can be sent.

    Args:
        items: The elements, in any form that `Sender.send` accepts.
        merged: Whether the elements come from `merged_for_engine` and need no conversion.

    Returns:
        The messages and pending messages in their order, and the outcomes of all other elements.
    """
    messages, outcomes = [], []
    for item in items:
        ready = item if merged or isinstance(item, (Message, Outcome)) else _converted(item)
        if isinstance(ready, Outcome):
            outcomes.append(ready)
        else:
            messages.append(ready)
    return messages, outcomes


def not_attempted(items: Iterable[Any], reason: str, merged: bool = False) -> list[Outcome]:
    """Return the outcomes of elements that did not reach the engine.

    Args:
        items: The elements, in any form that `Sender.send` accepts.
        reason: The reason, in one line.
        merged: As for `prepare`.
    """
    messages, outcomes = prepare(items, merged)
    status, phase = Status.NOT_ATTEMPTED, "connect"
    return outcomes + [outcome_without_reply(each, status, phase, reason) for each in messages]


def _converted(item: Any) -> Message | Outcome:
    try:
        if isinstance(item, tuple):
            if not 3 <= len(item) <= 5:
                raise TypeError(f"a tuple of {len(item)} elements is not (from, to, message)")
            return _from_arguments(*item)
        if isinstance(item, email.message.Message):
            return _from_email(item)
        raise TypeError(f"neither {_ACCEPTED_TYPES} nor an Outcome, but {type(item).__name__}")
    except Exception as error:
        # Catch every exception, because the methods of an email.message object may raise almost any
        # exception if the message is malformed.
        return Outcome(None, None, Status.INVALID, phase="build", reason=line_of(error))


def _from_arguments(
    from_addr: str,
    to_addrs: Any,
    msg: Any,
    mail_options: Iterable[str] = (),
    rcpt_options: Iterable[str] = (),
) -> Message:
    """Convert the arguments of `smtplib.SMTP.sendmail`."""
    mail_options = tuple(mail_options)
    if isinstance(msg, email.message.Message):
        utf8 = any(option.lower() == "smtputf8" for option in mail_options)
        msg = flatten(msg, utf8=utf8, checked=True)
    elif isinstance(msg, str):
        msg = msg.encode("ascii")
    return Message(
        from_addr, to_addrs, msg, mail_options=mail_options, rcpt_options=tuple(rcpt_options)
    )


def _from_email(message: "email.message.Message[Any, Any]") -> Message:
    """Convert the argument of `smtplib.SMTP.send_message`."""
    return with_envelope(message, *checked_envelope(message))


def with_envelope(
    message: "email.message.Message[Any, Any]", sender: str, recipients: Iterable[str]
) -> Message:
    """Convert an email.message object whose envelope is known.

    Raises:
        ValueError: A header field has a line break in its value, or there is no recipient.
    """
    recipients = tuple(recipients)
    international = not "".join([sender, *recipients]).isascii()
    options = ("SMTPUTF8", "BODY=8BITMIME") if international else ()
    data = flatten(message, utf8=international, checked=True)
    return Message(sender, recipients, data, mail_options=options)
