"""What the tests of the Django backend share: messages."""

from django.core.mail import EmailMessage

FIXED = {"Date": "Mon, 02 Nov 2026 09:30:00 +0000", "Message-ID": "<1.2@example.com>"}


def letter(subject="Hello", to=("to@example.org",), **more):
    """A message of which two copies differ in nothing but boundaries."""
    headers = {**FIXED, **more.pop("headers", {})}
    body = more.pop("body", "The body.\n")
    return EmailMessage(subject, body, more.pop("from_email", "from@example.com"), to,
                        headers=headers, **more)  # fmt: skip
