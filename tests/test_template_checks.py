"""`Template.check`: problems of a template and of its first message, each with its place."""

from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Finding, Template
from rapidsmtp._compose.checks import CHECKS

HEAD = b"From: news@example.com\nTo: {{ email }}\nSubject: s\nMIME-Version: 1.0\n"
ROW = {"name": "Anna", "email": "anna@example.com", "url": "https://example.com/a"}
BULK = {"list-unsubscribe", "one-click", "plain-text", "alignment"}

pytestmark = pytest.mark.usefixtures("backend")


def check(body: str, kind: str = "text/html", header: bytes = b"", **values: Any) -> list[Finding]:
    """Return the findings of a message with one part, without those about bulk mail."""
    source = HEAD + header + f"Content-Type: {kind}; charset=utf-8\n\n{body}\n".encode()
    template = Template.from_eml(source)
    found = template.check(message=template.render(ROW | values))
    return [each for each in found if each.name not in BULK]


def names(findings: list[Finding]) -> list[str]:
    return [each.name for each in findings]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("encoded-field", '<a href="https://x.example/?t=%7B%7B token %7D%7D">x</a>'),
        ("encoded-field", '<a href="https://x.example/?t=%7b%7btoken%7d%7d">x</a>'),
        ("encoded-field", "<p>&#123;&#123; name &#125;&#125;</p>"),
        ("encoded-field", "<p>&#x7B;&#x7b;name&#x7D;&#x7D;</p>"),
        ("encoded-field", "<p>&lbrace;&lcub;name}}</p>"),
        ("encoded-field", "<p>{<b>{ name }</b>}</p>"),
        ("encoded-field", "<p>%7B%25 if x %25%7D</p>"),
        ("foreign-field", "<p>*|FNAME|*</p>"),
        ("foreign-field", "<p>*|LIST:UNSUB|*</p>"),
        ("foreign-field", "<p>[FIRST_NAME]</p>"),
        ("foreign-field", "<p>[First Name]</p>"),
        ("foreign-field", "<p>[[name]]</p>"),
        ("foreign-field", "<p>%%name%%</p>"),
        ("foreign-field", "<p>%FIRSTNAME%</p>"),
        ("foreign-field", "<p>{name}</p>"),
        ("foreign-field", "<p>${name}</p>"),
        ("foreign-field", "<p>{!Contact.FirstName}</p>"),
        ("foreign-field", "<p><%= name %></p>"),
        ("foreign-field", "<p>&lt;%= name %&gt;</p>"),
        ("foreign-field", "<p>«First_Name»</p>"),
        ("foreign-field", "<p>&lt;&lt;name&gt;&gt;</p>"),
        ("encoded-field", '<a href="https://x.example/?t=%257B%257Btoken%257D%257D">x</a>'),
        ("encoded-field", "<p>{ { name } }</p>"),
        ("encoded-field", "<p>{&nbsp;{name}}</p>"),
        ("encoded-field", "<p>\uff5b\uff5bname\uff5d\uff5d</p>"),
        ("foreign-field", "<p>[[First Name]]</p>"),
        ("foreign-field", "<p>&lt;&lt;First Name&gt;&gt;</p>"),
        ("foreign-field", "<p>[subscriber:firstname | default:reader]</p>"),
        ("foreign-field", "<p>%%=v(@name)=%%</p>"),
        ("foreign-field", "<p>%(any_name)s</p>"),
        ("foreign-field", "<p>{any_name}}</p>"),
        ("foreign-field", "<p><?php echo $any; ?></p>"),
        ("foreign-field", "<p>[% any %]</p>"),
        ("foreign-field", "<p>#name#</p>"),
        ("foreign-field", "<p>##FIRSTNAME##</p>"),
        ("foreign-field", "<p>%recipient.name%</p>"),
        ("foreign-field", "<p>[Vorname]</p>"),
        ("foreign-field", "<p>[*e-mail*]</p>"),
        ("foreign-field", "<p>{First Name}</p>"),
        ("foreign-field", "<p>{$name}</p>"),
        ("foreign-field", "<p>{name|upper}</p>"),
        ("foreign-field", "<p>|*NAME*|</p>"),
        ("foreign-field", "<p>@@name@@</p>"),
        ("foreign-field", "<p>__first_name__</p>"),
        ("foreign-field", "<p>Hi -name-,</p>"),
        ("foreign-field", "<p>$name</p>"),
        ("foreign-field", "<p>Dear <Vorname>,</p>"),
        ("foreign-field", "<p>Dear &lt;Vorname&gt;,</p>"),
        ("foreign-field", '<a href="https://x.example/?n=*%7CFNAME%7C*">x</a>'),
        ("foreign-field", '<a href="https://x.example/?n=%255BFIRST_NAME%255D">x</a>'),
        ("foreign-field", '<a href="*|UNSUB|*">x</a>'),
        ("foreign-field", '<a href="[unsubscribe_link]">x</a>'),
        ("script", '<iframe src="https://x.example/"></iframe>'),
        ("script", "<object></object>"),
        ("script", '<form action="https://x.example/"></form>'),
        ("script", '<base href="https://x.example/">'),
        ("comment", "<style>@media x{#a{color:red}} #b{c:d}#}</style>"),
        ("comment", "<p>{# <b>old</b> #}</p>"),
        ("control-character", "<p>it\x92s</p>"),
        ("missing-image", '<img src="cid:logo">'),
        ("missing-image", "<td background='cid:logo%40x'>"),
        ("missing-image", "<td style=\"background:url('cid:logo')\">"),
        ("relative-link", '<img src="logo.png">'),
        ("relative-link", '<a href="/news">x</a>'),
        ("relative-link", '<a href="//example.com/news">x</a>'),
        ("relative-link", '<a href="">x</a>'),
        ("relative-link", '<a href="www.example.com">x</a>'),
        ("relative-link", "<a href=news.html>x</a>"),
        ("relative-link", '<td style="background: url(images/a.png)">'),
        ("file-link", '<img src="file:///C:/logo.png">'),
        ("file-link", '<img src="C:\\logo.png">'),
        ("file-link", '<a href="\\\\server\\share">x</a>'),
        ("script", "<p>x</p>\n<script>alert(1)</script>"),
        ("script", '<SCRIPT src="https://x.example/a.js"></SCRIPT>'),
        ("stylesheet", '<link rel="stylesheet" href="https://x.example/a.css">'),
        ("stylesheet", "<link href=https://x.example/a.css rel=stylesheet>"),
    ],
)
def test_a_problem_is_found_once(name: str, text: str) -> None:
    (found,) = check(f"<p>{{{{ name }}}}</p>\n  {text}")
    assert found.name == name and found.part == "text/html part"
    assert found.line in (2, 3) and found.column >= 1
    assert str(found) == (
        f"text/html part, line {found.line}, column {found.column}: {found.text} [{name}]"
    )
    assert "\n" not in str(found) and found.text.isprintable()


