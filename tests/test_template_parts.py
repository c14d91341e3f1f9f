"""Parts of a template from a message file: no field leaves in a part that is not rendered."""

import base64
import email
import email.policy
import re
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Template

HEAD = b"From: news@example.com\nTo: {{ email }}\nSubject: s\nMIME-Version: 1.0\n"
ROW = {"name": "Anna", "email": "anna@example.com"}
TEXT = b"Content-Type: text/plain\n\nhello\n"

pytestmark = pytest.mark.usefixtures("backend")


def encoded(text: bytes) -> bytes:
    return b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(text)


def quoted(text: bytes) -> bytes:
    return b"Content-Transfer-Encoding: quoted-printable\n\n" + text.replace(b"{", b"=7B")


def multipart(subtype: bytes, *parts: bytes) -> bytes:
    body = b"".join(b"--b\n" + part + b"\n" for part in parts)
    return b"Content-Type: multipart/" + subtype + b"; boundary=b\n\n" + body + b"--b--\n"


def rendered(source: bytes, **values: Any) -> EmailMessage:
    data = Template.from_eml(source).render(ROW | values).data
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def content_of(part: Any) -> str:
    payload: bytes = part.get_payload(decode=True)
    return payload.decode("utf-8").replace("\r\n", "\n")


# Parts that are rendered


@pytest.mark.parametrize("transfer", ["", "base64", "quoted-printable"])
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/calendar; method=REQUEST",
        "text/csv",
        "text/x-vcard",
        "application/ics",
        "application/json",
        "application/ld+json",
        "application/xml",
        "application/rtf",
        "image/svg+xml",
        "text / plain",
        "text/plain (a comment)",
    ],
)
@pytest.mark.parametrize("disposition", ["inline", 'attachment; filename="a.ics"'])
def test_a_field_in_a_text_is_filled(kind: str, disposition: str, transfer: str) -> None:
    text = b'NOTE:"{{ name }}"\n' if "json" in kind else b"NOTE:x {{ name }}\n"
    body = {"": b"\n" + text, "base64": encoded(text), "quoted-printable": quoted(text)}[transfer]
    head = f"Content-Type: {kind}\nContent-Disposition: {disposition}\n".encode()
    source = HEAD + multipart(b"mixed", TEXT, head + body)
    assert Template.from_eml(source).required_fields == {"name", "email"}
    _, part = rendered(source).iter_parts()
    assert content_of(part).rstrip("\n") == text.decode().replace("{{ name }}", "Anna").rstrip("\n")
    assert part.get_content_type() == kind.partition(";")[0].replace(" ", "").partition("(")[0]
    assert part["Content-Disposition"] == disposition


def test_an_attachment_without_a_field_keeps_its_bytes() -> None:
    text = base64.encodebytes(b"a,b\nf\xfcr,\x93x\x94 {name} {%TeX%}\n")
    part = (
        b"Content-Type: text/csv; charset=windows-1252; name=a.csv\n"
        b"Content-Disposition: attachment\nContent-Transfer-Encoding: base64\n\n" + text
    )
    data = Template.from_eml(HEAD + multipart(b"mixed", TEXT, part)).render(ROW).data
    assert part.replace(b"\n", b"\r\n") in data


@pytest.mark.parametrize("text", [b"int a[] = {{0}};", b"{{1,2},{3,4}}", b"{{\\bf x}}", b"{%x%}"])
def test_braces_of_other_languages_are_no_field(text: bytes) -> None:
    part = b"Content-Type: text/x-c\nContent-Disposition: attachment\n\n" + text + b"\n"
    _, found = rendered(HEAD + multipart(b"mixed", TEXT, part)).iter_parts()
    assert content_of(found).rstrip("\n") == text.decode()


@pytest.mark.parametrize(
    "text", [b"{{ 2 * number }}", b"{{- number }}", b"{{ [number][0] }}", b"{{ 'a' ~ number }}"]
)
def test_every_expression_with_a_name_is_a_field(text: bytes) -> None:
    part = b"Content-Type: text/x-c\nContent-Disposition: attachment\n\n" + text + b"\n"
    template = Template.from_eml(HEAD + multipart(b"mixed", TEXT, part))
    assert template.required_fields == {"email", "number"}


