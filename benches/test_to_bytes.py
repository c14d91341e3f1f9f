"""`to_bytes` compared with `email.generator`, and `send_message` compared with smtplib's.

Flattening changes a multipart message, because it adds the boundaries. So each call needs a new
message. Each round builds its messages before the measurement.
"""

import email.generator
import io
import os
import smtplib
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest

import rapidsmtp

TEXT = "A line of the newsletter, as plain as can be.\n" * 180
HTML = "<p>A line of the newsletter, longer and with <b>tags</b> in it.</p>\n" * 440
ATTACHED = os.urandom(1_000_000)

FIELDS = {
    "From": "Example News <news@example.com>",
    "To": "Ada Lovelace <ada@example.org>",
    "Subject": "The autumn programme: twelve evenings, and how to get there",
    "Date": "Mon, 02 Nov 2026 09:30:00 +0000",
    "Message-ID": "<20261102093000.1.1234@example.com>",
    "List-Unsubscribe": "<https://example.com/u/0123456789abcdef>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
}


def newsletter():
    message = EmailMessage()
    for name, value in FIELDS.items():
        message[name] = value
    message.set_content(TEXT)
    message.add_alternative(HTML, subtype="html")
    return message


def mime_multipart():
    message = MIMEMultipart("alternative")
    for name, value in FIELDS.items():
        message[name] = value
    message.attach(MIMEText(TEXT[:6000]))
    message.attach(MIMEText(HTML[:28_000], "html"))
    return message


def attachment():
    message = newsletter()
    message.add_attachment(ATTACHED, "application", "pdf", filename="programme.pdf")
    return message


def generated(message):
    with io.BytesIO() as file:
        email.generator.BytesGenerator(file).flatten(message, linesep="\r\n")
        return file.getvalue()


MAKERS = {"newsletter-38-kB": newsletter, "MIMEMultipart-34-kB": mime_multipart}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_to_bytes(compare, backend, make):
    compare(generated, rapidsmtp.to_bytes, calls=20, make=make)


def test_to_bytes_attachment_of_1_MB(compare, backend):
    compare(generated, rapidsmtp.to_bytes, calls=2, make=attachment)


def test_send_message_38_kB(compare, backend, sink):
    with (
        smtplib.SMTP("127.0.0.1", sink) as smtplib_client,
        rapidsmtp.SMTP("127.0.0.1", sink) as rapidsmtp_client,
    ):
        smtplib_client.ehlo()
        rapidsmtp_client.ehlo()
        compare(
            smtplib_client.send_message, rapidsmtp_client.send_message, calls=20, make=newsletter
        )
