"""rapidsmtp for asyncio: smtplib's classes as coroutines, one call for one mail, and `Sender`.

async with aio.SMTP("mail.example.com", 587, username="me", password="secret") as client:
    await client.send_message(message)

await aio.send(message, hostname="mail.example.com", port=587, username="me", password="secret")

    async with aio.Sender("smtp://me:secret@mail.example.com:587") as sender:
        async for outcome in sender.send(messages):
            print(outcome.tag, outcome.status)
"""

from rapidsmtp.aio.client import LMTP, SMTP, SMTP_SSL, send
from rapidsmtp.aio.options import Keywords, Options
from rapidsmtp.aio.sender import Outcomes, Sender, Settings

__all__ = [
    "LMTP",
    "SMTP",
    "SMTP_SSL",
    "Keywords",
    "Options",
    "Outcomes",
    "Sender",
    "Settings",
    "send",
]
