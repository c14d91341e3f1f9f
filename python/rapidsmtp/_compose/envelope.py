"""The envelope and the bytes of email.message objects.

`envelope` and `flatten` behave exactly like `smtplib.SMTP.send_message`, including its oddities,
because programs rely on this behaviour.
"""

import copy
import email.message
import email.utils
import re
from collections.abc import Callable, Iterable, Sequence
from email.errors import InvalidHeaderDefect
from operator import attrgetter
from typing import Any, cast

from rapidsmtp._compose.encode import MAXIMUM_ADDRESS, parse_mailboxes
from rapidsmtp._compose.genuine import are_genuine
from rapidsmtp._compose.to_bytes import checked_bytes, to_bytes

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


_UNFOLD = re.compile(r"\r?\n(?=[ \t])")

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


def checked_envelope(message: "email.message.Message[Any, Any]") -> tuple[str, list[str]]:
    """Return the envelope of a message, with the same checks of addresses as in a template.

    smtplib guesses an address in a malformed field, sends to an empty address for an empty group,
    and sends without From as `None`. The fields are those of `envelope`.

    Args:
        message: An email.message object.

    Raises:
        ValueError: An address is malformed, there is no sender or no recipient, or there is more
            than one block of Resent- fields.
    """
    read = _reader(message)
    prefix = ""
    if read("resent-date") is not None:
        prefix = "resent-"
        if len(message.get_all("Resent-Date", ())) != 1:
            raise ValueError("message has more than one 'Resent-' header block")
    senders = [*_checked(read, f"{prefix}sender"), *_checked(read, f"{prefix}from")]
    if not senders:
        raise ValueError("the message has no sender: From is empty")
    recipients = [
        address for name in ("to", "bcc", "cc") for address in _checked(read, prefix + name)
    ]
    if not recipients:
        raise ValueError("the message has no recipient: To, Cc and Bcc are empty")
    return senders[0], recipients


def _reader(message: Any) -> Callable[[str], Any]:
    """Return a function that reads the first field with a name in lower case, or None."""
    if not _has_plain_header(message):
        return message.get  # type: ignore[no-any-return]
    fields: dict[str, tuple[str, Any]] = {}
    for name, value in message._headers:
        fields.setdefault(name.lower(), (name, value))
    parse = message.policy.header_fetch_parse
    return lambda name: parse(*fields[name]) if name in fields else None


def _checked(read: Callable[[str], Any], name: str) -> list[str]:
    """Return the addresses of a field."""
    try:
        value = read(name)
        if value is None:
            return []
        text = str(value)
        is_changed = bool(getattr(value, "defects", ())) and _guesses(value._parse_tree)
    except Exception:
        # For a malformed address, `email` may raise exceptions of many types.
        is_changed = True
    if is_changed:
        raise ValueError(f"header {name.title()}: the value contains an invalid address")
    mailboxes = [_MAILBOX.fullmatch(mailbox) for mailbox in text.split(",")]
    addresses = [mailbox[2] for mailbox in mailboxes if mailbox is not None]
    if len(addresses) == len(mailboxes) and max(map(len, addresses)) <= MAXIMUM_ADDRESS:
        return addresses
    found = parse_mailboxes(_UNFOLD.sub("", text), name.title(), convert=False)
    return [mailbox.address for mailbox in found]


def _guesses(node: Any) -> bool:
    """Return whether `email` guessed or omitted an address when it parsed a field.

    A defect of a display name changes no address.
    """
    if node.token_type == "display-name":
        return False
    if any(isinstance(defect, InvalidHeaderDefect) for defect in node.defects):
        return True
    return isinstance(node, list) and any(map(_guesses, node))


def flatten(
    message: "email.message.Message[Any, Any]", *, utf8: bool = False, checked: bool = False
) -> bytes:
    """Return the bytes that `smtplib.SMTP.send_message` passes to `sendmail`.

    Args:
        message: An email.message object. The object is not changed.
        utf8: Whether to write header fields in UTF-8 instead of encoded words (RFC 6532), for
            SMTPUTF8.
        checked: Whether to refuse a header field with a line break in its value, which smtplib
            sends.

    Returns:
        The message with CRLF line ends and without Bcc and Resent-Bcc.

    Raises:
        ValueError: `checked` is true, and a header field has a line break in its value.
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
    return (checked_bytes if checked else to_bytes)(shown, policy=policy)
