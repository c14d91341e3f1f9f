"""`text="auto"`: the plain text that is made from the HTML, with its fields and statements."""

import email
import email.policy
import re
import sys
from email.message import EmailMessage
from typing import Any

import pytest

from rapidsmtp import Template
from rapidsmtp._compose import plain_text as module
from rapidsmtp._compose.plain_text import plain_text

ROW = {"email": "anna@example.org", "name": "A & B <x>", "items": [1, 2], "vip": True}
# HTML, and its plain text.
CASES = {
    "paragraphs": ("<p>Hello\n  {{ name }},</p><p>a<br>b</p>", "Hello {{ name }},\n\na\nb"),
    "entities": ("<p>a &amp; b &lt;c&gt;&nbsp;&copy; {{ x }}</p>", "a & b <c> \xa9 {{ x }}"),
    "markup": ("<p><b>a</b> <i>b</i>_c_ *d* <code>e</code></p>", "a b_c_ *d* e"),
    "headings": ("<h1>Title {{ x }}</h1><h3>Sub</h3>text", "Title {{ x }}\n\nSub\n\ntext"),
    "link": (
        '<p><a href="https://x.example/{{ token }}?a=1&amp;b={{ b }}">Read on</a>.</p>',
        "Read on <https://x.example/{{ token }}?a=1&b={{ b }}>.",
    ),
    "link-address": ('<a href="{{ url }}">{{ url }}</a>', "{{ url }}"),
    "link-mailto": ('<a href="mailto:a@b.c?subject=x">a@b.c</a>', "a@b.c"),
    "link-anchor": ('<a href="#top">up</a> <a name="x">here</a>', "up here"),
    "link-image": (
        '<a href="https://x.example"><img src="a" alt="Shop"></a>', "Shop <https://x.example>",
    ),
    "link-without-text": ('<a href="https://x.example"><img src="a"></a>', "https://x.example"),
    "list": ("<ul><li>a</li><li>b<ol><li>c</li></ol></li></ul>", "- a\n- b\n  1. c"),
    "loop-in-list": (
        "<ul>{% for i in items %}\n<li>{{ i }}</li>\n{% endfor %}</ul><p>end</p>",
        "{% for i in items %}- {{ i }}\n{% endfor %}\nend",
    ),
    "loop-in-numbered-list": (
        "<ol>{% for i in items %}<li>{{ i }}</li>{% endfor %}</ol>",
        "{% for i in items %}- {{ i }}\n{% endfor %}",
    ),
    "loop-in-table": (
        "<table>{% for i in items %}<tr><td>{{ i }}</td><td>EUR</td></tr>{% endfor %}</table>",
        "{% for i in items %}{{ i }}  EUR\n{% endfor %}",
    ),
    "condition": (
        "<p>a</p>{% if vip %}<p>b</p>{% else %}<p>c</p>{% endif %}<p>d</p>",
        "a\n\n{% if vip %}b\n\n{% else %}c\n\n{% endif %}d",
    ),
    "condition-in-line": (
        "<p>{% if vip %}a{% else %}b{% endif %}!</p>", "{% if vip %}a{% else %}b{% endif %}!",
    ),
    "layout-table": (
        "<table><tr><td><table><tr><td><h1>a</h1><p>b<br>c</p></td></tr></table></td></tr></table>",
        "a\n\nb\nc",
    ),
    "not-shown": (
        "<head><title>t</title><style>p{}</style></head><!-- x --><script>y</script>"
        '<div style="display:none">z</div><p hidden>h</p><p>a</p>',
        "a",
    ),
    "hidden-by-statement": ('<p {% if a %}style="display:none"{% endif %}>b</p>', "b"),
    "statement-in-comment": (
        "<!-- {% if vip %} --><p>a</p><!-- {% endif %} -->", "{% if vip %}a\n\n{% endif %}",
    ),
    "statement-in-head": (
        "<head>{% set a = 1 %}<style>{% if vip %}p{}{% endif %}</style></head><p>{{ a }}</p>",
        "{% set a = 1 %}{% if vip %}{% endif %}{{ a }}",
    ),
    "statement-in-tag": ('<p {% if vip %}class="a"{% endif %}>b</p>', "b"),
    "statement-in-link": (
        '<a href="{% if vip %}https://a{% else %}https://b{% endif %}">c</a>',
        "c <{% if vip %}https://a{% else %}https://b{% endif %}>",
    ),
    "macro": (
        '{% macro b(u, t) %}<a href="{{ u }}">{{ t }}</a>{% endmacro %}<p>{{ b("x", "y") }}</p>',
        '{% macro b(u, t) %}{{ t }} <{{ u }}>{% endmacro %}\n\n{{ b("x", "y") }}',
    ),
    "comment": ("<p>a{# {{ x }} #}b</p>", "ab"),
    "braces": ("<p>&#123;&#123; x }} {<b>{{ y }}</b></p>", '{{ "{" }}{ x }} {{ "{" }}{{ y }}'),
    "raw": ("<p>{% raw %}{{ x }}{% endraw %}</p>", '{{ "{" }}{ x }}'),
    "strings": ("<p>{{ \"}}\" }} {{ '%}' }}</p>", "{{ \"}}\" }} {{ '%}' }}"),
    "filters": (
        "<p>{{ a|e }} {{ b|upper|safe }} {{ c|nl2br }} {{ 'x|e'|escape }} {{ d|default('e') }}</p>",
        "{{ a }} {{ b|upper }} {{ c }} {{ 'x|e' }} {{ d|default('e') }}",
    ),
    "quote": ("<p>a</p><blockquote>b</blockquote>", "a\n\n> b"),
    "preformatted": ("<pre>a\n  b</pre>", "a\n  b"),
    "empty": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_text_of(name: str) -> None:
    html, expected = CASES[name]
    assert plain_text(html).strip() == expected.strip()


def texts(template: Template, row: dict[str, Any] = ROW) -> tuple[str, str]:
    parsed = email.message_from_bytes(template.render(row).data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage) and parsed.get_content_type() == "multipart/alternative"
    plain, html = (part.get_content() for part in parsed.iter_parts())
    return plain.strip(), html.strip()


def composed(html: str | None) -> Template:
    return Template.compose(
        sender="n@example.com", to="{{ email }}", subject="s", text="auto", html=html
    )


HTML = (
    "<p>Dear {{ name }} &amp; all,</p>{% if vip %}<p>VIP</p>{% endif %}"
    "<ul>{% for i in items %}<li>{{ i }}</li>{% endfor %}</ul>"
)


def test_values_are_not_escaped_in_the_text(backend: str) -> None:
    plain, html = texts(composed(HTML))
    assert plain.replace("\r\n", "\n") == "Dear A & B <x> & all,\n\nVIP\n\n- 1\n- 2"
    assert "A &amp; B &lt;x&gt; &amp; all" in html
    assert "VIP" not in texts(composed(HTML), ROW | {"vip": False})[0]


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("macro", "statement-in-head")]
)
def test_each_text_is_a_template(backend: str, name: str) -> None:
    html, _ = CASES[name]
    template = composed(html or "x")
    fields = dict.fromkeys(template.required_fields, "v")
    texts(template, fields | ROW)


