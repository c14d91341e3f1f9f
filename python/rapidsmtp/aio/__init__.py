"""rapidsmtp for asyncio: smtplib's classes as coroutines, and one call for one mail.

async with aio.SMTP("mail.example.com", 587, username="me", password="secret") as client:
    await client.send_message(message)

await aio.send(message, hostname="mail.example.com", port=587, username="me", password="secret")
"""

from rapidsmtp.aio.client import LMTP, SMTP, SMTP_SSL, send
from rapidsmtp.aio.options import Keywords, Options

__all__ = ["LMTP", "SMTP", "SMTP_SSL", "Keywords", "Options", "send"]