def test_an_attached_file_is_the_same_for_every_row(tmp_path: Path) -> None:
    (tmp_path / "a.ics").write_bytes(b"SUMMARY:{{ name }}\r\n")
    (tmp_path / "b.txt").write_bytes(b"plain {x}\n")
    template = Template.compose(
        sender="a@example.com", to="b@example.com", subject="s", text="t",
        attachments=[tmp_path / "a.ics", tmp_path / "b.txt"],
    )  # fmt: skip
    again = Template.from_eml(template.source(), keep_headers=True)
    assert again.source() == template.source() and again.required_fields == frozenset()
    message = template.render({})
    for data in (message.data, again.render({}).data):
        assert base64.encodebytes(b"SUMMARY:{{ name }}\r\n").strip() in data
        assert b"Literal" not in data
    (found,) = (each for each in template.check(message=message) if each.name == "unfilled-field")
    assert found.text.startswith("{{ name }} in this file is not filled")
    assert str(found).startswith("text/calendar part 'a.ics', line 1, column 9: ")


# Parts that are not rendered


def sealed(head: bytes, body: bytes = b"\nDear {{ name }}\n") -> bytes:
    return multipart(b"mixed", TEXT, head + body)


INNER = b"Content-Type: text/plain\n\nDear {{ name }}\n"
UNFILLED = {
    "signed": (multipart(b"signed", INNER), "a signed part must not change"),
    "signed, base64": (multipart(b"signed", encoded(b"Dear {{ name }}")), "a signed part"),
    "signed, quoted-printable": (multipart(b"signed", quoted(b"Dear {{ name }}")), "a signed part"),
    "signed, in a header": (
        multipart(b"signed", b"Content-Description: {{ name }}\n\nx\n"),
        "a signed part",
    ),
    "signed inside": (
        multipart(b"mixed", TEXT, multipart(b"signed", INNER).replace(b"b", b"c")),
        "a signed part",
    ),
    "encrypted": (multipart(b"encrypted", INNER), "an encrypted part must not change"),
    "message/rfc822": (sealed(b"Content-Type: message/rfc822\n\nSubject: x\n"), "message stays"),
    "its subject": (
        sealed(b"Content-Type: message/rfc822\n\nSubject: {{ name }}\n", b"\nx\n"),
        "message stays",
    ),
    "its encoded subject": (
        sealed(b"Content-Type: message/rfc822\n\nSubject: =?utf-8?q?=7B=7Bname=7D=7D?=\n", b"\nx"),
        "message stays",
    ),
    "digest": (multipart(b"digest", b"\nSubject: x\n\nDear {{ name }}\n"), "message stays"),
    "delivery status": (sealed(b"Content-Type: message/delivery-status\n"), "message stays"),
    "octet-stream": (sealed(b"Content-Type: application/octet-stream\n"), "application/octet-stre"),
    "octet-stream, base64": (
        sealed(b"Content-Type: application/octet-stream\n", encoded(b"Dear {{ name }}")),
        "application/octet-stream stays",
    ),
    "binary": (
        sealed(b"Content-Type: application/pdf\n", encoded(b"%PDF\0\xff (Dear {{ name }})")),
        "application/pdf stays",
    ),
    "javascript": (sealed(b"Content-Type: application/javascript\n"), "application/javascript"),
    "no boundary": (b"Content-Type: multipart/mixed\n\n--b\n" + INNER + b"--b--\n", "is missing"),
    "another boundary": (
        b"Content-Type: multipart/mixed; boundary=c\n\n--b\n" + INNER + b"--b--\n",
        "does not occur",
    ),
    "preamble": (
        multipart(b"mixed", TEXT).replace(b"\n\n--b", b"\n\nDear {{ name }}\n--b", 1),
        "do not show the text before its first part",
    ),
    "epilogue": (multipart(b"mixed", TEXT) + b"Dear {{ name }}\n", "text after its last part"),
    "transfer encoding": (
        sealed(b"Content-Type: text/plain\nContent-Transfer-Encoding: x-rot13\n"),
        "'x-rot13' is not known",
    ),
    "statement": (
        multipart(b"signed", INNER.replace(b"{{ name }}", b"{% if a %}b{% endif %}")),
        "a signed part",
    ),
    "another transfer encoding": (
        sealed(b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n"),
        "the text is not in its transfer encoding, base64",
    ),
    "another transfer encoding, binary": (
        sealed(b"Content-Type: image/png\nContent-Transfer-Encoding: base64\n"), "image/png stays",
    ),
    "another charset": (
        sealed(b"Content-Type: text/plain; charset=utf-16\n"),
        "the text is not valid in its charset, utf-16",
    ),
    "another charset, attached": (
        sealed(b"Content-Type: text/plain; charset=cp037\nContent-Disposition: attachment\n"),
        "the text is not valid in its charset, cp037",
    ),
    "another charset, signed": (
        multipart(b"signed", INNER.replace(b"plain", b"plain; charset=utf-16")), "a signed part",
    ),
    "utf-16": (
        multipart(b"signed", b"Content-Type: text/plain; charset=utf-16le\n"
                  + encoded("{{ name }}".encode("utf-16-le"))),
        "a signed part",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFILLED)
def test_a_field_that_cannot_be_filled_is_an_error(case: str) -> None:
    body, reason = UNFILLED[case]
    with pytest.raises(ValueError, match=r" part.*: \{.*\} cannot be filled, because ") as caught:
        Template.from_eml(HEAD + body)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("case", UNFILLED)
def test_the_same_part_without_a_field_is_sent(case: str) -> None:
    body, _ = UNFILLED[case]
    bare = re.sub(rb"\{\{.*?\}\}|\{%.*?%\}|=7B=7Bname=7D=7D|=7B=7B name \}\}", b"x", body)
    data = base64.encodebytes(b"x")
    bare = re.sub(rb"(base64\n\n)[^-\n]*\n", lambda match: match[1] + data, bare)
    assert rendered(HEAD + bare)["To"] == "anna@example.com"


@pytest.mark.parametrize(
    "field",
    [
        'name="{{ name }}.txt"',
        'name="=?utf-8?q?=7B=7Bname=7D=7D?="',
        "name*=utf-8''%7B%7Bname%7D%7D.txt",
    ],
)
def test_a_field_in_a_header_of_a_part_is_an_error(field: str) -> None:
    part = f"Content-Type: text/plain\nContent-Disposition: attachment; file{field}\n\nx\n"
    with pytest.raises(ValueError, match=r"header Content-Disposition of a part"):
        Template.from_eml(HEAD + multipart(b"mixed", TEXT, part.encode()))


# Signed parts


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("before", [b"", b"\n", b"\n\n", b" \n"])
@pytest.mark.parametrize(
    "kind", [b"Content-Type: text/plain", b"content-type:text/plain", b"Content-Type:  text/plain "]
)
def test_a_signed_part_is_sent_byte_for_byte(kind: bytes, before: bytes, ends: bytes) -> None:
    inner = b"Content-Type: multipart/mixed;\n\tboundary=c\n\n--c\n" + kind + b"\n\nhello \n--c--\n"
    signature = b"Content-Type: application/pgp-signature\n\nabc\n"
    signed = b"--s\n" + inner + before + b"--s\n" + signature + b"--s--\n"
    source = HEAD + b"Content-Type: multipart/signed; boundary=s; micalg=pgp-sha256\n\n" + signed
    data = Template.from_eml(source.replace(b"\n", ends)).render(ROW).data
    assert data.endswith(signed.replace(b"\n", b"\r\n"))


# HTML


@pytest.mark.parametrize(
    "kind",
    [
        "text/html",
        "text/html (x)",
        "(x) text/html",
        "text/html charset=utf-8",
        "text/html,",
        "text/html,text/plain",
        "TEXT / HTML",
        '"text/html"; x',
        "text/watch-html",
        "text/x-amp-html",
        "text/xml",
        "text/xhtml+xml",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/enriched",
        "text/vnd.wap.wml",
        "text/html-sandboxed",
    ],
)
def test_what_a_reader_may_show_as_html_is_escaped(kind: str) -> None:
    source = HEAD + f"Content-Type: {kind}\n\n<p>{{{{ name }}}}</p>\n".encode()
    parsed = rendered(source, name="<b>x</b>")
    if parsed.get_content_type() == "text/plain":  # the type is written as it was decided
        assert '"text/html"' in kind
    else:
        assert "<p>&lt;b&gt;x&lt;/b&gt;</p>" in content_of(parsed)
        assert re.fullmatch(r"[a-z/.+-]+(; charset=\"utf-8\")?", parsed["Content-Type"])


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Type: text/plain\nContent-Type: text/html\n",
        "Content-Type: text/plain\nContent-type: text/html\nCONTENT-TYPE: text/html\n",
    ],
)
def test_a_second_content_type_is_not_sent(fields: str) -> None:
    data = Template.from_eml(HEAD + fields.encode() + b"\n{{ name }}\n").render(ROW).data
    assert data.lower().count(b"\r\ncontent-type:") == 1 and b"text/html" not in data


