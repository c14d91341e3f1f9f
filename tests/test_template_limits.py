"""Missing values, error texts and limits of templates, on both backends."""

import math
from decimal import Decimal
from email.message import EmailMessage
from typing import Any

import pytest

from rapidsmtp import Message, Outcome, Status, Template

MEGABYTE = "{% for i in range(1000) %}{{ x }}{% endfor %}"
ROW = {"x": "x" * 999 + "\n"}

pytestmark = pytest.mark.usefixtures("backend")


class NotATime:
    """A missing time of pandas: it is not equal to itself."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "NaT"


class Ambiguous:
    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


class NotAvailable:
    """A missing value of pandas: its comparisons have no truth value."""

    def __eq__(self, other: object) -> Any:
        return Ambiguous()

    __ne__ = __eq__
    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "<NA>"


class NumpyFloat(float):
    """A number of numpy: its class is a subclass of float."""


EMPTY = [
    None,
    "",
    " \t\n",
    "\u200b\u2060\ufeff",
    "\xad",
    math.nan,
    NumpyFloat("nan"),
    Decimal("NaN"),
    Decimal("sNaN"),
    NotATime(),
    NotAvailable(),
]


def name_of(value: Any) -> str:
    """Return the name of a test, which is the same in every process."""
    return f"{type(value).__name__} {str(value)!a}"


def compose(text: str, **more: Any) -> Template:
    return Template.compose(
        sender="a@example.com", to="b@example.com", subject="s", text=text, **more
    )


def merged(template: Template, row: dict[str, Any]) -> Message | Outcome:
    (result,) = template.merge([row])
    assert isinstance(result, (Message, Outcome))
    return result


def reason(template: Template, row: dict[str, Any]) -> str:
    result = merged(template, row)
    assert isinstance(result, Outcome) and result.status is Status.INVALID
    return result.reason


@pytest.mark.parametrize("value", EMPTY, ids=name_of)
@pytest.mark.parametrize(
    "text", ["Dear {{ name }},", "{{ 'Dear ' ~ name }}", "{{ name|upper }}", "{{ [name]|join }}"]
)
def test_an_empty_value_makes_the_row_invalid(text: str, value: Any) -> None:
    assert "the field 'name' is empty" in reason(compose(text), {"name": value})


@pytest.mark.parametrize("value", EMPTY, ids=name_of)
def test_a_default_replaces_an_empty_value(value: Any) -> None:
    text = (
        "Dear {{ name|default('friend') }}{{ name or '!' }}{% if name %}x{% endif %}"
        "{{ name is defined }}{% if name|trim %}y{% endif %}"
    )
    message = merged(compose(text), {"name": value})
    assert isinstance(message, Message) and b"Dear friend!False\r\n" in message.data


def test_an_empty_value_in_a_dict_makes_the_row_invalid() -> None:
    template = compose("{% for each in orders %}{{ each.title }}{% endfor %}")
    row = {"orders": [{"title": "a"}, {"title": math.nan}]}
    assert "the field 'each.title' is empty" in reason(template, row)


def test_a_number_that_is_zero_is_not_empty() -> None:
    message = merged(compose("{{ a }}{{ b }}{{ c }}"), {"a": 0, "b": False, "c": Decimal(0)})
    assert isinstance(message, Message) and b"0False0" in message.data


@pytest.mark.parametrize(
    ("tag", "cure"),
    [
        ("{{ name|default(&quot;you&quot;) }}", "&quot;"),
        ("{{&nbsp;name }}", "&nbsp;"),
        ("{% if name == \u201cx\u201d %}{% endif %}", "plain quote"),
        ("{{ name|foo }}", "the filter 'foo' is not allowed"),
    ],
)
def test_an_error_in_a_long_line_has_its_column_and_an_excerpt(tag: str, cure: str) -> None:
    with pytest.raises(ValueError, match="text/html part, line 1, column 603: ") as caught:
        compose("t", html="<p>" * 200 + "é " + tag + "<p>" * 200)
    assert cure in str(caught.value) and tag[:40] in str(caught.value)


def test_all_texts_and_headers_of_a_message_share_a_budget() -> None:
    half = MEGABYTE.replace("1000", "34_000")
    assert "too long" in reason(compose(half, html=half), ROW)
    row = {"x": "x" * 1000}
    headers = {"X-Long": MEGABYTE.replace("1000", "70_000")}
    assert "header X-Long: the rendered texts" in reason(compose("t", headers=headers), row)
    assert isinstance(merged(compose(MEGABYTE), ROW), Message)


def test_a_message_of_many_large_parts_is_invalid() -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "s"
    message.set_content("text")
    for _ in range(120):
        message.add_attachment(MEGABYTE.replace("1000", "34_000"), disposition="inline")
    assert "too long" in reason(Template.from_message(message), ROW)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 10 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'a'|center(10 ** 9) }}",
        "{{ ('a' * 10 ** 7)|replace('a', 'a' * 100) }}",
        "{{ ('a' * 10 ** 7)|join('-' * 100) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set s = [1] %}" + "{% set s = [s, s] %}" * 50 + "{{ s }}",
        "{% set s = 'ab' %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 60 + "{{ s }}",
        "{% macro m0() %}{% endmacro %}"
        + "".join(
            f"{{% macro m{at}() %}}{{{{ m{at - 1}() }}}}{{{{ m{at - 1}() }}}}{{% endmacro %}}"
            for at in range(1, 40)
        )
        + "{{ m39() }}",
    ],
)  # fmt: skip
def test_the_work_for_a_row_is_bounded(text: str) -> None:
    assert ("too many steps" in (text := reason(compose(text), {}))) or "too l" in text


def test_a_template_of_many_elif_is_refused() -> None:
    for count in (251, 20_000):
        with pytest.raises(ValueError, match="more than 250 'elif'"):
            compose("{% if no %}" + "{% elif no %}a" * count + "{% endif %}")
    countries = "".join(f"{{% elif c == '{number}' %}}{number}" for number in range(249))
    message = merged(compose("{% if no %}" + countries + "{% endif %}"), {"no": 0, "c": "248"})
    assert isinstance(message, Message) and b"\r\n248\r\n" in message.data
