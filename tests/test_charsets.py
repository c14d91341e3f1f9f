"""Charsets of messages: both backends decode them as the WHATWG Encoding standard does."""

import base64
import email
import email.policy
import json
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Template, _backend, _charset

LABELS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "vectors" / "charset_labels.json").read_text("utf-8")
)
# The standard decodes no text with the labels of these two.
SPECIAL = ("replacement", "x-user-defined")
STANDARD = [label for name, labels in LABELS.items() if name not in SPECIAL for label in labels]
HEAD = b"From: news@example.com\nTo: {{ email }}\nMIME-Version: 1.0\n"
ROW = {"name": "Anna", "email": "anna@example.com"}

# A label, bytes of a real text, and the text.
TEXTS = [
    ("iso-8859-1", b"\x93it\x92s\x94 \x96 5 \x80", "“it’s” – 5 €"),  # noqa: RUF001
    ("latin1", b"it\x92s", "it’s"),  # noqa: RUF001
    ("us-ascii", b"it\x92s", "it’s"),  # noqa: RUF001
    ("us-ascii", "größe".encode(), "größe"),
    ("unknown-8bit", b"gr\xf6\xdfe", "größe"),
    ("unknown-8bit", "größe".encode(), "größe"),
    ("iso-8859-9", b"\x93\xfe\x94", "“ş”"),
    ("iso-8859-8-i", b"\xf9\xec\xe5\xed", "שלום"),
    ("windows-874", b"\xca\xc7\xd1\xca\xb4\xd5", "สวัสดี"),
    ("tis-620", b"\xca\xc7\x93", "สว“"),
    ("gb2312", "镕基".encode("gbk"), "镕基"),
    ("x-gbk", "镕基".encode("gbk"), "镕基"),
    ("gbk", b"\x80", "€"),
    ("ks_c_5601-1987", "갂똠".encode("cp949"), "갂똠"),
    ("euc-kr", "갂".encode("cp949"), "갂"),
    ("shift_jis", "①髙".encode("cp932"), "①髙"),
    ("x-sjis", "①髙".encode("cp932"), "①髙"),
    ("euc-jp", b"\xad\xa1\xc6\xfc\xcb\xdc", "①日本"),
    ("iso-2022-jp", b"\x1b$B-!F|K\\\x1b(B!", "①日本!"),
    ("big5-hkscs", "睇㗎".encode("big5hkscs"), "睇㗎"),
    ("big5", "中文".encode("big5"), "中文"),
    ("koi8-u", b"\xf0\xd2\xc9\xd7\xa6\xd4", "Привіт"),
    ("utf-16", b"\xfe\xff\0a", "a"),
    ("latin-1", b"it\x92s", "it’s"),  # noqa: RUF001
    ("cp850", b"gr\x94\xe1e", "größe"),
    ("hz-gb-2312", b"~{VPND~}", "中文"),
    ("utf-7", b"gr+APYA3w-e", "größe"),
]

pytestmark = pytest.mark.usefixtures("backend")


def text_of(data: bytes) -> str:
    parsed: Any = email.message_from_bytes(data, policy=email.policy.default)
    content: str = parsed.get_content()
    return content.rstrip("\r\n")


@pytest.mark.parametrize("field", ["", " {{ name }}"])
@pytest.mark.parametrize(("label", "data", "text"), TEXTS)
def test_a_body_is_decoded_by_its_label(label: str, data: bytes, text: str, field: str) -> None:
    data += field.encode("utf-16-be" if label == "utf-16" else "ascii")
    kind = f"Content-Type: text/plain; charset={label}\nContent-Transfer-Encoding: base64\n\n"
    source = HEAD + kind.encode() + base64.encodebytes(data)
    rendered = Template.from_eml(source).render(ROW)
    assert text_of(rendered.data) == text + (" Anna" if field else "")
    assert b'charset="utf-8"' in rendered.data


