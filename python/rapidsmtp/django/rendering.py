"""Conversion of Django's messages to `Message` objects.

Django itself composes the message and validates the addresses. The functions that this module calls
in Django differ between Django's versions. This module converts the composed message to bytes with
`checked_bytes`, which is faster than the message's own `as_bytes` and gives the same bytes. It also
extracts the addresses of the envelope (RFC 5321 section 4.1.2).
"""

import functools
import re
from typing import Any

from django.conf import settings
from django.core.mail.backends import smtp

from rapidsmtp._compose.to_bytes import checked_bytes
from rapidsmtp._models.message import Message
from rapidsmtp.django import fields

_COMPOSES_BY_POLICY = hasattr(smtp.EmailBackend, "prep_address")
"""Whether Django is 6.0 or later: it composes with `email.policy` and has `prep_address`."""

_WRITERS = ("email.message", "django.core.mail.message")
"""The modules whose `as_bytes` gives the same bytes as `checked_bytes`."""

# Matches an unambiguous address, with or without a display name. A matching address needs no call
# of Django's parser. Such a call takes 30 to 60 microseconds. Domain labels above 63 bytes do not
# match, so they reach Django's parser, which refuses them.
_MAILBOX = r"([\w+-]+(?:\.[\w+-]+)*@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*)"
_PLAIN = re.compile(rf"{_MAILBOX}|(?:\w+(?: \w+)* )?<{_MAILBOX}>", re.ASCII)


def rendered(message: Any, backend: Any, tag: object) -> Message:
    """Compose a message and extract its envelope.

    Args:
        message: A `django.core.mail.EmailMessage`.
        backend: A Django SMTP backend, which validates addresses.
        tag: The tag of the message.

    Raises:
        ValueError: A header or an address is invalid, or contains a line break; Django's
            `BadHeaderError` is a `ValueError`.
        Exception: Any other exception from composing the message.
    """
    charset = message.encoding or settings.DEFAULT_CHARSET
    sender = address_of(message.from_email, backend, charset)
    recipients = [address_of(each, backend, charset) for each in message.recipients()]
    return Message(sender, recipients, _content(message), tag=tag)


def address_of(written: Any, backend: Any, charset: str) -> str:
    """Return the address of a mailbox, with its domain in A-labels (RFC 5890).

    Args:
        written: The mailbox, with or without a display name.
        backend: A Django SMTP backend.
        charset: The charset for encoding the display name. Only Django below 6.0 uses it.

    Raises:
        ValueError: `written` is not a mailbox, or its local part is not ASCII.
    """
    plain = _PLAIN.fullmatch(written) if type(written) is str else None
    if plain is not None:
        return plain[1] or plain[2]
    if _COMPOSES_BY_POLICY:
        return str(backend.prep_address(written))
    from django.core.mail.message import sanitize_address

    address: str = sanitize_address(written, charset)
    if address.endswith(">"):
        address = address[address.rindex("<") + 1 : -1]
    # Django below 6.0 converts a non-ASCII local part to an encoded word. The result is the address
    # of another mailbox, so it is refused here.
    if "=?" in address and "=?" not in str(written):
        raise ValueError(f"Invalid address {written!r}: local-part contains non-ASCII characters")
    return address


def _content(message: Any) -> bytes:
    if _COMPOSES_BY_POLICY:
        composed = message.message(policy=fields.policy())
        line_ends = {}
    else:
        composed = message.message()
        line_ends = {"linesep": "\r\n"}
    if type(composed).as_bytes.__module__ in _WRITERS:
        return checked_bytes(composed, policy=_policy(composed.policy))
    # The message's class has its own `as_bytes`, which may return a signed or a stored message.
    # So this method is called instead of `checked_bytes`.
    written: bytes = composed.as_bytes(**line_ends)
    return written


@functools.lru_cache(maxsize=8)
def _policy(policy: Any) -> Any:
    """Return a copy of the policy that does not change `From ` at a line start to `>From `."""
    return policy.clone(mangle_from_=False)