# Other properties of parts


def test_parameters_of_a_text_are_kept() -> None:
    kind = (
        'text/calendar; charset=iso-8859-1; method=REQUEST; name="größe 1.ics"; '
        'x-note="a; b"; variant=Extended; name*0="no"'
    )
    source = HEAD + f"Content-Type: {kind}\n\nNOTE:{{{{ name }}}}\n".encode()
    parsed = rendered(source)
    params = dict(parsed.get_params())
    assert params["method"] == "REQUEST" and params["variant"] == "Extended"
    assert params["x-note"] == "a; b" and params["charset"] == "utf-8"
    assert parsed.get_filename() == "größe 1.ics"


def test_an_encoded_word_in_a_name_is_kept() -> None:
    kind = b'Content-Type: text/plain; name="=?utf-8?q?gr=C3=B6=C3=9Fe?=.txt"\n\n{{ name }}\n'
    assert b'; name="=?utf-8?q?gr=C3=B6=C3=9Fe?=.txt"' in Template.from_eml(HEAD + kind).render(
        ROW
    ).data.replace(b"\r\n", b"")


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x", "binary"])
def test_a_multipart_has_no_transfer_encoding(encoding: str) -> None:
    field = f"Content-Transfer-Encoding: {encoding}\n".encode()
    parsed = rendered(HEAD + field + multipart(b"mixed", TEXT, INNER))
    assert "Content-Transfer-Encoding" not in parsed
    assert [content_of(part) for part in parsed.iter_parts()] == ["hello\n", "Dear Anna\n"]


