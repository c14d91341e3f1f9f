"""Messages that mail programs export, and those of CPython's tests, as templates.

Each message is rendered and parsed again by `email`. The result must be what `email` makes of the
original message, with the fields filled.
"""

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rapidsmtp import Template, _charset

MAILS = sorted((Path(__file__).parent / "mails").glob("*.eml"))
ROW = {"name": "Anna", "email": "anna@example.com", "city": "Ulm", "token": "t1"}
FIELD = re.compile(r"\{\{ (\w+)(\|urlencode)? \}\}")
CONDITION = re.compile(r'\{% if city == "Ulm" %\}(.*?)\{% else %\}.*?\{% endif %\}')
STATE = re.compile(
    rb"\n(?:X-Mozilla|X-MS-|X-Zimbra|X-Gm|X-Apple|Received|DKIM|ARC|Fcc)", re.IGNORECASE
)

pytestmark = pytest.mark.usefixtures("backend")


def filled(text: str) -> str:
    return FIELD.sub(lambda match: ROW[match[1]], CONDITION.sub(r"\1", text))


def parse(data: bytes) -> EmailMessage:
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def text_of(part: Any) -> str:
    payload: bytes = part.get_payload(decode=True)
    label = str(part.get_content_charset() or "utf-8")
    if b"<meta charset" in payload and part.get_content_charset() is None:
        label = "windows-1252"
    label = "utf-8" if label == "us-ascii" and payload.decode("utf-8", "ignore") else label
    try:
        text = _charset.decode(label, payload)
    except ValueError:
        text = _charset.decode("windows-1252", payload)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # A calendar may be folded at another place.
    return text.replace("\n ", "") if "calendar" in part.get_content_type() else text


