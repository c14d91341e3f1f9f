"""The innermost functions, compared with smtplib and plain Python on the same bytes."""

import io
import re
import smtplib

import pytest

import rapidsmtp
from rapidsmtp import _backend

LINE = b"A line of the newsletter, as long as the lines of newsletters are: seventy-six.\r\n"
MESSAGES = {"38-kB": LINE * 470, "1-MB": LINE * 12500}
_LINE_ENDS = re.compile(rb"\r\n|\n|\r(?!\n)")


def by_expressions(message):
    """Stuff a message as smtplib does: by a regular expression for line ends and one for dots."""
    return smtplib._quote_periods(_LINE_ENDS.sub(b"\r\n", message)) + b".\r\n"


def by_replace(message):
    """Stuff a message by the shortest Python code.

    This code is correct only if all line ends of the message are CRLF.
    """
    message = message.replace(b"\n.", b"\n..")
    return (b"." + message if message[:1] == b"." else message) + b".\r\n"


def by_copy(message):
    return bytearray(message)


@pytest.mark.parametrize("size", MESSAGES)
@pytest.mark.parametrize(
    "competitor",
    [by_expressions, smtplib._quote_periods, by_replace, by_copy],
    ids=lambda f: f.__name__,
)
def test_stuffing_against(compare, backend, competitor, size):
    message = MESSAGES[size]
    calls = 20 if size == "38-kB" else 2
    compare(lambda: competitor(message), lambda: _backend.stuff(message), calls=calls)


REPLIES = (
    b"250-mail.example.com\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250 DSN\r\n"
    b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
    b"250 2.0.0 Ok: queued as 4bXyZ12345\r\n"
)
COUNT = 5


def replies_of(client):
    def read():
        client.file = io.BytesIO(REPLIES)
        for _ in range(COUNT):
            client.getreply()

    return read


def test_getreply(compare, backend):
    compare(replies_of(smtplib.SMTP()), replies_of(rapidsmtp.SMTP()), calls=200)


def test_reply_reader(compare, backend):
    def read():
        reader = _backend.ReplyReader()
        reader.receive_data(REPLIES, COUNT)
        reader.events()

    compare(replies_of(smtplib.SMTP()), read, calls=200)
