"""`template.py`: the parts of a message that a row can change, and those that it cannot."""

import base64
import email
import email.policy
import os
import pickle
import re
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

import processes
from rapidsmtp import Message, Outcome, Status, Template

pytestmark = pytest.mark.usefixtures("backend")

ROW = {"name": "Anna", "email": "anna@example.com", "token": "t1"}
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PIXEL = b"\x89PNG\r\n\x1a\n\x00\n\r\xff" * 20


def compose(**changes: Any) -> Template:
    parts: dict[str, Any] = {
        "sender": "News <news@example.com>",
        "to": "{{ name }} <{{ email }}>",
        "subject": "Hello {{ name }}",
        "text": "Dear {{ name }},\n",
    }
    return Template.compose(**(parts | changes))


def parse(message: Message) -> EmailMessage:
    parsed = email.message_from_bytes(message.data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def text_of(part: Any) -> str:
    content = part.get_content()
    assert isinstance(content, str)
    return content.replace("\r\n", "\n")


def only(template: Template, row: Any) -> Outcome:
    (item,) = template.merge([row])
    assert isinstance(item, Outcome), item
    assert item.status is Status.INVALID and item.message is None and item.reason
    assert "\n" not in item.reason
    return item


def wire_safe(data: bytes) -> bool:
    lines = data.split(b"\r\n")
    return not any(b"\r" in line or b"\n" in line or len(line) > 998 for line in lines)


# Rendered messages


def test_a_rendered_message_has_the_fields_of_its_row() -> None:
    message = compose().render(ROW, tag=3)
    assert (message.sender, message.recipients) == ("news@example.com", ("anna@example.com",))
    assert message.tag == 3 and message.mail_options == ()
    parsed = parse(message)
    assert parsed["To"] == "Anna <anna@example.com>"
    assert parsed["Subject"] == "Hello Anna"
    assert parsed["Date"].datetime and parsed["Message-ID"].endswith("@example.com>")
    assert text_of(parsed) == "Dear Anna,\n"
    assert parsed["MIME-Version"] == "1.0"


def test_a_given_date_and_message_id_are_used() -> None:
    headers = {"Date": "Mon, 01 Jan 2024 10:00:00 +0000", "Message-ID": "<{{ token }}@example.com>"}
    parsed = parse(compose(headers=headers).render(ROW))
    assert parsed.get_all("Date") == [headers["Date"]]
    assert parsed.get_all("Message-ID") == ["<t1@example.com>"]


def test_a_message_may_have_every_kind_of_part(tmp_path: Path) -> None:
    agenda, logo = tmp_path / "agenda é.pdf", tmp_path / "logo.png"
    agenda.write_bytes(PIXEL)
    logo.write_bytes(PIXEL[::-1])
    template = compose(
        html='<b>{{ name }}</b> <img src="cid:logo">', attachments=[agenda], inline={"logo": logo}
    )
    parsed = parse(template.render(ROW))
    assert [part.get_content_type() for part in parsed.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "application/pdf",
    ]
    image, attachment = list(parsed.walk())[-2:]
    assert image["Content-ID"] == "<logo>" and image.get_payload(decode=True) == PIXEL[::-1]
    assert attachment.get_filename() == "agenda é.pdf"
    assert attachment.get_payload(decode=True) == PIXEL
    assert not any(part.defects for part in parsed.walk())


def test_a_message_can_be_an_attachment(tmp_path: Path) -> None:
    path = tmp_path / "forwarded.eml"
    path.write_bytes(b"Subject: x\n\n" + b"long " * 999)
    template = Template.compose(
        sender="a@example.com", to="b@example.com", subject="s", text="t", attachments=[path]
    )
    (part,) = parse(template.render({})).iter_attachments()
    assert (part.get_filename(), part.get_content()) == (path.name, path.read_bytes())


def test_html_is_escaped_as_markupsafe_does_and_text_is_not() -> None:
    template = compose(text="{{ name }}", html="{{ name }}|{{ name|safe }}")
    parsed = parse(template.render(ROW | {"name": "<&>\"'é"}))
    text, html = parsed.get_body(("plain",)), parsed.get_body(("html",))
    assert text is not None and text_of(text).strip() == "<&>\"'é"
    assert html is not None
    assert text_of(html).strip() == "&lt;&amp;&gt;&#34;&#39;é|<&>\"'é"


def test_markup_in_a_row_is_escaped() -> None:
    class Markup(str):
        def __html__(self) -> str:
            return self

    template = compose(html="{{ name }}")
    html = parse(template.render(ROW | {"name": Markup("<script>")})).get_body(("html",))
    assert html is not None and text_of(html).strip() == "&lt;script&gt;"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain\n", "7bit"),
        ("für\n", "quoted-printable"),
        ("京都へようこそ\n" * 5, "base64"),
        ("x" * 3000 + "\n", "quoted-printable"),
        ("a\0b\n", "quoted-printable"),
        ("..dots\n.\n\rcr\r\nend", "7bit"),
    ],
)
def test_transfer_encoding_is_chosen_for_each_row(text: str, encoding: str) -> None:
    message = compose(text="{{ value }}").render(ROW | {"value": text})
    parsed = parse(message)
    assert parsed["Content-Transfer-Encoding"] == encoding
    assert message.data.isascii() and wire_safe(message.data) and message.data.endswith(b"\r\n")
    decoded = parsed.get_payload(decode=True)
    assert isinstance(decoded, bytes)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    assert decoded.decode().replace("\r\n", "\n").rstrip("\n") == lines


