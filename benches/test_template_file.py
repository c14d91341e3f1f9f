"""`Template.from_eml` and `Template.check`, compared with `email.message_from_bytes`.

The message file has 1 MB: an attachment, or an HTML text. The package `email` only parses it.
`Template.from_eml` also decodes the texts, searches all parts for fields, compiles the template and
encodes the constant parts. The check reads a template and its first message: the newsletter of the
examples, and the message files of 1 MB.
"""

import base64
import email
from pathlib import Path

import pytest

from rapidsmtp import Template

HEAD = b"From: a@example.com\r\nTo: {{ email }}\r\nSubject: {{ name }}\r\nMIME-Version: 1.0\r\n"
LINE = b"<p>A line of the newsletter in HTML, as long as they are: seventy-six.</p>\r\n"
FILE = base64.encodebytes(bytes(range(256)) * 2_900).replace(b"\n", b"\r\n")
MAILS = {
    "attachment": HEAD
    + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
    + b"<p>{{ name }}</p>\r\n--b\r\nContent-Type: application/pdf\r\n"
    + b"Content-Transfer-Encoding: base64\r\n\r\n" + FILE + b"--b--\r\n",
    "html": HEAD + b"Content-Type: text/html; charset=utf-8\r\n\r\n<p>{{ name }}</p>\r\n"
    + LINE * 13_000,
}  # fmt: skip
NEWSLETTER = Path(__file__).resolve().parents[1] / "examples" / "newsletter.eml"


@pytest.mark.parametrize("kind", MAILS)
def test_from_eml(compare, backend, kind):
    source = MAILS[kind]
    compare(lambda: email.message_from_bytes(source), lambda: Template.from_eml(source), calls=3)


@pytest.mark.parametrize("kind", ["newsletter", *MAILS])
def test_check(compare, backend, kind):
    source = MAILS[kind] if kind in MAILS else NEWSLETTER.read_bytes()
    template = Template.from_eml(source)
    row = dict.fromkeys(template.required_fields, "x") | {"email": "a@example.com"}
    message = template.render(row)
    compare(
        lambda: email.message_from_bytes(source),
        lambda: template.check(message=message),
        calls=20,
    )