@pytest.mark.parametrize("field", ["", " {{ name }}"])
@pytest.mark.parametrize(("label", "data", "text"), TEXTS)
def test_an_encoded_word_is_decoded_by_its_label(
    label: str, data: bytes, text: str, field: str
) -> None:
    word = base64.b64encode(data).decode("ascii")
    source = HEAD + f"Subject: =?{label}?b?{word}?={field}\n\nx\n".encode()
    parsed = email.message_from_bytes(
        Template.from_eml(source).render(ROW).data, policy=email.policy.default
    )
    assert parsed["Subject"] == text + (" Anna" if field else "")


def test_a_latin_1_body_has_no_control_characters() -> None:
    source = HEAD + b"Content-Type: text/html; charset=iso-8859-1\n\n<p>it\x92s {{ name }}</p>\n"
    data = Template.from_eml(source).render(ROW).data
    assert not any(chr(code) in text_of(data) for code in range(0x80, 0xA0))


@pytest.mark.parametrize("label", ["x-nothing", "rot13", "unicode_escape", "base64", "idna"])
def test_an_unknown_charset(label: str) -> None:
    """A text without a field is sent unchanged. A text with a field is refused."""
    kind = f"Content-Type: text/plain; charset={label}\n\n".encode()
    data = Template.from_eml(HEAD + kind + b"plain\n").render(ROW).data
    assert f"charset={label}\r\n".encode() in data and data.endswith(b"\r\n\r\nplain\r\n")
    with pytest.raises(ValueError, match=f"{{{{ name }}}} cannot be filled, .*'{label}' is unknow"):
        Template.from_eml(HEAD + kind + b"Dear {{ name }}\n")


def test_a_text_that_is_not_valid_in_its_charset() -> None:
    kind = b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    data = Template.from_eml(HEAD + kind + b"gr\xf6\xdfe\n").render(ROW).data
    parsed = email.message_from_bytes(data)
    assert parsed.get_payload(decode=True) == b"gr\xf6\xdfe\n" and data.isascii()
    with pytest.raises(ValueError, match="text is not valid in its charset, utf-8"):
        Template.from_eml(HEAD + kind + b"gr\xf6\xdfe {{ name }}\n")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'<meta charset="windows-1251"><p>\xcf\xf0\xe8</p>', "При"),
        (b"<META http-equiv=x content='text/html; charset=koi8-r'>\xf0\xd2\xc9", "При"),
        (b"<p>it\x92s</p>", "it’s"),  # noqa: RUF001
        ("<p>größe</p>".encode(), "größe"),
        ('<meta charset="utf-8"><p>größe</p>'.encode(), "größe"),
        ('<meta charset="utf-16"><p>größe</p>'.encode(), "größe"),
    ],
)
def test_html_without_a_charset_states_it_itself(body: bytes, text: str) -> None:
    source = HEAD + b"Content-Type: text/html\n\n" + body + b"{{ name }}\n"
    content = text_of(Template.from_eml(source).render(ROW).data)
    assert text in content and content.endswith("Anna")


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_those_of_the_standard(name: str) -> None:
    for label in LABELS[name]:
        if name in SPECIAL:
            with pytest.raises(LookupError, match="unknown"):
                _charset.decode(label, b"a")
        else:
            assert _charset.encoding_for_label(f" {label.upper()}\n") is not None
            assert _charset.standard_label(label) == label


@pytest.mark.rust
@pytest.mark.parametrize("label", STANDARD)
def test_both_backends_decode_the_same_text(label: str) -> None:
    def decoded(decode: Any, data: bytes) -> str | None:
        try:
            return str(decode(label, data))
        except ValueError:
            return None

    _backend.use("rust")
    first = range(0x80, 0x100)
    pairs = [bytes((one, other)) for one in first for other in range(0x30, 0x100, 5)]
    samples = [*(bytes([byte]) for byte in range(0x100)), *pairs, b"a\x1b$B-!\x1b(Jz\\~\x1b(Ix"]
    differing = [
        data
        for data in samples
        if decoded(_backend.decode_charset, data) != decoded(_charset.decode, data)
    ]
    if label in LABELS["Big5"]:
        # Python lacks the latest characters of HKSCS. Two punctuation marks have another width.
        missing = [data for data in differing if decoded(_charset.decode, data) is None]
        assert len(missing) < 60
        differing = [data for data in differing if data not in missing and data[0] != 0xA2]
    assert differing == []