def test_a_value_cannot_end_a_part() -> None:
    eml = (
        b"From: a@x.org\nTo: b@x.org\nContent-Type: multipart/alternative; boundary=known\n\n"
        b"--known\nContent-Type: text/plain\n\n{{ text }}\n--known--\n"
    )
    attack = "x\n--known\nContent-Type: text/html\n\n<script>\n--known--"
    parsed = parse(Template.from_eml(eml).render({"text": attack}))
    assert [part.get_content_type() for part in parsed.walk()] == [
        "multipart/alternative",
        "text/plain",
    ]
    body = parsed.get_body()
    assert body is not None and text_of(body).rstrip() == attack


def test_long_and_international_headers_are_folded_and_encoded() -> None:
    message = compose(subject="{{ name }} " * 40).render(ROW | {"name": "Ελένη, 京都"})
    assert wire_safe(message.data) and message.data.isascii()
    assert max(map(len, message.data.split(b"\r\n"))) <= 78
    assert parse(message)["Subject"] == ("Ελένη, 京都 " * 40).strip()
    long = compose(subject="{{ name }}").render(ROW | {"name": "y" * 3000})
    assert wire_safe(long.data) and parse(long)["Subject"] == "y" * 3000
    looks_encoded = compose(subject="{{ name }}").render(ROW | {"name": "=?utf-8?q?x?="})
    assert parse(looks_encoded)["Subject"] == "=?utf-8?q?x?="


def test_the_list_id_is_never_encoded() -> None:
    message = compose(headers={"List-Id": "Größe {{ name }} <news.example.com>"}).render(ROW)
    (line,) = re.findall(rb"List-Id: .*\r\n(?: .*\r\n)*", message.data)
    assert line.endswith(b" <news.example.com>\r\n")
    assert parse(message)["List-Id"] == f"Größe {ROW['name']} <news.example.com>"


# Addresses


@pytest.mark.parametrize(
    "name", ["Smith, John", 'Ann "A" Lee', "x <evil@z.org>", "Zoë (;:)", "a@b.org", "\\", "京,都"]
)
def test_a_name_cannot_add_an_address(name: str) -> None:
    message = compose().render(ROW | {"name": name})
    assert message.recipients == ("anna@example.com",)
    (address,) = parse(message)["To"].addresses
    assert (address.display_name, address.addr_spec) == (name, "anna@example.com")


@pytest.mark.parametrize(
    "name",
    [
        "International Association of Everything, Section " * 3 + "4",
        'The "Second" \\ International Association of Nothing at All and More of the Same',
        "Gesellschaft für Österreichische Länderkunde und Völkerverständigung e. V. am Rhein",
        "y" * 300,
        "山田\u3000太郎",
        "Zoë\u00a0B",
    ],
)
def test_a_long_name_is_parsed_back(name: str) -> None:
    template = compose(to=["{{ name }} <{{ email }}>", "b@x.org", "{{ name }} <c@x.org>"])
    message = template.render(ROW | {"name": name})
    first, _, third = parse(message)["To"].addresses
    assert (first.display_name, third.display_name) == (name, name)
    lines = message.data.split(b"\r\n\r\n")[0].split(b"\r\n")
    assert max(map(len, lines)) <= (78 if " " in name else 998)


