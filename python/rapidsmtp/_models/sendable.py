"""The type of the elements that a sender accepts, for type checkers."""

import email.message
from collections.abc import Iterable
from typing import Any, TypeAlias

from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome

_Email: TypeAlias = "email.message.Message[Any, Any]"
_Content: TypeAlias = "bytes | bytearray | memoryview | str | _Email"

Sendable: TypeAlias = """(
    Message
    | Outcome
    | _Email
    | tuple[str, Iterable[str], _Content]
    | tuple[str, Iterable[str], _Content, Iterable[str]]
    | tuple[str, Iterable[str], _Content, Iterable[str], Iterable[str]]
)"""
"""A `Message`, an email.message object, a tuple with the arguments of `sendmail`, or an element
that `Template.merge` yields."""