def test_a_message_file_gets_a_text(backend: str) -> None:
    head = b"From: n@example.com\nTo: {{ email }}\nSubject: s\n"
    source = head + b"Content-Type: text/html; charset=utf-8\n\n" + HTML.encode()
    expected = texts(composed(HTML))
    template = Template.from_eml(source, text="auto")
    assert texts(template)[0] == expected[0]
    message = email.message_from_bytes(source, policy=email.policy.default)
    assert texts(Template.from_message(message, text="auto"))[0] == expected[0]
    with pytest.raises(ValueError, match='text="auto": the message has a plain text already'):
        Template.from_eml(template.source(), text="auto")
    with pytest.raises(ValueError, match=r'text="auto" needs HTML, but the message has none'):
        Template.from_eml(head + b"Content-Type: image/png\n\nx", text="auto")
    with pytest.raises(ValueError, match='text must be "auto" or None'):
        Template.from_eml(source, text="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("html", "tag"),
    [
        ('<p {% if a %}title="x">b</p><p {% endif %}>c</p>', "{% endif %}"),
        ('<p title="{% if a %}">b</p>{% endif %}', "{% endif %}"),
        ('<p title="{% set b = 1 %}">{{ b }}</p>', "{% set b = 1 %}"),
        ("{% if a %}<p title='{% else %}'>b</p>{% endif %}", "{% else %}"),
    ],
)
def test_a_statement_that_the_text_would_lose_is_an_error(html: str, tag: str) -> None:
    error = f'text="auto": {tag} is inside a tag of the HTML, so the plain text cannot have it'
    with pytest.raises(ValueError, match=re.escape(error)):
        plain_text(html)


def test_wrong_syntax_is_reported_for_the_html(backend: str) -> None:
    for html in ("<p>{{ a</p>", "<p>{% if a %}</p>", "{{ ' }}"):
        with pytest.raises(ValueError, match=r"text/html part, line 1"):
            composed(html)


def test_it_needs_html(backend: str) -> None:
    with pytest.raises(ValueError, match='text="auto" needs html'):
        composed(None)


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdownify", None)
    module._converter.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"pip install rapidsmtp\[html\]"):
            plain_text("<p>a</p>")
    finally:
        module._converter.cache_clear()


def test_hostile_html_is_an_error_or_a_text() -> None:
    with pytest.raises(ValueError, match="the HTML is nested too deeply"):
        plain_text("<b>" * 5_000)
    with pytest.raises(ValueError, match="text/html part, line 1, column 1: "):
        plain_text("{{" * 20_000 + "'" * 20_000)
    assert plain_text("\uf8f25\uf8f3 a") == "5 a\n"
