"""The envelope and the bytes of email.message objects.

`envelope` and `flatten` behave exactly like `smtplib.SMTP.send_message`, including its oddities,
because programs rely on this behaviour.
"""

import copy
import email.message
import email.utils
import re
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, cast

from rapidsmtp._compose.genuine import are_genuine
from rapidsmtp._compose.to_bytes import to_bytes

# Matches a mailbox without quotes and comments. Such a mailbox can be parsed in one way only (RFC
# 5322 section 3.4), so the slower `getaddresses` is not needed.
_MAILBOX = re.compile(
    r" *(?:(?:\w+(?: \w+)* )?(<))?([\w+-]+(?:\.[\w+-]+)*@[\w-]+(?:\.[\w-]+)*)(?(1)>) *", re.ASCII
)


def _addresses(fields: Sequence[object]) -> list[str]:
    """Return the addresses that `email.utils.getaddresses` finds in header fields."""
    mailboxes = [
        _MAILBOX.fullmatch(mailbox) for field in fields for mailbox in str(field).split(",")
    ]
    addresses = [mailbox[2] for mailbox in mailboxes if mailbox is not None]
    if len(addresses) == len(mailboxes):
        return addresses
    return [address for _, address in email.utils.getaddresses(cast("list[str]", fields))]


_methods = attrgetter("get", "get_all", "__contains__", "__delitem__", "__getitem__")
_OWN_METHODS = _methods(email.message.Message)
_KNOWN_METHODS = _OWN_METHODS if are_genuine(_OWN_METHODS) else None
_NAMES = frozenset(("get", "get_all"))
_HIDDEN = frozenset(("bcc", "resent-bcc"))


def _has_plain_header(message: Any) -> bool:
    """Return whether the message's methods are those of the standard library.

    In this case, reading `_headers` gives the same result as calling the methods.
    """
    return _methods(type(message)) == _KNOWN_METHODS and _NAMES.isdisjoint(message.__dict__)


def envelope(
    message: "email.message.Message[Any, Any]",
    from_addr: str | None = None,
    to_addrs: str | Iterable[str] | None = None,
) -> tuple[str, str | Iterable[str]]:
    """Return the envelope of a message, as `smtplib.SMTP.send_message` reads it from the header.

    For a resent message, the envelope is in the Resent- fields (RFC 5322 section 3.6.6). Sender
    takes precedence over From. The recipients come from To, Bcc and Cc, in this order. Only the
    first field of each name is read.

    Args:
        message: An email.message object.
        from_addr: The sender; None to read it from the header.
        to_addrs: The recipients, which are returned unchanged; None to read them from the header.

    Returns:
        The sender and the recipients.

    Raises:
        ValueError: There is more than one block of Resent- fields.
    """
    if from_addr is None and to_addrs is None and _has_plain_header(message):
        found = _plain_envelope(message)
        if found is not None:
            return found
    resent = message.get_all("Resent-Date")
    if resent is not None and len(resent) != 1:
        raise ValueError("message has more than one 'Resent-' header block")
    prefix = "" if resent is None else "Resent-"
    if from_addr is None:
        name = f"{prefix}Sender" if f"{prefix}Sender" in message else f"{prefix}From"
        # If the message has neither Sender nor From, the value is None, and `getaddresses` converts
        # None to text. The client then sends this text as the sender, as smtplib does, and the
        # server refuses it.
        from_addr = _addresses([message[name]])[0]
    if to_addrs is None:
        fields = [message[prefix + name] for name in ("To", "Bcc", "Cc")]
        present = [value for value in fields if value is not None]
        to_addrs = _addresses(present)
    return from_addr, to_addrs


def _plain_envelope(message: Any) -> tuple[str, list[str]] | None:
    """Return the envelope of a message with a plain header; None for a resent message."""
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
    """Return the bytes that `smtplib.SMTP.send_message` passes to `sendmail`.

    Args:
        message: An email.message object. The object is not changed.
        utf8: Whether to write header fields in UTF-8 instead of encoded words (RFC 6532), for
            SMTPUTF8.

    Returns:
        The message with CRLF line ends and without Bcc and Resent-Bcc.
    """
    shown: Any = copy.copy(message)
    if _has_plain_header(message):
        shown._headers = [each for each in shown._headers if each[0].lower() not in _HIDDEN]
    else:
        del shown["Bcc"]
        del shown["Resent-Bcc"]
    # smtplib uses the same two policies. `message.policy` must not replace `None`, because only
    # `None` always escapes `From ` at the start of a line.
    policy = message.policy.clone(utf8=True) if utf8 else None  # type: ignore[call-arg, unused-ignore]
    return to_bytes(shown, policy=policy)
