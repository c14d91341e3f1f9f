"""What became of a message, and of each of its recipients.

SMTP answers for the sender, for each recipient and for the message as a whole (RFC 5321 section
3.3), and a connection can be lost between any two of these. An `Outcome` keeps them apart, so
that nothing is sent twice and nothing is lost without a word.
"""

import smtplib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from rapidsmtp.message import Message


class Status(StrEnum):
    """The fate of a message or of a recipient."""

    ACCEPTED = "accepted"
    """The relay took responsibility for it (2yz)."""
    REFUSED = "refused"
    """Refused for good (5yz)."""
    DEFERRED = "deferred"
    """Refused for now (4yz), still so after the attempts."""
    UNKNOWN = "unknown"
    """The body went out and no valid reply came: it may have been delivered."""
    INVALID = "invalid"
    """It could not be built, encoded or offered to this relay."""
    NOT_ATTEMPTED = "not attempted"
    """The relay could not be reached or would not have us, or the sending was stopped before."""
    PARTIAL = "partial"
    """The recipients differ. A message with any UNKNOWN recipient is UNKNOWN instead."""


class RecipientResult(NamedTuple):
    """What the relay said about one recipient.

    Attributes:
        status: Its fate; never PARTIAL.
        code: The reply's three digits, None where there was no reply.
        enhanced_status: The reply's enhanced status code (RFC 3463) such as "5.1.1", or None.
        text: The reply's text, or the reason where there was no reply.
    """

    status: Status
    code: int | None
    enhanced_status: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one message.

    Attributes:
        tag: The message's tag.
        message: The message, or None where it could not be built.
        status: What became of it as a whole.
        recipients: One result for each recipient, by address.
        reply: The reply to the final dot (code, text), or None; the queue id is in its text.
        phase: Where it was decided: "build", "connect", "mail", "rcpt", "data", "body".
        attempts: How often it was tried.
        seconds: From the first attempt to the verdict.
        reason: Why it was not accepted, in one line; "" when it was.
    """

    tag: Any
    message: Message | None
    status: Status
    recipients: Mapping[str, RecipientResult] = field(default_factory=dict)
    reply: tuple[int, bytes] | None = None
    phase: str = "body"
    attempts: int = 0
    seconds: float = 0.0
    reason: str = ""

    def raise_for_status(self) -> None:
        """Raise what `smtplib.SMTP.sendmail` would have raised; nothing if it was accepted.

        Raises:
            smtplib.SMTPRecipientsRefused: Some or all recipients were refused.
            smtplib.SMTPSenderRefused: The sender was refused.
            smtplib.SMTPDataError: The message was refused.
            smtplib.SMTPServerDisconnected: No verdict came.
            smtplib.SMTPException: The message is invalid or was not attempted.
        """
        if self.status is Status.ACCEPTED:
            return
        if self.status is Status.UNKNOWN:
            raise smtplib.SMTPServerDisconnected(self.reason)
        refused = {
            address: (result.code, result.text.encode())
            for address, result in self.recipients.items()
            if result.status is not Status.ACCEPTED and result.code is not None
        }
        if not refused:
            raise smtplib.SMTPException(self.reason)
        if self.phase == "rcpt" or self.status is Status.PARTIAL:
            raise smtplib.SMTPRecipientsRefused(refused)
        code, text = next(iter(refused.values()))
        if self.phase == "mail":
            sender = self.message.sender if self.message else ""
            raise smtplib.SMTPSenderRefused(code, text, sender)
        raise smtplib.SMTPDataError(code, text)
