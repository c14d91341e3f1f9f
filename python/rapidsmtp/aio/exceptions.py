"""The exceptions of the asyncio client, for `except` clauses of smtplib and of aiosmtplib.

aiosmtplib has exceptions of the same names as smtplib, with other attributes and other base
classes. So each class here is a subclass of smtplib's class, and has the attributes and the base
classes of aiosmtplib's class too. A failure of the network is also an instance of the class of the
original exception, such as `ConnectionRefusedError` or `ssl.SSLCertVerificationError`.
"""

import functools
import smtplib
from smtplib import SMTPException as SMTPException
from typing import Any

from rapidsmtp._models.reply import Reply
from rapidsmtp._smtp import results


class SMTPResponseException(smtplib.SMTPResponseException):
    """A reply was not the expected one.

    Attributes:
        smtp_code: The code of the reply.
        smtp_error: The text of the reply.
    """

    @property
    def code(self) -> int:
        """The code of the reply. This is aiosmtplib's name of `smtp_code`."""
        return self.smtp_code

    @property
    def message(self) -> str:
        """The text of the reply as a `str`."""
        text: Any = self.smtp_error
        return Reply(self.smtp_code, text).message


class SMTPServerDisconnected(smtplib.SMTPServerDisconnected, ConnectionError):
    """The connection was lost, or the client is not connected."""

    @property
    def message(self) -> str:
        """The text of the exception."""
        return str(self)


class SMTPTimeoutError(SMTPException, TimeoutError):
    """A time limit has passed."""

    @property
    def message(self) -> str:
        """The text of the exception."""
        return str(self)


class SMTPReadTimeoutError(SMTPTimeoutError, SMTPServerDisconnected):
    """No complete reply arrived in time. The connection is closed."""


class SMTPConnectError(SMTPException, ConnectionError):
    """Connecting failed.

    smtplib's class of this name is the base class of `SMTPConnectResponseError`.
    """

    @property
    def message(self) -> str:
        """The text of the exception."""
        return str(self)


class SMTPConnectTimeoutError(SMTPTimeoutError, SMTPConnectError):
    """Connecting took too long."""


class SMTPConnectResponseError(SMTPResponseException, smtplib.SMTPConnectError, SMTPConnectError):
    """The greeting of the server was a refusal."""


class SMTPNotSupported(smtplib.SMTPNotSupportedError):
    """The server does not support a command or a parameter, or it is disabled."""

    @property
    def message(self) -> str:
        """The text of the exception."""
        return str(self)


class SMTPHeloError(SMTPResponseException, smtplib.SMTPHeloError):
    """The server refused EHLO and HELO."""


class SMTPDataError(SMTPResponseException, smtplib.SMTPDataError):
    """The server refused the message."""


class SMTPAuthenticationError(SMTPResponseException, smtplib.SMTPAuthenticationError):
    """The server refused the login."""


class SMTPSenderRefused(SMTPResponseException, smtplib.SMTPSenderRefused):
    """The server refused the sender."""


class SMTPRecipientRefused(SMTPResponseException):
    """The server refused a recipient.

    The client does not raise this exception: `rcpt` returns the reply, and `sendmail` raises
    `SMTPRecipientsRefused`. The class exists for the `except` clauses of existing programs.

    Attributes:
        recipient: The refused recipient.
    """

    def __init__(self, code: int, message: str | bytes, recipient: str) -> None:
        super().__init__(code, message)
        self.recipient = recipient

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.recipient)


class RefusedRecipient(str):
    """An address with the reply that refused it.

    Attributes:
        code: The code of the reply.
        message: The text of the reply.
    """

    code: int
    message: str

    @property
    def recipient(self) -> str:
        """The address."""
        return str(self)


class SMTPRecipientsRefused(smtplib.SMTPRecipientsRefused):
    """The server refused all recipients.

    Attributes:
        recipients: The replies by recipient, as in smtplib. Each key is a `RefusedRecipient`, so a
            loop over the dict reads the attributes `recipient`, `code` and `message`, as a loop
            over aiosmtplib's list does.
    """


# The class of aiosmtplib's name for each of smtplib's classes.
_CLASSES: dict[type[BaseException], type[BaseException]] = {
    smtplib.SMTPResponseException: SMTPResponseException,
    smtplib.SMTPServerDisconnected: SMTPServerDisconnected,
    smtplib.SMTPConnectError: SMTPConnectResponseError,
    smtplib.SMTPNotSupportedError: SMTPNotSupported,
    smtplib.SMTPHeloError: SMTPHeloError,
    smtplib.SMTPDataError: SMTPDataError,
    smtplib.SMTPAuthenticationError: SMTPAuthenticationError,
    smtplib.SMTPSenderRefused: SMTPSenderRefused,
    smtplib.SMTPRecipientsRefused: SMTPRecipientsRefused,
}


def convert(error: BaseException) -> None:
    """Change the class of one of smtplib's exceptions to the class of this module.

    The blocking client shares the code that raises these exceptions. A new exception in place of
    the raised one would add a second traceback to each log.
    """
    kind = _CLASSES.get(type(error))
    if kind is SMTPServerDisconnected and error.args == (results.TIMED_OUT,):
        kind = SMTPReadTimeoutError
    if kind is not None:
        error.__class__ = kind
    elif type(error) is SMTPException:
        error.message = str(error)  # type: ignore[attr-defined]
    if isinstance(error, SMTPRecipientsRefused):
        refused: Any = {_refused(*each): Reply(*each[1]) for each in error.recipients.items()}
        error.recipients, error.args = refused, (refused,)


def _refused(address: str, reply: tuple[int, bytes]) -> RefusedRecipient:
    refused = RefusedRecipient(address)
    refused.code, refused.message = reply[0], Reply(*reply).message
    return refused


def disconnected(text: str) -> SMTPException:
    """Return the exception for a connection that was lost while no message was sent.

    Args:
        text: The error text.
    """
    error = results.disconnected(text)
    convert(error)
    return error


def network_error(error: OSError, kind: type[SMTPException], *text: str) -> SMTPException:
    """Return an exception of a given class that is also an instance of the class of `error`.

    Args:
        error: The exception of the operating system, of asyncio or of the TLS library.
        kind: The class to return.
        *text: The error text; the arguments of `error` if there is none.
    """
    converted = _restored(kind, type(error), text or error.args)
    converted.__dict__.update(error.__dict__)
    return converted


@functools.cache
def _joined(kind: Any, original: Any) -> Any:
    if issubclass(kind, original):
        return kind
    namespace = {"__reduce__": _reduced, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind, original), namespace)


def _reduced(error: SMTPException) -> tuple[Any, ...]:
    """Return the state of a joined exception for `pickle`, which cannot find its class by name."""
    kind, original = type(error).__bases__
    return _restored, (kind, original, error.args), error.__dict__


def _restored(kind: Any, original: Any, args: tuple[Any, ...]) -> SMTPException:
    joined: type[SMTPException] = _joined(kind, original)
    return joined(*args)


# All classes of this module are public names of `rapidsmtp.aio`.
for _class in list(vars().values()):
    if isinstance(_class, type) and _class.__module__ == __name__:
        _class.__module__ = "rapidsmtp.aio"
