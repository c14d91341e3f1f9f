"""Helpers for the envelope and the result of a message, with smtplib's types and exceptions.

This module does no I/O. So both the blocking client and the asyncio client can use it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rapidsmtp import _backend
from rapidsmtp._models.reply import Reply
from rapidsmtp.errors import (
    SMTPDataError,
    SMTPException,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    printable_reply,
)

if TYPE_CHECKING:
    from rapidsmtp._smtp.face import Face

LOWER_CASE = sys.version_info >= (3, 13)
"""Whether smtplib in the running version of Python writes `from:` and `to:` in lower case."""

MAX_LINE = 8192
"""The maximum length of a line of a reply, in bytes. The value is smtplib's `_MAXLINE`."""

LARGE = 1 << 20
"""The minimum size, in bytes, of a message that is dot-stuffed piece by piece.

A dot-stuffed copy of the whole message would double the memory for a large attachment.
"""

CLOSED = "Connection unexpectedly closed"
"""smtplib's error text for a stream that ends before the expected reply."""

TIMED_OUT = f"{CLOSED}: timed out"
"""smtplib's error text for a reply that does not arrive in time."""

NOT_WRITTEN = "Server not connected"
"""smtplib's error text for a write that failed."""

NOT_CONNECTED = "please run connect() first"
"""smtplib's error text for a command on a closed connection."""

SHUTDOWN = b"421"
"""The code of the reply that a server may send at any time before it closes the connection (RFC
5321 section 3.8)."""

REFUSALS = (b"4", b"5")
"""The first digits of the codes of refusals (RFC 5321 section 4.2.1)."""


class Refused(dict[str, tuple[int, bytes]]):
    """The result of `sendmail`: the refused recipients by address, each with its `Reply`.

    This dict is equal to the dict that smtplib returns, but has additional attributes.

    Attributes:
        accepted: The recipients for which the server accepted the message, as the caller wrote
            them.
    """

    __slots__ = ("_reply", "accepted")

    def __init__(
        self,
        refused: Mapping[str, tuple[int, bytes]] | tuple[()],
        reply: tuple[int, bytes],
        accepted: Sequence[str],
    ) -> None:
        if refused:
            self.update((address, Reply(*refusal)) for address, refusal in refused.items())
        self._reply = reply
        self.accepted: Sequence[str] = accepted

    @property
    def reply(self) -> Reply:
        """The reply to the message. Its text usually contains the server's queue id."""
        return Reply(*self._reply)

    @property
    def enhanced_status(self) -> str | None:
        """The enhanced status code of `reply` (RFC 3463)."""
        return self.reply.enhanced_status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self._reply, self.accepted)


Refused.__module__ = "rapidsmtp"


def wants_utf8(mail_options: Sequence[str], client: "Face") -> bool:
    """Return whether the parameters of MAIL contain SMTPUTF8 (RFC 6531).

    Raises:
        SMTPNotSupportedError: The parameters contain SMTPUTF8, and the server does not support it.
    """
    if not any(option.lower() == "smtputf8" for option in mail_options):
        return False
    if not client.has_extn("smtputf8"):
        raise SMTPNotSupportedError("SMTPUTF8 not supported by server")
    return True


def is_large(message: object) -> bool:
    """Return whether a message is so large that it must be written with `stuffed_parts`."""
    return type(message) is bytes and len(message) >= LARGE


def stuffed_parts(message: bytes) -> Iterator[tuple[bytes, int]]:
    """Dot-stuff a message and convert its line ends to CRLF, piece by piece.

    Args:
        message: The message as the caller passed it.

    Yields:
        The next piece to write, and the size of this piece without dot-stuffing, in bytes. The last
        piece includes the terminator. The sum of the sizes is the value for SIZE (RFC 1870).
    """
    view = memoryview(message)
    start = 0
    while start < len(message):
        # Each piece ends after a line end. So no CRLF is split, and each piece starts at the start
        # of a line. Dot-stuffing of single pieces is correct only under these two conditions.
        end = message.find(b"\n", start + LARGE) + 1 or len(message)
        stuffed, size = _backend.stuff(view[start:end])
        yield (stuffed if end == len(message) else stuffed[:-3]), size
        start = end


def mail_parameters(client: "Face", size: int | None, mail_options: Sequence[str]) -> list[str]:
    """Return the parameters of MAIL: SIZE if the server supports it, then the caller's parameters.

    Args:
        client: The client.
        size: The size of the message, in bytes (RFC 1870); None if the server does not support
            SIZE.
        mail_options: The caller's parameters. They are ignored if the server does not support
            ESMTP.
    """
    if not client.does_esmtp:
        return []
    if size is not None:
        return [f"size={size}", *mail_options]
    return list(mail_options)


