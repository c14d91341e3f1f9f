"""Given texts as headers and parameters: file names, subjects, custom fields, encoded words.

An encoded word may hide a line break. No given text adds a header field to a message or to a part.
"""

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Message, Outcome, Status, Template
from rapidsmtp._compose.convert import prepare
from rapidsmtp._compose.encode import encode_parameter
from rapidsmtp.logging.digest import FormattedRecord, RecordBatch, compose

# Its text has two line breaks: "a", "X-Evil: 1", and an end.
HIDDEN = "=?utf-8?q?a=0D=0AX-Evil:_1=0D=0A?="
HTML = '<img src="cid:logo">'

NAMES = [
    f"{HIDDEN}.png",
    "=?utf-8?q?plain?=.txt",
    "=?utf-8?b?DQpYLUV2aWw6IDENCg==?=",
    "größe.pdf",
    "é" * 90 + ".txt",
    "京都へようこそ" * 8 + ".pdf",
    "x" * 200 + ".txt",
    'a "b" \\c.txt',
    "a; name=x, (c) [d].txt",
    "a'b%c*0.txt",
    "%41=41.txt",
    "tab\there.txt",
    "\U0001f600\u200d\U0001f600.png",
]


def composed(tmp_path: Path, name: str, inline: str | None = None) -> bytes:
    path = tmp_path / name
    path.write_bytes(b"content")
    files: dict[str, Any] = (
        {"attachments": [path]} if inline is None else {"inline": {inline: path}}
    )
    template = Template.compose(
        sender="a@x.org", to="{{ email }}", subject="s", html=HTML, text="t", **files
    )
    return template.render({"email": "b@x.org"}).data


