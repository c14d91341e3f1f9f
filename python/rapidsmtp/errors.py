"""The exceptions: smtplib's classes, so that existing `except` clauses work, and two new ones."""

import re
from smtplib import SMTPAuthenticationError as SMTPAuthenticationError
from smtplib import SMTPConnectError as SMTPConnectError
from smtplib import SMTPDataError as SMTPDataError
from smtplib import SMTPException as SMTPException
from smtplib import SMTPHeloError as SMTPHeloError
from smtplib import SMTPNotSupportedError as SMTPNotSupportedError
from smtplib import SMTPRecipientsRefused as SMTPRecipientsRefused
from smtplib import SMTPResponseException as SMTPResponseException
from smtplib import SMTPSenderRefused as SMTPSenderRefused
from smtplib import SMTPServerDisconnected as SMTPServerDisconnected

# The places where a spreadsheet finds a formula: the start of a cell, and the places that become
# the start of a cell if the spreadsheet splits lines at another delimiter.
_FORMULA = re.compile("(?:^|[,;]) *(?=[=+@\\-\uff1d\uff0b\uff20\uff0d])")
_LINE_ENDS = str.maketrans("\t\n\r", "   ")
# The characters of the Unicode category Zs (spaces) other than the space.
_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000") | set(map(chr, range(0x2000, 0x200B)))


class PeerError(Exception):
    """The server broke a rule of the protocol, or a proxy made no connection.

    The compiled and the pure-Python backend raise this exception, so its class is defined in
    neither of them.
    """


class RelayError(SMTPException):
    """The relay cannot be reached, rejected the session, or accepts no more mail for now.

    The failure concerns every message.

    Attributes:
        reply: The relay's reply as (code, text); None if no reply caused the exception.
        retry_after: The seconds after which the relay may accept mail again; None if the reply does
            not state them. For a reply such as "try again in 5 minutes", this is the stated time.
            If an hourly or daily limit of the account is used up, this is the length of the period
            (3600 or 86400), because the limit is renewed at its end at the latest. It is at most 31
            days.
        is_permanent: Whether no session will succeed until the settings or the relay are changed,
            for example because of a wrong password or an untrusted certificate.
    """

    def __init__(
        self,
        message: str,
        reply: tuple[int, bytes] | None = None,
        retry_after: float | None = None,
        *,
        is_permanent: bool = False,
    ) -> None:
        super().__init__(brief(message), reply, retry_after)
        self.reply = reply
        self.retry_after = retry_after
        self.is_permanent = is_permanent

    def __str__(self) -> str:
        return str(self.args[0])


RelayError.__module__ = "rapidsmtp"


MAX_REASON = 500
"""The maximum length of a reason, in characters. A relay's reply may have 64 KiB."""

_END = 150


def brief(reason: str) -> str:
    """Return a reason with at most `MAX_REASON` characters.

    An ellipsis replaces the middle. The start of a reason names the object, and the end the fact.
    """
    if len(reason) <= MAX_REASON:
        return reason
    return f"{reason[: MAX_REASON - _END - 1]}…{reason[-_END:]}"


def line_of(error: BaseException | None) -> str:
    """Return the text of an exception in one line, or the name of its class if it has no text."""
    return brief(" ".join(str(error).split())) or type(error).__name__


def printable(text: str) -> str:
    r"""Return a text that is safe for a terminal: each unprintable character is an escape.

    A terminal executes control characters. Bidirectional and other format characters change what a
    reader sees. They become escapes such as `\x1b`, as in `repr`. A space of any width becomes one
    space. The compiled backend has the same function in `src/printable.rs`.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_reply(text: bytes) -> str:
    """Return the text of a reply as one printable line.

    Each run of spaces, tabs and line ends becomes one space.
    """
    line = printable(text.decode("utf-8", "replace").translate(_LINE_ENDS))
    return " ".join(filter(None, line.split(" ")))


def spreadsheet_text(text: str) -> str:
    """Return a text of a remote party for a CSV cell, without formulas.

    A spreadsheet executes a cell that begins with `=`, `+`, `-` or `@` (OWASP: CSV injection). A
    single quote before this character makes it a text.
    """
    return _FORMULA.sub(r"\g<0>'", printable(text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character in _SPACES else repr(character)[1:-1]