def is_positive(reply: tuple[int, bytes]) -> bool:
    """Return whether a reply to EHLO or HELO is a positive completion reply, 2yz."""
    return 200 <= reply[0] <= 299


def sendmail_result(
    transaction: "_backend.Transaction", sender: str, recipients: Sequence[str], lost: str
) -> Refused:
    """Return the result of a transaction or raise it as an exception, as smtplib does.

    Args:
        transaction: A finished transaction.
        sender: The sender as the caller wrote it.
        recipients: The recipients as the caller wrote them.
        lost: The error text to use if the connection was lost.

    Raises:
        SMTPSenderRefused: The server refused MAIL.
        SMTPRecipientsRefused: The server refused all recipients.
        SMTPDataError: The server refused the message.
        SMTPServerDisconnected: The connection was lost. The exception has the attributes that
            `attach_progress` sets.
        SMTPResponseException: A reply was invalid. The exception has the attributes that
            `attach_progress` sets.
    """
    end, reply, refusals = transaction.end, transaction.reply, transaction.refused
    if end == "accepted" and reply is not None and not refusals:
        return Refused((), reply, recipients)
    refused = {recipients[index]: refusal for index, refusal in refusals}
    if end == "accepted" and reply is not None:
        return Refused(refused, reply, [recipients[index] for index in transaction.accepted])
    if end == "sender refused" and reply is not None:
        raise SMTPSenderRefused(*reply, sender)
    if end == "recipients refused":
        raise SMTPRecipientsRefused(refused)
    if end == "data refused" and reply is not None:
        raise data_error(reply, refused, transaction.body_sent)
    if end == "fault":
        error: SMTPException = SMTPResponseException(500, transaction.fault or "")
    else:
        error = SMTPServerDisconnected(lost)
    accepted = [recipients[index] for index in transaction.accepted]
    attach_progress(error, transaction.body_sent, accepted, refused)
    raise error


def data_error(
    reply: tuple[int, Any], refused: Mapping[str, tuple[int, bytes]], body_sent: bool
) -> SMTPDataError:
    """Return the exception for a refused message.

    Args:
        reply: The reply to DATA or to the message.
        refused: The refused recipients by address, each with its reply. They become the attribute
            `recipients` of the exception.
        body_sent: Whether the server may have received the whole message. It becomes an attribute
            of the exception.
    """
    error: Any = SMTPDataError(*reply)  # smtplib's class does not declare these attributes
    error.recipients = dict(refused)
    error.body_sent = body_sent
    return error  # type: ignore[no-any-return]


def disconnected(text: str) -> SMTPServerDisconnected:
    """Return the exception for a connection that was lost while no message was sent.

    Args:
        text: The error text.
    """
    error = SMTPServerDisconnected(text)
    mark_not_started(error)
    return error


def mark_not_started(error: OSError) -> None:
    """Record in an exception that no message was sent."""
    attach_progress(error, False, (), {})


def unexpected_reply(received: bytes) -> str:
    """Return the error text for a reply that arrived before its command was sent.

    Args:
        received: The bytes from the beginning of this reply. The text shows their first line.
    """
    line = printable_reply(received.split(b"\n", 1)[0])
    return f"the server sent an unexpected reply: {line[:200]}"


def attach_progress(
    error: OSError,
    body_sent: bool,
    accepted: Sequence[str],
    refused: Mapping[str, tuple[int, bytes]],
) -> None:
    """Record the progress of a message in the exception for a lost or unusable connection.

    Args:
        error: The exception. The exception gets the attributes `body_sent`, `accepted` and
            `recipients`.
        body_sent: Whether the whole message was written to the network. If true, the server may
            have accepted the message for the recipients without a final reply.
        accepted: The recipients for which the server accepted the message. Only LMTP has one final
            reply for each recipient.
        refused: The refused recipients by address, each with its reply.
    """
    annotated: Any = error  # smtplib's class does not declare these attributes
    annotated.body_sent = body_sent
    annotated.accepted = list(accepted)
    annotated.recipients = dict(refused)


def shutdown_of(error: SMTPException) -> bytes | None:
    """Return the text of the 421 that an exception reports; None if it reports none."""
    if isinstance(error, SMTPRecipientsRefused):
        replies = [reply for reply in error.recipients.values() if reply[0] == 421]
        return replies[0][1] if replies else None
    if isinstance(error, (SMTPSenderRefused, SMTPDataError)) and error.smtp_code == 421:
        text = error.smtp_error
        return text if isinstance(text, bytes) else str(text).encode()
    return None
