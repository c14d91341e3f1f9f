"""rapidsmtp for asyncio: smtplib's classes with coroutine methods, and `send` and `Sender`.

async with aio.SMTP("mail.example.com", 587, username="me", password="secret") as client:
    await client.send_message(message)

await aio.send(message, hostname="mail.example.com", port=587, username="me", password="secret")

    async with aio.Sender("smtp://me:secret@mail.example.com:587") as sender:
        async for outcome in sender.send(messages):
            print(outcome.tag, outcome.status)

Programs that were written for aiosmtplib find its names here: `import rapidsmtp.aio as aiosmtplib`.
The modules `api`, `errors`, `response`, `smtp`, `status` and `typing` have its names of modules.
These modules contain no definitions of classes, because Python loads them a second time under the
name `aiosmtplib` if the program sets `sys.modules["aiosmtplib"] = rapidsmtp.aio`.
"""

from rapidsmtp.aio import api as api
from rapidsmtp.aio import errors as errors
from rapidsmtp.aio import response as response
from rapidsmtp.aio import smtp as smtp
from rapidsmtp.aio import status as status
from rapidsmtp.aio import typing as typing
from rapidsmtp.aio.aiosmtplib_names import SMTPResponse, SMTPStatus, SMTPTokenGenerator
from rapidsmtp.aio.api import send
from rapidsmtp.aio.client import DEFAULT_TIMEOUT, LMTP, SMTP, SMTP_SSL
from rapidsmtp.aio.connection_options import ConnectionKeywords, ConnectionOptions, TLSKeywords
from rapidsmtp.aio.exceptions import (
    RefusedRecipient,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPConnectResponseError,
    SMTPConnectTimeoutError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPReadTimeoutError,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from rapidsmtp.aio.sender import Outcomes, Sender, SenderSettings

__all__ = [
    "DEFAULT_TIMEOUT",
    "LMTP",
    "SMTP",
    "SMTP_SSL",
    "ConnectionKeywords",
    "ConnectionOptions",
    "Outcomes",
    "RefusedRecipient",
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPConnectResponseError",
    "SMTPConnectTimeoutError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupported",
    "SMTPReadTimeoutError",
    "SMTPRecipientRefused",
    "SMTPRecipientsRefused",
    "SMTPResponse",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPStatus",
    "SMTPTimeoutError",
    "SMTPTokenGenerator",
    "Sender",
    "SenderSettings",
    "TLSKeywords",
    "send",
]

# `__module__` is set after the class bodies. The last comment of `_smtp.client` gives the reason.
for _class in (
    LMTP,
    SMTP,
    SMTP_SSL,
    ConnectionKeywords,
    ConnectionOptions,
    TLSKeywords,
    Outcomes,
    Sender,
    SenderSettings,
    SMTPStatus,
):
    _class.__module__ = __name__
