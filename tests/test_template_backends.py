"""On both backends, `Template` and `email.message` write messages that are equal when parsed."""

import email
import email.policy
import string
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rapidsmtp import Message, Template, _backend

STRICT = email.policy.default.clone(raise_on_defect=True)

pytestmark = pytest.mark.rust


@pytest.fixture(autouse=True)
def both_backends() -> Iterator[None]:
    before = _backend.implementation
    yield
    _backend.use(before)


def texts(most: int, more: str = "") -> st.SearchStrategy[str]:
    """Return texts in many scripts, with special characters of headers, HTML and SMTP."""
    letters = st.one_of(
        st.sampled_from(string.ascii_letters + string.digits + " " * 12 + more),
        st.sampled_from(".,;:<>()[]@\"'\\&=?_-/{}%#!|*+~^`$"),
        st.characters(min_codepoint=0xA0, exclude_categories=("Cs", "Co", "Cc", "Zl", "Zp")),
    )
    return st.text(letters, max_size=most)


# Every row has all fields. A separate test covers empty fields.
NAMES = texts(120).filter(lambda text: text.strip())
BODIES = texts(2000, "\n\n\t.").filter(lambda text: text.strip())
ATOMS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20)
ROWS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "subject": NAMES,
        "email": st.builds("{}@{}.example".format, ATOMS, ATOMS),
        "text": BODIES,
        "token": ATOMS,
    }
)


def template() -> Template:
    return Template.compose(
        sender='"News, Büro" <news@example.com>',
        to="{{ name }} <{{ email }}>",
        subject="{{ subject }}",
        text="{{ text }}\n",
        html="<p>{{ text }}</p>\n",
        reply_to="reply+{{ token }}@example.com",
        headers={"List-Unsubscribe": "<https://example.com/{{ token }}>", "X-Name": "{{ name }}"},
    )


def row(**changes: Any) -> dict[str, Any]:
    whole = {"name": "A", "subject": "S", "email": "a@b.example", "text": "t", "token": "t"}
    return whole | changes


def on(backend: str, row: dict[str, Any], make: Any = template) -> Message | str:
    """Return the message that a backend renders for a row, or the text of the error."""
    _backend.use(backend)
    try:
        return make().render(row)  # type: ignore[no-any-return]
    except ValueError as error:
        return str(error)


def shown(message: Message) -> dict[str, Any]:
    """Return the header fields and the parts of a message, without its random values."""
    parsed = email.message_from_bytes(message.data, policy=STRICT)
    assert isinstance(parsed, EmailMessage)
    for line in message.data.split(b"\r\n"):
        assert len(line) <= 998 and b"\r" not in line and b"\n" not in line
    header = [
        (name, str(value)) for name, value in parsed.items() if name not in ("Date", "Message-ID")
    ]
    return {
        "envelope": (message.sender, message.recipients, message.mail_options),
        "header": [(name, spaceless(value)) for name, value in header if name != "Content-Type"],
        "addresses": [
            (
                name,
                [(spaceless(each.display_name), each.addr_spec) for each in parsed[name].addresses],
            )
            for name in ("From", "To", "Reply-To")
            if name in parsed
        ],
        "parts": [part_of(part) for part in parsed.walk()],
    }


def spaceless(text: str) -> str:
    """Remove white space, because `email` may read a space at a fold or after an encoded word."""
    return "".join(text.split())


def part_of(part: Any) -> tuple[Any, ...]:
    content = None
    if not part.is_multipart():
        content = part.get_content()
        if isinstance(content, str):
            content = content.replace("\r\n", "\n").rstrip("\n")
    return (
        part.get_content_type(),
        part.get_content_disposition(),
        part.get_filename(),
        part["Content-Transfer-Encoding"],
        content,
    )


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(values=ROWS)
@example(values=row(name="x" * 300, subject="é" * 200, text=".."))
@example(values=row(name="=?utf-8?q?a?=", subject="=?", text="\n.\n"))
@example(values=row(name='A "B" \\', subject=" a ", text="x" * 2000))
def test_both_backends_render_the_same_message(values: dict[str, Any]) -> None:
    compiled, plain = on("rust", values), on("python", values)
    if isinstance(compiled, str) or isinstance(plain, str):
        assert compiled == plain
    else:
        assert shown(compiled) == shown(plain)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(values=ROWS)
def test_a_merged_message_equals_that_of_email(values: dict[str, Any]) -> None:
    merged = on("rust", values)
    assert isinstance(merged, Message), merged
    parsed = email.message_from_bytes(merged.data, policy=STRICT)
    expected = EmailMessage()
    expected.set_content(values["text"] + "\n")
    assert " ".join(str(parsed["Subject"]).split()) == " ".join(values["subject"].split())
    (mailbox,) = parsed["To"].addresses
    assert mailbox.addr_spec == values["email"]
    assert spaceless(mailbox.display_name) == spaceless(values["name"])
    text, html = parsed.iter_parts()
    same_lines(text.get_content(), expected.get_content())
    escaped = values["text"]
    for character, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "#34"), ("'", "#39")):
        escaped = escaped.replace(character, f"&{name};")
    same_lines(html.get_content(), f"<p>{escaped}</p>\n")


def same_lines(one: str, other: str) -> None:
    assert one.splitlines() == other.splitlines()


BROKEN: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "  "},
    {"name": None},
    {"name": "a\nb"},
    {"name": "a\rb"},
    {"name": "a\0b"},
    {"name": "a\u2028b"},
    {"subject": "a\n b"},
    {"email": "nobody"},
    {"email": "a@b, c@d"},
    {"email": "a b@c"},
    {"email": "a@b@c"},
    {"email": "@b"},
    {"email": "a@"},
    {"email": "a@-"},
    {"email": "a@b..c"},
    {"email": "<a@b>"},
    {"email": "é@example.com"},
    {"email": "a@münchen.example"},
    {"email": "a@" + "b" * 300},
    {"email": "a@faß.example"},
    {"email": "a@xn--\u00fc.example"},
    {"token": "a b"},
    {"token": "a>b"},
    {"token": "a\nb"},
    {"token": "é"},
    {"token": "x" * 1200},
    {"text": "a\ud800b"},
    {"text": 12345678901234567890123},
    {"text": 1.0},
    {"text": 1e16},
    {"text": float("nan")},
    {"text": True},
    {"text": [1, "two", None, {"three": 3.5}]},
    {"text": b"bytes"},
]


@pytest.mark.parametrize("change", BROKEN, ids=repr)
def test_both_backends_give_the_same_error_for_an_invalid_row(change: dict[str, Any]) -> None:
    changed = row(**change)
    compiled, plain = on("rust", changed), on("python", changed)
    if isinstance(compiled, str) or isinstance(plain, str):
        assert compiled == plain
    else:
        assert shown(compiled) == shown(plain)


@pytest.mark.parametrize("missing", ["name", "subject", "email", "text", "token"])
def test_both_backends_give_the_same_error_for_a_missing_field(missing: str) -> None:
    short = row()
    del short[missing]
    compiled, plain = on("rust", short), on("python", short)
    assert compiled == plain and isinstance(compiled, str) and missing in compiled