@pytest.mark.parametrize("local_part", ["a..b", ".a", "a."])
def test_a_local_part_with_dots_that_are_invalid_in_an_atom_is_accepted(local_part: str) -> None:
    """A template accepts dots at the start or the end of a local part, and double dots.

    Such addresses exist, and servers accept them without quotes in the envelope.
    """
    message = compose().render(ROW | {"email": f"{local_part}@x.org"})
    assert message.recipients == (f"{local_part}@x.org",)
    header = parse(message)["To"]
    assert (header.addresses[0].username, header.defects) == (local_part, ())


@pytest.mark.parametrize(
    "address",
    [
        "a@b.org, evil@z.org",
        "a@b.org> <evil@z.org",
        "nobody",
        "a b@x.org",
        "a@",
        "@x.org",
        "a@x..org",
        "a@x.org\r\nBcc: evil@z.org",
        "a@" + "x" * 260,
        "a@x org",
        "Anna <a@x.org>",
    ],
)
def test_a_malformed_address_is_invalid(address: str) -> None:
    assert "header To" in only(compose(), ROW | {"email": address}).reason


def test_bcc_is_used_and_not_in_the_message() -> None:
    template = compose(cc="c@x.org", bcc="{{ name }} <h@x.org>, anna@example.com")
    message = template.render(ROW)
    assert message.recipients == ("anna@example.com", "c@x.org", "h@x.org")
    # Search for the field name with a line end and a colon, because the random Message-ID may
    # contain "bcc".
    assert b"h@x.org" not in message.data and b"\nbcc:" not in message.data.lower()


def test_sender_takes_precedence_over_from() -> None:
    assert compose(headers={"Sender": "s@x.org"}).render(ROW).sender == "s@x.org"


def test_international_addresses_are_encoded_or_need_smtputf8() -> None:
    domain = compose().render(ROW | {"email": "anna@bücher.straße.example"})
    assert domain.recipients == ("anna@xn--bcher-kva.xn--strae-oqa.example",)
    assert domain.mail_options == () and domain.data.isascii()
    local = compose().render(ROW | {"email": "zoë@example.com"})
    assert local.recipients == ("zoë@example.com",)
    assert local.mail_options == ("SMTPUTF8",)
    assert "To: Anna <zoë@example.com>\r\n".encode() in local.data


# Rows that cannot be rendered


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_field_is_invalid_without_default(value: Any) -> None:
    assert "'name'" in only(compose(), ROW | {"name": value}).reason
    friendly = compose(to="{{ email }}", subject="x", text="Dear {{ name|default('friend') }}")
    assert text_of(parse(friendly.render(ROW | {"name": value}))) == "Dear friend\n"
    assert text_of(parse(friendly.render({"email": "a@b.org"}))) == "Dear friend\n"


def test_other_rows_are_rendered_lazily() -> None:
    taken = []

    def rows() -> Any:
        for number, name in enumerate(["A", "", "C\nBcc: x@y.org", "D"]):
            taken.append(number)
            yield ROW | {"name": name, "id": number}

    merged = compose().merge(rows(), tag="id")
    assert iter(merged) is merged and taken == []
    first = next(merged)
    assert isinstance(first, Message) and taken == [0]
    rest = list(merged)
    assert [type(item) for item in rest] == [Outcome, Outcome, Message]
    assert [item.tag for item in rest] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, {}),
        ({}, 5),
        ({"text": "{{ 1 / n }}"}, {"n": 0}),
        ({"text": "{{ n + 1 }}"}, {"n": "x"}),
        ({"text": "{% for x in n %}{% endfor %}"}, {"n": 5}),
        ({"text": "{{ n.missing }}"}, {"n": {}}),
        ({"text": "{{ n.upper }}"}, {"n": "x"}),
        ({"text": "{% if n %}{% endif %}"}, {}),
        ({"text": "{{ n }}"}, {"n": "\ud800"}),
        ({"subject": "{{ n }}"}, {"n": "\ud800"}),
        ({"headers": {"List-Unsubscribe": "<https://x.org/{{ n }}>"}}, {"n": "a>,<https://y.org"}),
        ({"headers": {"X-Id": "{{ n }}"}}, {"n": "a\nX-Evil: 1"}),
        ({"headers": {"X-Id": "{{ n }}"}}, {"n": "a\u2028b"}),
        ({"headers": {"Message-ID": "<{{ n }}@x.org>"}}, {"n": "é"}),
    ],
)
def test_a_bad_row_is_invalid(changes: dict[str, Any], row: Any) -> None:
    only(compose(**changes), ROW | row if row and isinstance(row, dict) else row or {})


