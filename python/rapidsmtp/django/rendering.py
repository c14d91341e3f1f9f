"""Django's messages, made into what a sender takes.

Django composes the message and judges the addresses, in each version its own way; here is only
what comes after: the bytes, written by `to_bytes`, which are those of `as_bytes`, and the bare
addresses of the envelope (RFC 5321 section 4.1.2).
"""

import functools
import re
from typing import Any

from django.conf import settings
from django.core.mail.backends import smtp

from rapidsmtp.django import fields
from rapidsmtp.flatten import to_bytes
from rapidsmtp.message import Message

_COMPOSES_BY_POLICY = hasattr(smtp.EmailBackend, "prep_address")
"""From 6.0 on Django composes with email's modern interface, and its backend judges addresses."""

_WRITERS = ("email.message", "django.core.mail.message")
"""Where `as_bytes` is defined, if it does what `to_bytes` does."""

# An address of which there can be no two readings, with a name or without. Django's parser takes
# 30 to 60 microseconds for it; labels above 63 octets are left for it to refuse.
_MAILBOX = r"([\w+-]+(?:\.[\w+-]+)*@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*)"
_PLAIN = re.compile(rf"{_MAILBOX}|(?:\w+(?: \w+)* )?<{_MAILBOX}>", re.ASCII)


def rendered(message: Any, backend: Any, tag: object) -> Message:
    """Compose a message, and read its envelope.

    Args:
        message: A `django.core.mail.EmailMessage`.
        backend: A Django SMTP backend, which judges addresses.
        tag: For the outcome.

    Raises:
        ValueError: A header or an address is wrong, or would smuggle a line in; Django's
            `BadHeaderError` is one.
        Exception: What else composing the message raises.
    """
    charset = message.encoding or settings.DEFAULT_CHARSET
    sender = address_of(message.from_email, backend, charset)
    recipients = [address_of(each, backend, charset) for each in message.recipients()]
    return Message(sender, recipients, _content(message), tag=tag)


def address_of(written: Any, backend: Any, charset: str) -> str:
    """The bare address of a mailbox; its domain in A-labels (RFC 5890).

    Args:
        written: The mailbox, with a display name or without.
        backend: A Django SMTP backend.
        charset: What older Djangos would write a display name in.

    Raises:
        ValueError: It is no mailbox, or its local part is not ASCII.
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
    # Django below 6.0 makes an encoded word of such a local part: somebody else's mailbox, if any.
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
        return to_bytes(composed, policy=_policy(composed.policy))
    # A class of the project's own, which may write a signed message, or one that was stored.
    written: bytes = composed.as_bytes(**line_ends)
    return written


@functools.lru_cache(maxsize=8)
def _policy(policy: Any) -> Any:
    """A policy, but that `From ` at the start of a line stays as it is."""
    return policy.clone(mangle_from_=False)
