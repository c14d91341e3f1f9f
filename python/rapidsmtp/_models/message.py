"""A message that is ready to be sent: its envelope (RFC 5321 section 2.3.1) and its content."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One message with its envelope, ready to be sent.

    Attributes:
        sender: The sender in the envelope. "" is the null reverse-path of a bounce.
        recipients: The recipients in the envelope. At least one is required.
        data: The header and the body, with CRLF line ends and without dot-stuffing. A `bytes`
            object is not copied. Any other buffer is copied to a `bytes` object.
        tag: Any object with which the caller identifies the message. The `Outcome` has the same
            tag.
        mail_options: The ESMTP parameters of MAIL, in order.
        rcpt_options: The ESMTP parameters of every RCPT, in order.

    Raises:
        TypeError: `data` is a `str` or an `int`, or cannot be converted to `bytes`.
        ValueError: There is no recipient.
    """

    sender: str
    recipients: Sequence[str]
    # The repr does not contain `data`. The content is long and may hold secrets, and programs write
    # reprs to logs.
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
        # Speed matters here, because a newsletter creates a million messages. The slots' own
        # setters are faster than `object.__setattr__`, which is the usual way to set a field of a
        # frozen class.
        _set_sender(self, sender)
        _set_recipients(self, recipients)
        _set_data(self, data)
        _set_tag(self, tag)
        _set_mail_options(self, tuple(mail_options))
        _set_rcpt_options(self, tuple(rcpt_options))


Message.__module__ = "rapidsmtp"


_set_sender = Message.__dict__["sender"].__set__
_set_recipients = Message.__dict__["recipients"].__set__
_set_data = Message.__dict__["data"].__set__
_set_tag = Message.__dict__["tag"].__set__
_set_mail_options = Message.__dict__["mail_options"].__set__
_set_rcpt_options = Message.__dict__["rcpt_options"].__set__
