"""Whatever a sender is given, made into what an engine takes: messages, and drafts of them.

What cannot become one is an `Outcome` with the status INVALID: one bad element is no reason to
lose the others.
"""

import email.message
from collections.abc import Iterable
from typing import Any

from rapidsmtp.errors import line_of
from rapidsmtp.message import Message, envelope, flatten
from rapidsmtp.outcome import Outcome, Status, without_reply

_TAKEN = "a Message, (from, to, message), an email.message object"


def prepare(items: Iterable[Any], merged: bool = False) -> tuple[list[Any], list[Outcome]]:
    """Sort elements into what an engine takes and what is an outcome already.

    Args:
        items: What `Sender.send` takes.
        merged: They are what `Merge.unwritten` gives.

    Returns:
        The messages and drafts in their order, and the outcomes of all other elements.
    """
    taken, told = [], []
    for item in items:
        ready = item if merged or isinstance(item, (Message, Outcome)) else _made(item)
        if isinstance(ready, Outcome):
            told.append(ready)
        else:
            taken.append(ready)
    return taken, told


def not_attempted(items: Iterable[Any], reason: str, merged: bool = False) -> list[Outcome]:
    """The outcomes of elements that no engine took.

    Args:
        items: What `Sender.send` takes.
        reason: Why, in one line.
        merged: As for `prepare`.
    """
    messages, told = prepare(items, merged)
    lost = [without_reply(each, Status.NOT_ATTEMPTED, "connect", reason) for each in messages]
    return told + lost


def _made(item: Any) -> Message | Outcome:
    try:
        if isinstance(item, tuple):
            if not 3 <= len(item) <= 5:
                raise TypeError(f"a tuple of {len(item)} is not (from, to, message)")
            return _of_arguments(*item)
        if isinstance(item, email.message.Message):
            return _of_email(item)
        raise TypeError(f"neither {_TAKEN} nor an Outcome, but {type(item).__name__}")
    except Exception as error:
        # Whatever is wrong with it: email.message objects of bad mail raise almost anything.
        return Outcome(None, None, Status.INVALID, phase="build", reason=line_of(error))


def _of_arguments(
    from_addr: str,
    to_addrs: Any,
    msg: Any,
    mail_options: Iterable[str] = (),
    rcpt_options: Iterable[str] = (),
) -> Message:
    """The arguments of `smtplib.SMTP.sendmail`."""
    mail_options = tuple(mail_options)
    if isinstance(msg, email.message.Message):
        msg = flatten(msg, utf8=any(option.lower() == "smtputf8" for option in mail_options))
    elif isinstance(msg, str):
        msg = msg.encode("ascii")
    return Message(
        from_addr, to_addrs, msg, mail_options=mail_options, rcpt_options=tuple(rcpt_options)
    )


def _of_email(message: "email.message.Message[Any, Any]") -> Message:
    """The argument of `smtplib.SMTP.send_message`."""
    sender, recipients = envelope(message)
    recipients = tuple(recipients)
    international = not "".join([sender, *recipients]).isascii()
    options = ("SMTPUTF8", "BODY=8BITMIME") if international else ()
    return Message(sender, recipients, flatten(message, utf8=international), mail_options=options)
