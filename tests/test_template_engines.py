"""Random templates: both backends give the same text or the same error, and Jinja2 that text.

Jinja2 accepts more templates, and prints empty values. So an error of rapidsmtp alone is no fault.
"""

import copy
import email
import email.policy
from collections.abc import Callable
from functools import wraps
from typing import Any

import jinja2
import pytest
from hypothesis import HealthCheck, example, given, settings
from jinja2.sandbox import SandboxedEnvironment

from rapidsmtp._compose.pure_text import Text, plain
from rapidsmtp._compose.pure_values import is_empty
from template_grammar import ROW, TEMPLATES

pytestmark = pytest.mark.rust

PLAIN = {name: plain(value) for name, value in ROW.items()}
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def in_a_list(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the items of an iterator of Jinja2 in a list, as rapidsmtp does."""

    @wraps(function)
    def items(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        return result if isinstance(result, str) else list(result)

    return items


def default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Replace empty values too, as rapidsmtp does."""
    is_undefined = isinstance(value, jinja2.Undefined)
    return default_value if is_undefined or is_empty(value) or (boolean and not value) else value


def environment(kind: str) -> SandboxedEnvironment:
    made = SandboxedEnvironment(
        autoescape=kind == "html", undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    for name in (
        "batch", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr"
    ):  # fmt: skip
        made.filters[name] = in_a_list(made.filters[name])
    made.filters["default"] = made.filters["d"] = default
    made.globals["range"] = in_a_list(range)
    return made


ENVIRONMENTS = {kind: environment(kind) for kind in ("text", "html")}


def of_pure_python(source: str, kind: str) -> tuple[bool, str]:
    try:
        return True, Text(source, kind, "place").render(PLAIN)
    except ValueError as error:
        return False, str(error)


def of_rust(source: str, kind: str) -> tuple[bool, str]:
    native = pytest.importorskip("rapidsmtp._native")
    header = [("From", "a@example.com"), ("To", "b@example.com")]
    part = (f"text/{kind}; charset=utf-8", source, kind, "place", [])
    try:
        template = native.Template(header, [part])
        data = template.pending(copy.deepcopy(ROW), None, "date", "id", 1).render()[2]
    except ValueError as error:
        return False, str(error)
    message = email.message_from_bytes(data, policy=email.policy.default)
    # The body of a message ends with a line end.
    return True, message.get_content().replace("\r\n", "\n").removesuffix("\n")  # type: ignore


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(source=TEMPLATES)
@example(source="{% if missing %}a{% endif %}")
@example(source="{{ '%d'|safe % digits }}")
@example(source="{{ text|wordwrap(5) }}|{{ text|wordwrap(5, false) }}")
def test_the_engines_give_the_same_text_or_an_error(source: str) -> None:
    for kind in ("text", "html"):
        is_rendered, shown = of_pure_python(source, kind)
        assert of_rust(source, kind) == (is_rendered, shown.removesuffix("\n"))
        if is_rendered:
            assert ENVIRONMENTS[kind].from_string(source).render(copy.deepcopy(ROW)) == shown