def leaves(message: Any) -> Iterator[tuple[Any, ...]]:
    """Yield what `email` knows of each part."""
    for part in message.walk():
        content: Any = None
        if not part.is_multipart():
            is_text = part.get_content_maintype() == "text" or part.get_filename() == "invite.ics"
            content = part.get_payload(decode=True)
            if is_text:
                content = filled(text_of(part)).rstrip("\n")
            elif part["Content-Transfer-Encoding"] != "base64":
                content = content.replace(b"\r\n", b"\n").rstrip(b"\n")
        yield (
            part.get_content_type(), part.get_content_disposition(), part.get_filename(),
            part["Content-ID"], content,
        )  # fmt: skip


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_an_exported_mail_is_rendered(path: Path) -> None:
    source = path.read_bytes()
    template = Template.from_eml(source)
    message = template.render(ROW)
    assert message.recipients == ("anna@example.com",)
    bare = source.removeprefix(b"\xef\xbb\xbf")
    original, parsed = parse(filled(bare.decode("latin-1")).encode("latin-1")), parse(message.data)
    assert list(leaves(parsed)) == list(leaves(original))
    assert parsed["To"].addresses == original["To"].addresses
    assert parsed["From"].addresses[0].addr_spec == original["From"].addresses[0].addr_spec
    if b"=?" not in source:  # `email` decodes other charsets than mail programs do
        assert parsed["Subject"] == original["Subject"]
    assert "{{" not in str(parsed["Subject"]) and "\ufffd" not in str(parsed["Subject"])
    assert not re.search("[\x80-\x9f]", str(parsed["Subject"]) + str(parsed["From"]))
    assert not STATE.search(b"\n" + message.data.partition(b"\r\n\r\n")[0])
    assert parsed["Message-ID"] != original["Message-ID"]
    lines = message.data.split(b"\r\n")
    assert all(len(line) <= 998 and b"\n" not in line and b"\r" not in line for line in lines)
    assert message.data.isascii()


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_the_source_of_an_exported_mail_is_equal(path: Path) -> None:
    template = Template.from_eml(path.read_bytes())
    again = Template.from_eml(template.source(), keep_headers=True)
    assert again.source() == template.source()
    assert again.required_fields == template.required_fields
    assert list(leaves(parse(again.render(ROW).data))) == list(
        leaves(parse(template.render(ROW).data))
    )


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_an_email_message_gives_the_same_parts(path: Path) -> None:
    message = email.message_from_bytes(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    one, two = Template.from_message(message), Template.from_eml(path.read_bytes())
    assert list(leaves(parse(one.render(ROW).data))) == list(leaves(parse(two.render(ROW).data)))


def test_there_are_enough_mails() -> None:
    assert len(MAILS) >= 30


# CPython's messages

HEADER = re.compile(rb"\A((?:[^\r\n]+(?:\r\n|\r|\n))*)(?:\r\n|\r|\n)?", re.DOTALL)
MIME = re.compile(
    rb"^(?:content-|mime-version)[^\r\n]*(?:\r\n|\r|\n)(?:[ \t][^\r\n]*(?:\r\n|\r|\n))*",
    re.MULTILINE | re.IGNORECASE,
)


def cpython_mails() -> list[str]:
    try:
        data = resources.files("test.test_email") / "data"
        return sorted(each.name for each in data.iterdir() if each.name.endswith(".txt"))
    except (ModuleNotFoundError, FileNotFoundError):
        return []


def with_own_header(data: bytes) -> bytes:
    """Return a message with the MIME fields and the body of another message."""
    header = HEADER.match(data)
    assert header is not None
    fields = b"".join(MIME.findall(header[1]))
    return b"From: a@x.org\nTo: b@x.org\n" + fields + b"\n" + data[header.end() :]


# In these messages, the parts differ from those of `email`, for the reason that is given.
OTHER_PARTS = {
    "msg_16.txt": "email parses message/delivery-status as messages",
    "msg_36.txt": "email parses message/external-body as a message",
    "msg_43.txt": "email parses message/delivery-status as messages",
    "msg_15.txt": "an inner multipart has the boundary of the outer one",
    "msg_42.txt": "an inner multipart has a closing delimiter only",
}


@pytest.mark.parametrize("name", cpython_mails())
def test_a_mail_of_cpython(name: str) -> None:
    source = with_own_header((resources.files("test.test_email") / "data" / name).read_bytes())
    message = Template.from_eml(source).render({})
    if name in OTHER_PARTS:
        assert message.data
        return
    found, expected = list(leaves(parse(message.data))), list(leaves(parse(source)))
    assert found == expected


# Any message


PIECES = st.sampled_from(
    [b"--b\n", b"--b--\n", b"--c\n", b"--c--\n", b"\n", b"\r", b"\r\n", b" ", b"x", b"{{ name }}",
     b"Content-Type: multipart/mixed; boundary=b\n", b"Content-Type: text/html\n",
     b"Content-Type: multipart/signed; boundary=c\n", b"content-type:text/plain; charset=utf-16\n",
     b"Content-Type: message/rfc822\n", b"Content-Transfer-Encoding: base64\n", b"\xff\xfe\0",
     b"Content-Transfer-Encoding: quoted-printable\n", b"=7B=7B name =7D=7D", b"e3sgbmFtZSB9fQ==\n",
     b"Subject: =?iso-8859-1?q?=92?=\n", b"X-A: {{ name }}\n", b"Content-Disposition: attachment\n",
     b"Content-Type: application/json\n", b"\"", b":", b";", b"\t", b"From x\n", b"=_", b"=\n"]
)  # fmt: skip


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(pieces=st.lists(PIECES, max_size=25))
def test_no_message_adds_a_header_field(pieces: list[bytes]) -> None:
    """Any bytes give a message or a ValueError, and no field except those of the source."""
    source = b"From: a@x.org\nTo: b@x.org\n" + b"".join(pieces)
    evil = "v\r\nX-Evil: 1\r\n\r\n--b\r\nX-Evil: 1\r\n\r\n--b--"
    try:
        template = Template.from_eml(source)
        message = template.render({"name": evil})
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert b"{{" not in message.data
    for part in email.message_from_bytes(message.data).walk():
        assert "x-evil" not in [name.lower() for name in part.keys()]  # noqa: SIM118
    names = {line.partition(b":")[0].strip().lower() for line in re.split(rb"[\r\n]", source)}
    names |= {
        b"date",
        b"message-id",
        b"mime-version",
        b"content-type",
        b"content-transfer-encoding",
    }
    head = message.data.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        assert line[:1] in b" \t" or line.partition(b":")[0].lower() in names
    assert all(len(line) <= 998 for line in message.data.split(b"\r\n"))