# The language


def test_the_template_language_has_loops_conditions_and_filters() -> None:
    text = (
        "{# note #}{% set n = 2 %}{% for x in list if x.ok %}{{ loop.index }}{{ x.v|upper }}"
        "{% if not loop.last %}, {% endif %}{% else %}none{% endfor %} {{ list|length }} "
        "{{ name|replace('n', 'm')|title }} {{ n + 1 }} {{ 'a' if n > 1 else 'b' }} "
        "{{ number|round(1) }} {{ '7'|int }} {{ [1, 2]|join('-') }} {{ 'a b'|urlencode }}"
    )
    rows = [{"ok": True, "v": "a"}, {"ok": False, "v": "b"}, {"ok": True, "v": "c"}]
    message = compose(text=text).render(ROW | {"list": rows, "number": 2.25})
    assert text_of(parse(message)) == "1A, 2C 3 Amma 3 a 2.2 7 1-2 a%20b\n"


@pytest.mark.parametrize(
    "text",
    [
        "{% if x %}{% macro m() %}{% endmacro %}{% endif %}",
        "{{ m() }}",
        "{% import 'x' as x %}",
        "{% from 'x' import y %}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% block b %}{% endblock %}",
        "{% call x() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{{ name.encode() }}",
        "{{ cycler('a', 'b') }}",
        "{{ name|attr('x') }}",
        "{{ name|map }}",
        "{{ name is callable }}",
        "{{ self }}",
        "{% for x in y recursive %}{% endfor %}",
        "{% if x %}",
        "{{ x",
        "{{ }}",
    ],
)
def test_syntax_outside_the_subset_is_an_error_at_compile_time(text: str) -> None:
    for place in ("text", "html", "subject"):
        with pytest.raises(ValueError, match="line 1"):
            compose(**{place: text})


# from_eml, from_message


def test_from_eml_keeps_headers_as_written() -> None:
    image = base64.encodebytes(PIXEL)
    eml = (
        b"From: =?utf-8?q?M=C3=BCller=2C_Anna?= <news@example.com>\r\n"
        b"To: {{ name }}\r\n <{{ email }}>\r\nX-Same:  two  spaces\r\n"
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?q?_an_=7B=7B_name_=7D=7D?=\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nf\xfcr {{ name }}\r\n--b\r\n"
        b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\nContent-ID: <i>\r\n\r\n"
        + image.replace(b"\n", b"\r\n")
        + b"--b\r\nContent-Type: text/csv\r\nContent-Disposition: attachment\r\n\r\n{ raw }\r\n"
        b"--b--\r\n"
    )
    message = Template.from_eml(eml).render(ROW)
    parsed = parse(message)
    assert message.sender == "news@example.com"
    assert parsed["From"].addresses[0].display_name == "Müller, Anna"
    assert parsed["To"] == "Anna <anna@example.com>"
    assert parsed["Subject"] == "Grüße an Anna"
    assert b"\r\nX-Same: two  spaces\r\n" in message.data
    text, picture, attachment = parsed.get_payload()
    assert text_of(text) == "für Anna"
    assert picture.get_payload(decode=True) == PIXEL and picture["Content-ID"] == "<i>"
    assert image.replace(b"\n", b"\r\n") in message.data
    assert text_of(attachment) == "{ raw }"


def test_from_eml_encodes_parts_that_a_relay_may_refuse() -> None:
    eml = (
        b"From: a@x.org\nTo: b@x.org\nContent-Type: application/octet-stream\n"
        b"Content-Transfer-Encoding: 8bit\n\n\xff\xfe" + b"x" * 2000
    )
    message = Template.from_eml(eml).render({})
    assert message.data.isascii() and wire_safe(message.data) and message.mail_options == ()
    assert parse(message).get_payload(decode=True) == b"\xff\xfe" + b"x" * 2000


def test_a_signed_part_is_unchanged() -> None:
    signed = b"--s\r\nContent-Type: text/plain\r\n\r\n{ name } \xc3\xa9\r\n--s--\r\n"
    eml = (
        b"From: a@x.org\r\nTo: {{ email }}\r\n"
        b"Content-Type: multipart/signed; boundary=s\r\n\r\n" + signed
    )
    message = Template.from_eml(eml).render(ROW)
    assert message.data.endswith(signed) and message.mail_options == ("BODY=8BITMIME",)


