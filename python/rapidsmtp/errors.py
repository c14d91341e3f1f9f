"""The exceptions: smtplib's classes, so that existing `except` clauses work, and two new ones."""

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


class PeerError(Exception):
    """The server broke a rule of the protocol, so sending or the login cannot continue.

    The compiled and the pure-Python backend raise this exception, so its class is defined in
    neither of them.
    """


class RelayError(SMTPException):
    """The relay cannot be reached or rejected the session. The failure concerns every message.

    Attributes:
        reply: The relay's reply as (code, text); None if no reply caused the exception.
    """

    def __init__(self, message: str, reply: tuple[int, bytes] | None = None) -> None:
        super().__init__(message, reply)
        self.reply = reply

    def __str__(self) -> str:
        return str(self.args[0])


RelayError.__module__ = "rapidsmtp"


def line_of(error: BaseException | None) -> str:
    """Return the text of an exception in one line, or the name of its class if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