def test_the_place_of_a_problem() -> None:
    (found,) = check('<p>ü</p>\n<p><a href="x.html">a</a> {{ name }}</p>')
    assert (found.line, found.column) == (2, 12)


@pytest.mark.parametrize(
    "text",
    [
        '<a href="https://example.com/a?b=%7B1%7D#c">x</a> <a href="#top">x</a>',
        '<a href="mailto:a@example.com">x</a> <a href="tel:+1">x</a> <a href="{{ url }}">x</a>',
        '<img src="data:image/png;base64,AAAA"> <img src="https://example.com/{{ name }}.png">',
        "<style>a{color:red} #b{c:d} .c{} @media x{ #a{b:c} }</style>",
        "<style>\n/* [FIRST_NAME] {name} */\n</style>",
        "<p>a {b: c} [x] [1] 100% of 50% {} src=x href=y 5 < 6 [OK]</p>",
        "{# a comment #}<p>{{ name }}</p>",
        '<script type="application/ld+json">{"@context": "https://schema.org"}</script>',
        '<link rel="icon" href="https://example.com/a.ico">',
        '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:v="urn:schemas-microsoft-com:vml">',
        "<p>2 &lt; 3 &amp; « bonjour » 100%</p>",
        '<!-- <script>x</script> <a href="x.html">{x}</a> [FIRST_NAME] #name# { {x} } -->',
        "<p>#news #name, #1# [1] [Unsubscribe] [name](https://x.example) 50%name 100% name %</p>",
        "<p>a-name-b a@name@b ab$name my__name__x $5 (name) |name| #other# %other% [other]</p>",
        '<p class="name" style="color:#fff;background:#eee"> -- name -- <title>name</title></p>',
        "{# name #}{#name#}<p>{{ '#name#' if false else 'x' }}</p>",
        '<a href="https://example.com/?q=e%CC%81%DE%AD%EF">x</a>',
    ],
)
def test_a_correct_text_has_no_finding(text: str) -> None:
    assert check(text) == []


@pytest.mark.parametrize("text", ["Dear [FIRST_NAME],", "Dear {name}", "%7B%7Bname%7D%7D"])
def test_plain_texts_and_headers_are_checked(text: str) -> None:
    (found,) = check(text, "text/plain")
    assert found.part == "text/plain part" and (found.line, found.column >= 1) == (1, True)
    (found,) = check("x", "text/plain", header=f"X-Greeting: {text}\n".encode())
    assert found.part == "header X-Greeting" and found.name.endswith("-field")