@pytest.mark.parametrize(
    ("eml", "match"),
    [
        (b"", "not a message"),
        (b"\n\nbody", "not a message"),
        (b"To: a@x.org\n\nx", "no From"),
        (b"From: a@x.org\n\nx", "neither To"),
        (b"From: a@x.org\nTo: nobody\n\nx", "header To"),
        (b"From: a@x.org\nTo: b@x.org\nSubject: {{ x\n\nx", "header Subject"),
        (b"From: a@x.org\nTo: b@x.org\nSubject: \xff\n\nx", "header Subject"),
        (b"From: a@x.org\nTo: b@x.org\nSubject: =?nope?q?x?=\n\nx", "header Subject"),
        (b"From: a@x.org\nTo: b@x.org\nContent-Type: text/plain; charset=x\n\n{{ a }}", "charset"),
        (b"From: a@x.org\nTo: b@x.org\nContent-Type: a/b; name={{x}}\n\nx", "Content-Type"),
        (b"From: a@x.org\nTo: b@x.org\nX-{{x}}: 1\n\nx", "name of a header field"),
    ],
)
def test_from_eml_refuses_with_a_reason(eml: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Template.from_eml(eml)


def test_from_message_renders_each_part() -> None:
    message = EmailMessage()
    message["From"] = "news@example.com"
    message["To"] = "{{ name }} <list@example.com>"
    message["Subject"] = "Grüße an {{ name }}"
    message.set_content("Dear {{ name }}\n")
    message.add_alternative("<b>{{ name }}</b>", subtype="html")
    before = message.items()
    parsed = parse(Template.from_message(message).render({"name": "Zoë, B"}))
    assert message.items() == before and message.get_boundary() is None
    assert parsed["Subject"] == "Grüße an Zoë, B"
    assert parsed["To"].addresses[0].display_name == "Zoë, B"
    html = parsed.get_body(("html",))
    assert html is not None and text_of(html) == "<b>Zoë, B</b>\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("To", "{{ name }} <{{ email }}>"),
        ("To", "{{ email }}"),
        ("Reply-To", "r+{{ token }}@example.com"),
        ("Message-ID", "<{{ id }}@example.com>"),
    ],
)
def test_from_message_names_a_header_that_email_changed(name: str, value: str) -> None:
    message = EmailMessage()
    message["From"] = "news@example.com"
    message[name] = value
    with pytest.raises(
        ValueError, match=f"header {name}: Python's package email changed a merge field"
    ):
        Template.from_message(message)


# CSV


def csv_template() -> Template:
    return Template.from_eml(b"From: a@x.org\nTo: {{ email }}\n\n{{ name }}\n")


def test_merge_csv_renders_each_row(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes('\ufeffid,email,name\r\n1,a@x.org,"two\nlines"\r\n\r\n2,b@x.org,\r\n'.encode())
    good, bad = csv_template().merge_csv(path, tag="id")
    assert isinstance(good, Message) and good.tag == "1"
    assert b"two\r\nlines\r\n" in good.data
    assert isinstance(bad, Outcome) and bad.tag == "2"


def test_the_first_of_columns_with_the_same_name_is_used(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("email,x,x\na@x.org,one,two\n")
    template = Template.compose(
        sender="s@example.com", to="{{ email }}", subject="s", text="{{ x|default('') }}"
    )
    (message,) = template.merge_csv(path)
    assert isinstance(message, Message) and message.data.endswith(b"\r\n\r\none\r\n")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"email\na@x.org\n", r"list.csv, line 1: no column 'name'"),
        (b"", r"line 1: no column 'email'"),
        (b"email,name,name\na@x.org,b,c\n", r"line 1: more than one column 'name'"),
        (b'email,name\na@x.org,"b\nc"\nb@x.org,c,d\n', r"line 4: 3 cells but 2 columns"),
        (b"email,name\na@x.org,b,c\n", r"line 2: 3 cells but 2 columns"),
        (b'email,name\na@x.org,"b\n', r"line 2: "),
        (b"email,name\na@x.org,\xff\n", r"list.csv, line 2: the text is not UTF-8; give"),
    ],
)
def test_a_malformed_csv_is_refused_before_the_first_message(
    tmp_path: Path, data: bytes, match: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match):
        csv_template().merge_csv(path)