def test_an_8_bit_preamble_is_dropped() -> None:
    body = multipart(b"mixed", TEXT).replace(b"\n\n--b", "\n\nDies ist größer\n--b".encode(), 1)
    message = Template.from_eml(HEAD + body).render(ROW)
    assert message.data.isascii() and message.mail_options == ()
    kept = multipart(b"mixed", TEXT).replace(b"\n\n--b", b"\n\nThis is MIME\n--b", 1)
    assert b"\r\n\r\nThis is MIME\r\n--b\r\n" in Template.from_eml(HEAD + kept).render(ROW).data


@pytest.mark.parametrize("boundary", ["größe", "a" * 80, "a ", '"a"'])
def test_a_boundary_that_is_not_valid_is_replaced(boundary: str) -> None:
    escaped = boundary.replace('"', '\\"')
    source = (
        f'Content-Type: multipart/mixed; boundary="{escaped}"; x=y\n\n--{boundary}\n'
        f"Content-Type: text/plain\n\n{{{{ name }}}}\n--{boundary}--\n"
    )
    message = Template.from_eml(HEAD + source.encode()).render(ROW)
    assert message.data.isascii()
    parsed = email.message_from_bytes(message.data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage) and parsed.get_param("x") == "y"
    assert [content_of(part) for part in parsed.iter_parts()] == ["Anna"]


@pytest.mark.parametrize(
    "prefix", [b"\xef\xbb\xbf", b"From news@example.com Mon Nov 30 20:00:00 2026\n"]
)
def test_bytes_before_the_header_are_skipped(prefix: bytes) -> None:
    source = prefix + HEAD + b"\n{{ name }}\n"
    assert Template.from_eml(source).render(ROW).data.startswith(b"From: news@example.com\r\n")


def test_nested_parts_are_rendered_at_any_depth() -> None:
    source = INNER
    for number in range(20):
        name = b"n%d" % number
        source = (
            b"Content-Type: multipart/mixed; boundary=" + name + b"\n\n--" + name + b"\n"
            + source + b"\n--" + name + b"--\n"
        )  # fmt: skip
    assert [content_of(part) for part in rendered(HEAD + source).walk() if not part.is_multipart()]


def test_a_description_of_the_earlier_text_is_dropped() -> None:
    fields = b"Content-Length: 10\nContent-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==\nContent-Language: de\n"
    parsed = rendered(HEAD + fields + INNER)
    assert parsed["Content-Language"] == "de"
    assert "Content-Length" not in parsed and "Content-MD5" not in parsed
