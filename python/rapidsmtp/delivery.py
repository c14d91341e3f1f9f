"""What stands above the bytes of a mail: envelope and verdict, as smtplib takes and tells them.

Nothing here reads or writes, so that every face of rapidsmtp can share it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from smtplib import quoteaddr
from typing import Any, NamedTuple

from rapidsmtp import _core
from rapidsmtp.errors import (
    SMTPDataError,
    SMTPException,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)

LOWER_CASE = sys.version_info >= (3, 13)
"""Whether this Python's smtplib writes `from:` and `to:` in lower case."""

MAX_LINE = 8192
"""Octets in a line of a reply: smtplib's `_MAXLINE`."""

LARGE = 1 << 20
"""Octets from which on a message is made ready for the wire piece by piece.

A copy of the whole would double what a large attachment takes of memory.
"""

CLOSED = "Connection unexpectedly closed"
"""What smtplib says to the end of the stream in the place of a reply."""

NOT_CONNECTED = "please run connect() first"
"""What smtplib says to a command on a connection that is closed."""


class Reply(NamedTuple):
    """A server's reply.

    Attributes:
        code: three digits; -1 where they could not be read.
        text: the lines without their codes, joined by LF.
    """

    code: int
    text: bytes

    @property
    def enhanced_status(self) -> str | None:
        """The enhanced status code at the head of the text, such as `"2.1.5"` (RFC 3463)."""
        return _core.enhanced_status(self.code, self.text)


class Refused(dict[str, tuple[int, bytes]]):
    """The refused recipients, as `sendmail` returns them: replies by address.

    It equals smtplib's dict, and knows more.

    Attributes:
        accepted: the recipients for which the server has the mail, as the caller gave them.
    """

    __slots__ = ("_reply", "accepted")

    def __init__(
        self,
        refused: Mapping[str, tuple[int, bytes]] | tuple[()],
        reply: tuple[int, bytes],
        accepted: Sequence[str],
    ) -> None:
        if refused:
            self.update(refused)
        self._reply = reply
        self.accepted: Sequence[str] = accepted

    @property
    def reply(self) -> Reply:
        """The reply to the message itself; servers put their queue id in its text."""
        return Reply(*self._reply)

    @property
    def enhanced_status(self) -> str | None:
        """The enhanced status code of `reply` (RFC 3463)."""
        return self.reply.enhanced_status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self._reply, self.accepted)


def path(address: str) -> str:
    """An address as it stands in MAIL and RCPT, in angle brackets.

    Args:
        address: whatever `quoteaddr` of the running Python takes.

    Raises:
        ValueError: it holds what would be more than an address.
    """
    plain = _core.plain_path(address)
    if plain is not None:
        return plain
    if isinstance(address, str):
        _core.check_command(address)  # quoteaddr would drop line ends without a word
    quoted = quoteaddr(address)
    _core.check_command(quoted)
    _core.check_path(quoted)
    return quoted


def wants_utf8(mail_options: Sequence[str], client: Any) -> bool:
    """Whether the options ask for SMTPUTF8 (RFC 6531).

    Args:
        mail_options: the parameters of MAIL.
        client: an object with the methods of `smtplib.SMTP`.

    Raises:
        SMTPNotSupportedError: they do and the server does not offer it.
    """
    if not any(option.lower() == "smtputf8" for option in mail_options):
        return False
    if not client.has_extn("smtputf8"):
        raise SMTPNotSupportedError("SMTPUTF8 not supported by server")
    return True


def is_large(message: object) -> bool:
    """Whether a message is to be written by `stuffed_pieces`."""
    return type(message) is bytes and len(message) >= LARGE


def stuffed_pieces(message: bytes) -> Iterator[tuple[bytes | memoryview, int]]:
    """Make a message ready for the wire, some lines at a time.

    Args:
        message: as the caller gave it.

    Yields:
        What is written next, end of data included in the last, and the octets of its repaired
        lines: what SIZE declares is the sum of them.
    """
    view = memoryview(message)
    begin = 0
    while begin < len(message):
        # Behind a line end no fault can reach into the next piece, and a dot begins a line.
        end = message.find(b"\n", begin + LARGE) + 1 or len(message)
        stuffed, size = _core.stuff(view[begin:end])
        yield (stuffed if end == len(message) else memoryview(stuffed)[:-3]), size
        begin = end