def test_examples_are_the_output_of_their_script(tmp_path: Path) -> None:
    names = ("newsletter.eml", "subscribers.csv")
    for name in ("make_examples.py", "newsletter.txt", "newsletter.html"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    processes.run([sys.executable, tmp_path / "make_examples.py"], check=True)
    for name in names:
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes(), name


def test_the_complete_example_is_merged() -> None:
    template = Template.from_eml(EXAMPLES / "newsletter.eml")
    messages = list(template.merge_csv(EXAMPLES / "subscribers.csv", tag="id"))
    assert len(messages) == 1000
    for message in messages:
        assert isinstance(message, Message), message
        assert message.data.isascii() and wire_safe(message.data) and not message.mail_options
        assert 35_000 < len(message.data) < 60_000
    assert parse(messages[41 - 1])["To"].addresses[0].display_name == 'María "Mari" Núñez, Sr.'


def test_the_pure_backend_names_the_package_to_install() -> None:
    program = (
        "import sys; sys.modules['jinja2'] = None\n"
        "import rapidsmtp\n"
        "try: rapidsmtp.Template.from_eml(b'From: a@x.org\\nTo: b@x.org\\n\\nx')\n"
        "except ImportError as error: print(error)\n"
    )
    result = processes.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RAPIDSMTP_CORE": "python"},
    )
    assert "pip install 'rapidsmtp[merge]'" in result.stdout


@pytest.mark.parametrize(
    "text",
    [
        '{{ "Dear " ~ name }},',
        '{{ "Dear %s" % name }}',
        "{{ [name, name]|join(' ') }}",
        '{% set n = name %}Dear {{ "Mr " + n }},',
        "{{ name|int }}",
        '{{ "Dear " ~ (name if true else "friend") }}',
        '{{ "Dear " ~ (none or name) }}',
    ],
)
@pytest.mark.parametrize("name", ["", "  ", "\xa0", None])
def test_an_empty_name_is_never_rendered(text: str, name: str | None) -> None:
    template = Template.compose(sender="a@example.com", to="b@example.com", subject="s", text=text)
    (outcome,) = template.merge([{"name": name}])
    assert isinstance(outcome, Outcome)
    assert "empty" in outcome.reason


@pytest.mark.parametrize("name", ["", None])
def test_an_if_without_else_is_not_rendered_empty(name: str | None) -> None:
    text = '{{ "Dear " ~ (name if name) }},'
    template = Template.compose(sender="a@example.com", to="b@example.com", subject="s", text=text)
    (outcome,) = template.merge([{"name": name}])
    assert isinstance(outcome, Outcome)
    assert "without `else` is false" in outcome.reason


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{{ name or "friend" }}', "friend"),
        ('{{ "Dear " ~ name|default("friend") }}', "Dear friend"),
        ('{{ name if name else "you" }}', "you"),
        ("{% if name %}Dear {{ name }}{% else %}Hello{% endif %}", "Hello"),
    ],
)
def test_a_field_in_a_condition_may_be_empty(text: str, shown: str) -> None:
    template = Template.compose(sender="a@example.com", to="b@example.com", subject="s", text=text)
    (message,) = template.merge([{"name": ""}])
    assert isinstance(message, Message)
    assert shown.encode() in message.data


@pytest.mark.parametrize(
    "to", ["A <a@x.org> B <b@y.org>", "<a@x.org> b@y.org", "<a@x.org> {{ b }}"]
)
def test_a_missing_comma_drops_no_recipient(to: str) -> None:
    try:
        template = Template.compose(sender="s@example.com", to=to, subject="s", text="t")
    except ValueError as error:
        assert "comma" in str(error)
    else:
        (outcome,) = template.merge([{"b": "b@y.org"}])
        assert isinstance(outcome, Outcome)
        assert "comma" in outcome.reason


def test_a_header_field_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="more than one Subject"):
        Template.compose(
            sender="a@example.com", to="b@example.com", subject="s", text="t",
            headers={"Subject": "b"},
        )  # fmt: skip


def test_an_outcome_can_be_pickled() -> None:
    template = Template.compose(
        sender="a@example.com", to="b@example.com", subject="s", text="{{ x }}"
    )
    (outcome,) = template.merge([{}])
    assert pickle.loads(pickle.dumps(outcome)) == outcome


@pytest.mark.parametrize(
    "text",
    ["{% for loop in y %}{% endfor %}", "{{ " + "a + " * 5000 + "a }}", "{{ " + "(" * 5000 + " }}"],
    ids=["loop", "operators", "brackets"],
)
def test_a_compile_error_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="text/plain part") as caught:
        Template.compose(sender="a@example.com", to="b@example.com", subject="s", text=text)
    assert "\n" not in str(caught.value)