def parts(data: bytes) -> list[EmailMessage]:
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return [part for part in parsed.walk() if isinstance(part, EmailMessage)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inline", [None, "logo"])
def test_a_file_name_is_a_literal(
    backend: str, tmp_path: Path, name: str, inline: str | None
) -> None:
    data = composed(tmp_path, name, inline)
    part = parts(data)[-1]
    expected = ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition"]
    assert part.keys() == expected + ["Content-ID"] * (inline is not None)
    assert part.get_filename() == name and part.get_content() in (b"content", "content")
    assert part.get_content_disposition() == ("attachment" if inline is None else "inline")
    # RFC 2047 section 5: an encoded word is not allowed in a parameter. Readers decode it there.
    assert b"=?" not in data
    assert all(len(line) <= 78 for line in data.split(b"\r\n"))


def test_a_plain_file_name_is_written_in_quotes(backend: str, tmp_path: Path) -> None:
    data = composed(tmp_path, "report 1.pdf")
    assert b'\r\nContent-Disposition: attachment; filename="report 1.pdf"\r\n' in data


@pytest.mark.parametrize("name", ["a\nb.txt", "a\r\nX-Evil: 1", "a\x00b", "a\x1bb", "a\u2028b"])
def test_a_file_name_with_a_line_break_is_refused(
    backend: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"content")
    with pytest.raises(ValueError, match=r"^file .*line break.*; rename the file$") as caught:
        Template.compose(sender="a@x.org", to="b@x.org", subject="s", text="t", attachments=[name])
    assert "\n" not in str(caught.value)


def test_a_file_name_that_is_not_unicode_is_refused(backend: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="invalid character; rename the file"):
        composed(tmp_path, "a\udcff.txt")


def test_an_inline_name_is_a_literal(backend: str, tmp_path: Path) -> None:
    data = composed(tmp_path, "logo.png", HIDDEN)
    assert f"\r\nContent-ID: <{HIDDEN}>\r\n".encode() in data
    assert all("X-Evil" not in part for part in parts(data))


@pytest.mark.parametrize("name", ["", "a b", "größe", "a>b", "<a>", "a\r\nX-Evil: 1", "a\tb"])
def test_an_inline_name_that_is_no_content_id_is_refused(
    backend: str, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"inline image .*becomes a Content-ID"):
        composed(tmp_path, "logo.png", name)


@pytest.mark.parametrize("value", ["x", "a b", 'q"\\', "=?x", "é", "\r\n", "\0", "y" * 300])
def test_a_parameter_is_read_back(value: str) -> None:
    field = f"text/plain; {encode_parameter('method', value)}"
    assert all(line.isascii() and len(line) < 100 for line in field.split("\r\n"))
    parsed = email.message_from_bytes(f"Content-Type: {field}\r\n\r\n".encode())
    assert email.utils.collapse_rfc2231_value(parsed.get_param("method")) == value  # type: ignore[arg-type]


def test_a_parameter_of_a_text_is_encoded_again(backend: str) -> None:
    source = (
        "From: a@x.org\nTo: b@x.org\nContent-Type: text/plain; method*=utf-8''a%0D%0AX-Evil:%201\n"
        "\nhi {{ name }}\n"
    )
    data = Template.from_eml(source.encode()).render({"name": "n"}).data
    (part,) = parts(data)
    assert "X-Evil" not in part and "method*=utf-8''a%0D%0AX-Evil%3A%201" in data.decode()


# Header fields


@pytest.mark.parametrize(
    "name", ["Subject", "X-Own", "Comments", "List-Id", "List-Unsubscribe", "Message-ID"]
)
def test_a_header_of_compose_is_a_literal(backend: str, name: str) -> None:
    value = f"<https://x.org/{HIDDEN}>" if name.startswith("List-U") else HIDDEN
    headers = {} if name == "Subject" else {name: value}
    template = Template.compose(
        sender="a@x.org", to=f'"{HIDDEN}" <b@x.org>', subject=HIDDEN, text="t", headers=headers
    )
    data = template.render({}).data
    head = data.partition(b"\r\n\r\n")[0]
    assert not any(line.startswith(b"X-Evil") for line in head.split(b"\r\n"))
    (part,) = parts(data)
    assert part["Subject"] == HIDDEN and part["To"].addresses[0].display_name == HIDDEN


def _with_subject(message: EmailMessage) -> None:
    message["Subject"] = HIDDEN


def _with_own_field(message: EmailMessage) -> None:
    message["X-Own"] = HIDDEN


def _with_list_unsubscribe(message: EmailMessage) -> None:
    message["List-Unsubscribe"] = f"<{HIDDEN}>"


def _with_file_name(message: EmailMessage) -> None:
    message.add_attachment(b"x", "application", "pdf", filename=HIDDEN)


def _with_type_of_file(message: EmailMessage) -> None:
    word = "=?utf-8?q?a=0D=0AContent-Type:_text/html=0D=0A?="
    message.add_attachment(b"x", "application", "pdf", params={"name": word})


def _with_body(message: EmailMessage) -> None:
    message.add_attachment(b"x", "application", "pdf", filename="=?utf-8?q?a=0D=0A=0D=0Abody?=")


def _with_end_of_header(message: EmailMessage) -> None:
    message["X-Own"] = "=?utf-8?q?a=0D=0A?="


HIDING = [
    _with_subject,
    _with_own_field,
    _with_list_unsubscribe,
    _with_file_name,
    _with_type_of_file,
    _with_body,
    _with_end_of_header,
]


def hiding(add: Any) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "a@x.org", "b@x.org"
    message.set_content("text")
    add(message)
    return message


def fields_of(data: bytes) -> list[list[str]]:
    return [[key.lower() for key in part.keys()] for part in parts(data)]  # noqa: SIM118


@pytest.mark.parametrize("add", HIDING, ids=lambda add: add.__name__)
@pytest.mark.parametrize("way", ["message", "tuple", "template"])
def test_an_email_message_adds_no_field(backend: str, add: Any, way: str) -> None:
    """The package `email` decodes the word. Some versions write the line break into the header."""
    message = hiding(add)
    expected = [[key.lower() for key in part.keys()] for part in message.walk()]  # noqa: SIM118
    if way == "template":
        try:
            data = Template.from_message(message).render({}).data
        except ValueError as error:
            assert "line break" in str(error)
            return
        expected[0] += ["date", "message-id"]
        assert [sorted(each) for each in fields_of(data)] == [sorted(each) for each in expected]
        return
    items = [message if way == "message" else ("a@x.org", ["b@x.org"], message)]
    ready, invalid = prepare(items)
    if invalid:
        assert invalid[0].status is Status.INVALID
        assert invalid[0].reason.startswith("header ") and "line break" in invalid[0].reason
        return
    assert fields_of(ready[0].data) == expected


def test_a_changed_message_class_is_checked_too(backend: str) -> None:
    class Own(EmailMessage):
        def items(self) -> Any:
            return super().items()

    message = Own()
    message["From"], message["To"], message["X-Own"] = "a@x.org", "b@x.org", HIDDEN
    ready, invalid = prepare([message])
    assert invalid or fields_of(ready[0].data) == [["from", "to", "x-own"]]


@pytest.mark.parametrize("value", ["a\nX-Evil: 1", "a\n\nbody", "a\rX-Evil: 1", "a\n"])
def test_a_line_break_in_a_compat32_message_is_invalid(backend: str, value: str) -> None:
    message = email.message.Message(email.policy.compat32)
    message["From"], message["To"] = "a@x.org", "b@x.org"
    message._headers.append(("X-Own", value))  # type: ignore[attr-defined]
    ready, invalid = prepare([message])
    assert [each.status for each in invalid] == [Status.INVALID] or fields_of(ready[0].data) == [
        ["from", "to", "x-own"]
    ]


def test_folded_fields_are_accepted(backend: str) -> None:
    source = b"From: a@x.org\nTo: b@x.org,\n c@x.org\nSubject: one\n\ttwo\n three\n\ntext\n"
    for policy in (email.policy.compat32, email.policy.default):
        ready, invalid = prepare([email.message_from_bytes(source, policy=policy)])
        assert not invalid and ready[0].recipients == ("b@x.org", "c@x.org")


@pytest.mark.parametrize("count", [1, 2])
def test_the_subject_of_a_log_mail_is_a_literal(backend: str, count: int) -> None:
    records = (FormattedRecord(f"{HIDDEN} ü", "text", 40, 0.0),) * count
    message = compose(RecordBatch(records, 0), "a@x.org", ["b@x.org"])
    assert isinstance(message, Message)
    (part,) = parts(message.data)
    assert "X-Evil" not in part and part["Subject"].startswith(f"{HIDDEN} ü")


# Encoded words in addresses (RFC 2047 section 5, rule 3)


@pytest.mark.parametrize(
    "value",
    [
        "=?utf-8?b?asO2cmc=?=@x.org",
        "=?utf-8?q?a=0D=0Ab?=@x.org",
        "Ann <=?utf-8?b?am9l?=@x.org>",
        "Ann <=?utf-8?q?joe=40x.org?=>",
        "b@x.org, =?utf-8?q?a?=.b@x.org",
        '"=?utf-8?q?a?="@x.org',
    ],
)
@pytest.mark.parametrize("name", ["From", "To", "Reply-To"])
def test_an_encoded_word_is_no_address(backend: str, name: str, value: str) -> None:
    fields = {"From": "a@x.org", "To": "b@x.org", name: value}
    source = "".join(f"{key}: {field}\n" for key, field in fields.items()) + "\ntext\n"
    with pytest.raises(ValueError, match=f"header {name}: .*encoded word .*address"):
        Template.from_eml(source.encode())
    if "=40" not in value:
        arguments = {"From": "sender", "To": "to", "Reply-To": "reply_to"}
        given = {"sender": "a@x.org", "to": "b@x.org", arguments[name]: value}
        with pytest.raises(ValueError, match=f"header {name}: .*encoded word .*address"):
            Template.compose(subject="s", text="t", **given)  # type: ignore[arg-type]


def test_an_encoded_word_is_a_display_name(backend: str) -> None:
    source = (
        b"From: =?utf-8?q?J=C3=B6rg_@home?= <a@x.org>\nTo: =?utf-8?q?B=2C?=<b@x.org>,\n"
        b' "=?utf-8?q?C?=" <c@x.org>\n\ntext\n'
    )
    message = Template.from_eml(source).render({})
    assert (message.sender, message.recipients) == ("a@x.org", ("b@x.org", "c@x.org"))


def test_an_encoded_word_in_a_row_is_no_address(backend: str) -> None:
    template = Template.compose(sender="a@x.org", to="{{ email }}", subject="s", text="t")
    (outcome,) = template.merge([{"email": "=?utf-8?b?asO2cmc=?=@x.org"}])
    assert isinstance(outcome, Outcome) and "encoded word" in outcome.reason
