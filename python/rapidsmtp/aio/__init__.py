"""rapidsmtp for asyncio: smtplib's classes with coroutine methods, and `send` and `Sender`.

async with aio.SMTP("mail.example.com", 587, username="me", password="secret") as client:
    await client.send_message(message)

await aio.send(message, hostname="mail.example.com", port=587, username="me", password="secret")

    async with aio.Sender("smtp://me:secret@mail.example.com:587") as sender:
        async for outcome in sender.send(messages):
            print(outcome.tag, outcome.status)
"""

from rapidsmtp.aio.client import LMTP, SMTP, SMTP_SSL, send
from rapidsmtp.aio.connection_options import ConnectionKeywords, ConnectionOptions
from rapidsmtp.aio.sender import Outcomes, Sender, SenderSettings

__all__ = [
    "LMTP",
    "SMTP",
    "SMTP_SSL",
    "ConnectionKeywords",
    "ConnectionOptions",
    "Outcomes",
    "Sender",
    "SenderSettings",
    "send",
]

# `__module__` is set after the class bodies. The last comment of `_smtp.client` gives the reason.
for _class in (
    LMTP,
    SMTP,
    SMTP_SSL,
    ConnectionKeywords,
    ConnectionOptions,
    Outcomes,
    Sender,
    SenderSettings,
):
    _class.__module__ = __name__