def test_a_value_can_be_the_problem() -> None:
    (found,) = check('<a href="{{ url }}">x</a>', url="example.com/a")
    assert found.name == "relative-link" and "href=example.com/a" in found.text
    assert check('<a href="{{ url }}">x</a>') == []


def test_without_a_message_only_the_source_is_checked() -> None:
    source = HEAD + b'Content-Type: text/html\n\n<a href="{{ url }}">[FIRST_NAME]</a>\n'
    assert names(Template.from_eml(source).check()) == ["foreign-field"]
    assert names(Template.from_eml(source).check(["email", "url"])) == ["foreign-field"]


def test_a_field_without_a_column_is_found() -> None:
    source = HEAD + b"Content-Type: text/plain\n\n{{ first_name }} {{ citty|default('x') }}\n"
    found = Template.from_eml(source).check(["email", "First Name", "city"])
    assert [each.text for each in found] == [
        "the list has no column for the field 'citty'; the most similar column is 'city'"
    ]
    assert names(found) == ["field-without-column"]


def test_columns_are_known_names() -> None:
    source = HEAD + b"Content-Type: text/html\n\n#Kunden-Nr# #Andere# [Ort] <title>Titel</title>\n"
    found = Template.from_eml(source).check(["email", "Kunden-Nr", "Ort", "title"])
    assert [each.text.partition(" ")[0] for each in found] == ["#Kunden-Nr#", "[Ort]"]


def test_outlook_shows_conditional_comments() -> None:
    (found,) = check("<!--[if mso]><p>{name}</p><![endif]--><!-- {name} --><p>{{ name }}</p>")
    assert (found.name, found.column) == ("foreign-field", 17)


def test_an_inline_image_is_found(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(b"x")
    template = Template.compose(
        sender="a@example.com", to="b@example.com", subject="s", text="t",
        html='<img src="cid:logo"><img src="CID:missing">', inline={"logo": tmp_path / "logo.png"},
    )  # fmt: skip
    found = template.check(message=template.render({}))
    assert [each.text for each in found if each.name not in BULK] == [
        "cid:missing has no inline image with this Content-ID; add the image"
    ]


def test_many_findings_are_counted() -> None:
    found = check("\n".join(f'<a href="{number}.html">x</a>' for number in range(20)))
    assert names(found) == ["relative-link"] * 6 and found[-1].text == "15 more such places"
    assert [each.line for each in found] == [1, 2, 3, 4, 5, 0]


def test_unprintable_characters_are_escaped() -> None:
    (found,) = check('<a href="\x1b[2Jx">x</a>')
    assert "\\x1b[2Jx" in found.text


def test_findings_about_bulk_mail_need_a_message() -> None:
    template = Template.from_eml(HEAD + b"Content-Type: text/html\n\n<p>x</p>\n")
    assert template.check() == []
    found = template.check(message=template.render(ROW))
    assert names(found) == ["list-unsubscribe", "one-click", "plain-text"]
    assert all(str(each) == f"{each.text} [{each.name}]" for each in found)


def test_every_check_has_a_name_that_does_not_change() -> None:
    assert list(CHECKS) == [
        "encoded-field", "field-without-column", "unfilled-field", "foreign-field", "comment",
        "control-character", "missing-image",
        "relative-link", "file-link", "script", "stylesheet", "list-unsubscribe", "one-click",
        "plain-text", "alignment",
    ]  # fmt: skip


def test_patterns_that_overlap_are_found() -> None:
    assert names(check("<p><<%= name %> %7B&#123;&#123;<<script></p>")) == [
        *("encoded-field", "foreign-field", "script"),
    ]


def test_a_value_of_an_attribute_has_no_attributes() -> None:
    text = """<p title='a src=x' class=a><b title="it's = src=x href='y'" lang="en">2 = "</b>"""
    assert check(text) == []
    assert names(check(f"{text}<img alt='a src=x' src=z>")) == ["relative-link"]


def test_places_do_not_depend_on_letters_that_change_their_length() -> None:
    found = check("<p>\u0130\u212a \U0001f600</p>\n <IMG SRC=a.png>")
    assert [(each.name, each.line, each.column) for each in found] == [("relative-link", 2, 11)]


def test_a_check_does_not_change_the_next_one() -> None:
    template = Template.from_eml(HEAD + b"Content-Type: text/html\n\n<img src='{{ url }}'>\n")
    first = template.render(ROW | {"url": "cid:a"})
    second = template.render(ROW)
    assert "missing-image" in names(template.check(message=first))
    assert "missing-image" not in names(template.check(message=second))
    assert template.check() == template.check()
