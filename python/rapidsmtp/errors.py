"""The exceptions: smtplib's own classes, so that every `except` written for them still catches.

Ours are below them.
"""

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


class RelayError(SMTPException):
    """The relay cannot be reached or will not have us: no message is to blame.

    Attributes:
        reply: What it said (code, text), or None where nothing was said.
    """

    def __init__(self, message: str, reply: tuple[int, bytes] | None = None) -> None:
        super().__init__(message, reply)
        self.reply = reply

    def __str__(self) -> str:
        return str(self.args[0])


def line_of(error: BaseException | None) -> str:
    """An exception's text in one line; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
