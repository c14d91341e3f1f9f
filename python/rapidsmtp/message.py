"""Wire-ready messages, and email.message objects turned into them.

A `Message` is what the sending side takes: an envelope (RFC 5321 section 2.3.1) and finished
bytes. `envelope` and `flatten` make one out of an email.message object and follow
`smtplib.SMTP.send_message` to the letter, oddities included, because programs rely on them.
"""

import copy
import email.message
import email.utils
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, cast

from rapidsmtp.flatten import to_bytes


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One message with its envelope, ready for the wire.

    Attributes:
        sender: The envelope's sender; "" is the null reverse-path of a bounce.
        recipients: The envelope's recipients, at least one.
        data: Header and body with CRLF line ends, before dot-stuffing. Bytes are held by
            reference, any other buffer is copied.
        tag: Whatever tells the caller which message this is; it comes back in the `Outcome`.
        mail_options: ESMTP parameters of MAIL, in order.
        rcpt_options: ESMTP parameters of every RCPT, in order.

    Raises:
        TypeError: `data` is a string, or no buffer.
        ValueError: There is no recipient.
    """

    sender: str
    recipients: Sequence[str]
    # A newsletter's worth of bytes, and perhaps secrets, have no place in a log line.
    data: bytes = field(repr=False)
    tag: Any = field(default=None, kw_only=True)
    mail_options: Sequence[str] = field(default=(), kw_only=True)
    rcpt_options: Sequence[str] = field(default=(), kw_only=True)

    def __init__(
        self,
        sender: str,
        recipients: Sequence[str],
        data: bytes,
        *,
        tag: Any = None,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> None:
        if type(data) is not bytes:
            if isinstance(data, (str, int)):
                raise TypeError(f"data must be bytes, not {type(data).__name__}")
            data = bytes(data)
        if type(recipients) is not tuple:
            recipients = (recipients,) if isinstance(recipients, str) else tuple(recipients)
        if not recipients:
            raise ValueError("a message needs at least one recipient")
        # A million are made for one newsletter: past the frozen class's own __setattr__.
        _set_sender(self, sender)
        _set_recipients(self, recipients)
        _set_data(self, data)
        _set_tag(self, tag)
        _set_mail_options(self, tuple(mail_options))
        _set_rcpt_options(self, tuple(rcpt_options))


_set_sender = Message.__dict__["sender"].__set__
_set_recipients = Message.__dict__["recipients"].__set__
_set_data = Message.__dict__["data"].__set__
_set_tag = Message.__dict__["tag"].__set__
_set_mail_options = Message.__dict__["mail_options"].__set__
_set_rcpt_options = Message.__dict__["rcpt_options"].__set__


# A mailbox of which there can be no two readings (RFC 5322 section 3.4): no quotes, no comments.
_MAILBOX = re.compile(
    r" *(?:(?:\w+(?: \w+)* )?(<))?([\w+-]+(?:\.[\w+-]+)*@[\w-]+(?:\.[\w-]+)*)(?(1)>) *", re.ASCII
)


def _addresses(fields: Sequence[object]) -> list[str]:
    """The addresses that `email.utils.getaddresses` finds in header fields."""
    mailboxes = [
        _MAILBOX.fullmatch(mailbox) for field in fields for mailbox in str(field).split(",")
    ]
    addresses = [mailbox[2] for mailbox in mailboxes if mailbox is not None]
    if len(addresses) == len(mailboxes):
        return addresses
    return [address for _, address in email.utils.getaddresses(cast("list[str]", fields))]


_methods = attrgetter("get", "get_all", "__contains__", "__delitem__", "__getitem__")
_KNOWN_METHODS = _methods(email.message.Message)
_NAMES = frozenset(("get", "get_all"))
_HIDDEN = frozenset(("bcc", "resent-bcc"))


def _is_known(message: Any) -> bool:
    """Whether `email` itself answers for the fields of a message, so that they can be looked at."""
    return _methods(type(message)) == _KNOWN_METHODS and _NAMES.isdisjoint(message.__dict__)


def envelope(
    message: "email.message.Message[Any, Any]",
    from_addr: str | None = None,
    to_addrs: str | Iterable[str] | None = None,
) -> tuple[str, str | Iterable[str]]:
    """Read the envelope out of a message's header, as `smtplib.SMTP.send_message` does.

    A resent message (RFC 5322 section 3.6.6) is read by its Resent- fields. Sender goes before
    From; the recipients are those of To, Bcc and Cc, in this order, the first field of each.

    Args:
        message: An email.message object.
        from_addr: The sender, if the header is not to be asked.
        to_addrs: The recipients, if the header is not to be asked; returned as they are.

    Returns:
        The sender and the recipients.

    Raises:
        ValueError: There is more than one block of Resent- fields.
    """
    if from_addr is None and to_addrs is None and _is_known(message):
        read = _plain_envelope(message)
        if read is not None:
            return read
    resent = message.get_all("Resent-Date")
    if resent is not None and len(resent) != 1:
        raise ValueError("message has more than one 'Resent-' header block")
    prefix = "" if resent is None else "Resent-"
    if from_addr is None:
        name = f"{prefix}Sender" if f"{prefix}Sender" in message else f"{prefix}From"
        # A message without either gives None here, which getaddresses turns into text: so does
        # send_message, and the server is the one to refuse it.
        from_addr = _addresses([message[name]])[0]
    if to_addrs is None:
        fields = [message[prefix + name] for name in ("To", "Bcc", "Cc")]
        present = [value for value in fields if value is not None]
        to_addrs = _addresses(present)
    return from_addr, to_addrs


def _plain_envelope(message: Any) -> tuple[str, list[str]] | None:
    """The envelope of a message that is not resent, in one look at its header."""
    fields: dict[str, tuple[str, Any]] = {}
    for name, value in message._headers:
        fields.setdefault(name.lower(), (name, value))
    if "resent-date" in fields:
        return None
    parse = message.policy.header_fetch_parse
    sender = fields.get("sender") or fields.get("from")
    named = [fields[name] for name in ("to", "bcc", "cc") if name in fields]
    recipients = [value for value in (parse(*field) for field in named) if value is not None]
    return _addresses([sender and parse(*sender)])[0], _addresses(recipients)


def flatten(message: "email.message.Message[Any, Any]", *, utf8: bool = False) -> bytes:
    """Write a message as `smtplib.SMTP.send_message` hands it to `sendmail`.

    Args:
        message: An email.message object; it is left as it is.
        utf8: Write header fields in UTF-8 instead of encoded words (RFC 6532), for SMTPUTF8.

    Returns:
        The message with CRLF line ends and without Bcc and Resent-Bcc.
    """
    shown: Any = copy.copy(message)
    if _is_known(message):
        shown._headers = [each for each in shown._headers if each[0].lower() not in _HIDDEN]
    else:
        del shown["Bcc"]
        del shown["Resent-Bcc"]
    # `policy=None` is not `policy=message.policy`: it escapes `From ` at the start of a line.
    policy = message.policy.clone(utf8=True) if utf8 else None  # type: ignore[call-arg, unused-ignore]
    return to_bytes(shown, policy=policy)
