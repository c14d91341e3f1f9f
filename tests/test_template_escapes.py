"""Values in calendars, cards, JSON and RTF: a value stays data, in both backends."""

import email
import email.policy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidsmtp import Template, _backend

HEAD = "From: news@example.com\nTo: a@example.com\nSubject: s\nMIME-Version: 1.0\n"
C1 = "\x92"


def rendered(kind: str, text: str, value: Any) -> str:
    """Return the rendered part of a type, without its last line end."""
    source = f"{HEAD}Content-Type: {kind}\n\n{text}\n"
    data = Template.from_eml(source.encode()).render({"value": value}).data
    part: Any = email.message_from_bytes(data, policy=email.policy.default)
    content: str = part.get_payload(decode=True).decode()
    return content.replace("\r\n", "\n").removesuffix("\n")


@pytest.mark.parametrize("kind", ["text/calendar", "application/ics", "text/vcard", "text/x-vcard"])
@pytest.mark.parametrize(
    ("line", "value", "expected"),
    [
        ("SUMMARY:{{ value }}", "a, b; c\\d", "SUMMARY:a\\, b\\; c\\\\d"),
        ("SUMMARY:{{ value }}", "a\r\nATTENDEE:x\nb\rc", "SUMMARY:a\\nATTENDEE:x\\nb\\nc"),
        ("item1.NOTE:{{ value }}", "a;b", "item1.NOTE:a\\;b"),
        ("N:{{ value }};Anna", "Bo;Co", "N:Bo\\;Co;Anna"),
        ("URL:{{ value }}", "https://x.example/?a,b;c", "URL:https://x.example/?a,b;c"),
        ("X-A;VALUE=URI:{{ value }}", "a,b", "X-A;VALUE=URI:a,b"),
        ("DTSTART:{{ value }}", "20260101T100000Z", "DTSTART:20260101T100000Z"),
        ('ATTENDEE;CN="{{ value }}":mailto:a@x', 'B; "C" ^',
         "ATTENDEE;CN=\"B; ^'C^' ^^\":mailto:a@x"),
        ("ATTENDEE;CN={{ value }}:mailto:a@x", "Anna B", "ATTENDEE;CN=Anna B:mailto:a@x"),
        ("X-ALT-DESC;FMTTYPE=text/html:<p>{{ value }}</p>", "<b>,",
         "X-ALT-DESC;FMTTYPE=text/html:<p>&lt\\;b&gt\\;\\,</p>"),
        ("SUMM\n ARY:{{ va\n lue }}", "x", "SUMMARY:x"),
    ],
)  # fmt: skip
def test_a_value_in_a_calendar(
    backend: str, kind: str, line: str, value: str, expected: str
) -> None:
    assert rendered(kind, line, value) == expected


def test_a_calendar_is_folded(backend: str) -> None:
    text = rendered("text/calendar", "BEGIN:VEVENT\nSUMMARY:{{ value }}\nEND:VEVENT", "größe " * 40)
    assert all(len(line.encode()) <= 75 for line in text.splitlines())
    assert text.replace("\n ", "") == f"BEGIN:VEVENT\nSUMMARY:{'größe ' * 40}\nEND:VEVENT"


@pytest.mark.parametrize(
    ("kind", "line", "value", "error"),
    [
        ("text/calendar", "URL:{{ value }}", "a\nATTENDEE:b", "line break"),
        ("text/calendar", "{{ value }}", "A:b\nC:d", "line break"),
        ("text/calendar", "A;CN={{ value }}:b", "a:b", "'a:b' in a parameter needs quotes"),
        ("text/calendar", 'A;CN="{{ value }}":b', "\x00", "control character"),
        ("text/calendar", "SUMMARY:{{ value }}", "\x1b", "control character"),
        ("text/calendar", "SUMMARY:{{ value }}", C1, "control character"),
        ("application/json", '{"a": {{ value }}}', '1, "b": 2', "is no number in JSON"),
        ("application/rtf", "{\\rtf1 {{ value }}}", "\x01", "control character"),
        ("text/plain", "Dear {{ value }}", f"it{C1}s", "control character U\\+0092"),
        ("text/html", "<p>{{ value }}", f"it{C1}s", "control character U\\+0092"),
    ],
)
def test_a_value_that_is_refused(
    backend: str, kind: str, line: str, value: str, error: str
) -> None:
    with pytest.raises(ValueError, match=f"^{kind} part: .*{error}"):
        rendered(kind, line, value)


@pytest.mark.parametrize("field", ["Subject", "X-Own", "To"])
def test_c1_controls_are_refused_in_header_fields(backend: str, field: str) -> None:
    value = "{{ value }} <b@example.com>" if field == "To" else "{{ value }}"
    fields = {"From": "a@example.com", "To": "b@example.com", field: value}
    source = "".join(f"{name}: {text}\n" for name, text in fields.items()) + "\nx\n"
    template = Template.from_eml(source.encode())
    with pytest.raises(ValueError, match=f"header {field}: .*control character"):
        template.render({"value": f"it{C1}s"})


def test_a_text_with_own_c1_controls_is_rendered(backend: str) -> None:
    assert rendered("text/plain; charset=utf-8", f"it{C1}s {{{{ value }}}}", "x") == f"it{C1}s x"


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ('{"a": "{{ value }}"}', 'x"\\\n</script>', {"a": 'x"\\\n</script>'}),
        ('{"a\\"": "{{ value }}"}', "é😀\x01\u2028", {'a"': "é😀\x01\u2028"}),
        ('{"a": {{ value }}}', 12, {"a": 12}),
        ('{"a": {{ value }}}', -1.5, {"a": -1.5}),
        ('{"a": {{ value }}}', True, {"a": True}),
    ],
)
def test_a_value_in_json(backend: str, text: str, value: Any, expected: Any) -> None:
    written = rendered("application/json", text, value)
    assert json.loads(written) == expected and "</" not in written


@pytest.mark.parametrize("kind", ["text/rtf", "application/rtf"])
def test_a_value_in_rtf(backend: str, kind: str) -> None:
    written = rendered(kind, "{\\rtf1 {{ value }}\\par}", "a}\\b{\nü\t😀")
    assert written == "{\\rtf1 a\\}\\\\b\\{\\line \\u252?\\tab \\u-10179?\\u-8704?\\par}"


@pytest.mark.rust
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    value=st.text(
        st.sampled_from('a b,;:"\\^{}<>&\n\r\t\x00\x1b\x80\x9f\u2028é😀1.-e'),
        min_size=1, max_size=40,
    ),
    text=st.sampled_from(
        [
            ("text/calendar", "NOTE:{{ value }}x"),
            ("text/calendar", 'A;B="{{ value }}";C={{ value }}:{{ value }}'),
            ("text/calendar", "URL:{{ value }}\nX-A;VALUE=text:{{ value }}"),
            ("text/calendar", "A;FMTTYPE=text/html:{{ value }}"),
            ("application/json", '{"a": "{{ value }}"}'),
            ("application/json", "[{{ value }}]"),
            ("text/rtf", "{\\rtf1 {{ value }}}"),
            ("text/plain", "{{ value }}"),
        ]
    ),
)  # fmt: skip
def test_both_backends_escape_equally(value: str, text: tuple[str, str]) -> None:
    before = _backend.implementation
    results = []
    try:
        for backend in ("rust", "python"):
            _backend.use(backend)
            try:
                results.append(rendered(*text, value))
            except ValueError as error:
                results.append(str(error))
    finally:
        _backend.use(before)
    assert results[0] == results[1]