def mail_parameters(client: Any, size: int, mail_options: Sequence[str]) -> list[str]:
    """The parameters of MAIL: SIZE where the server offers it, then the caller's own.

    Args:
        client: an object with the state of `smtplib.SMTP`.
        size: octets of the message (RFC 1870).
        mail_options: the caller's parameters; dropped where the server speaks no ESMTP.
    """
    if not client.does_esmtp:
        return []
    if client.has_extn("size"):
        return [f"size={size}", *mail_options]
    return list(mail_options)


def accepts(reply: tuple[int, bytes]) -> bool:
    """Whether a reply is a positive completion, 2yz (RFC 5321 4.2.1)."""
    return 200 <= reply[0] <= 299


def is_ours(client: Any, method: str) -> bool:
    """Whether nobody has put another method of that name on the client or its class."""
    function = getattr(getattr(client, method), "__func__", None)
    return str(getattr(function, "__module__", None)).startswith("rapidsmtp.")


def outcome_of(
    transaction: "_core.Transaction", sender: str, recipients: Sequence[str], lost: str
) -> Refused:
    """Tell a verdict as `smtplib.SMTP.sendmail` does.

    Args:
        transaction: one that is over.
        sender: the sender as the caller gave it.
        recipients: the recipients as the caller gave them.
        lost: how the connection was lost, if it was.

    Raises:
        SMTPSenderRefused, SMTPRecipientsRefused, SMTPDataError, SMTPServerDisconnected,
        SMTPResponseException: what smtplib raises for it. The last two have what `tell_fates`
            writes on them.
    """
    verdict, reply, refusals = transaction.verdict, transaction.reply, transaction.refused
    if verdict == "accepted" and reply is not None and not refusals:
        return Refused((), reply, recipients)
    refused = {recipients[index]: refusal for index, refusal in refusals}
    if verdict == "accepted" and reply is not None:
        return Refused(refused, reply, [recipients[index] for index in transaction.accepted])
    if verdict == "sender refused" and reply is not None:
        raise SMTPSenderRefused(*reply, sender)
    if verdict == "recipients refused":
        raise SMTPRecipientsRefused(refused)
    if verdict == "data refused" and reply is not None:
        raise data_refused(reply, refused)
    if verdict == "fault":
        error: SMTPException = SMTPResponseException(500, transaction.fault or "")
    else:
        error = SMTPServerDisconnected(lost)
    accepted = [recipients[index] for index in transaction.accepted]
    tell_fates(error, transaction.body_sent, accepted, refused)
    raise error


def data_refused(reply: tuple[int, Any], refused: Mapping[str, tuple[int, bytes]]) -> SMTPDataError:
    """The exception for a body that nobody got, with the refusals of the single recipients."""
    error = SMTPDataError(*reply)
    error.recipients = dict(refused)  # type: ignore[attr-defined]  # ours, beside smtplib's
    return error


def not_begun(error: SMTPServerDisconnected) -> SMTPServerDisconnected:
    """Write on the exception of a lost connection that the mail was not begun.

    Returns:
        The exception.
    """
    tell_fates(error, False, (), {})
    return error


def tell_fates(
    error: SMTPException,
    body_sent: bool,
    accepted: Sequence[str],
    refused: Mapping[str, tuple[int, bytes]],
) -> None:
    """Write on the exception of a connection that is lost or of no use what is known of the mail.

    Args:
        error: the exception.
        body_sent: whether the whole body was handed to the network: if so, those of whom
            nothing is known may have the mail.
        accepted: recipients for which the server said that it has the mail (LMTP).
        refused: recipients that it refused, with its replies.
    """
    told: Any = error  # smtplib's class has no such attributes
    told.body_sent = body_sent
    told.accepted = list(accepted)
    told.recipients = dict(refused)
