"""Messages for the tests of the Django backend."""

from django.core.mail import EmailMessage

FIXED = {"Date": "Mon, 02 Nov 2026 09:30:00 +0000", "Message-ID": "<1.2@example.com>"}


def make_message(subject="Hello", to=("to@example.org",), **more):
    """Return a message.

    Two calls with equal arguments give equal messages, except for the MIME boundaries.
    """
    headers = {**FIXED, **more.pop("headers", {})}
    body = more.pop("body", "The body.\n")
    return EmailMessage(subject, body, more.pop("from_email", "from@example.com"), to,
                        headers=headers, **more)  # fmt: skip
