"""The filters `format`, `truncate` and `wordwrap` of the pure-Python backend."""

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from rapidsmtp._compose.encode import RowError
from rapidsmtp._compose.pure_values import Budget, escaped, joined, present, size, text

_DIRECTIVE = re.compile(
    r"%(?:(?P<percent>%)|(?P<form>[-0+]*(?P<width>[0-9]{0,9})(?:\.(?P<precision>[0-9]{0,9}))?)"
    r"(?P<kind>.?))",
    re.DOTALL,
)


def format_text(budget: Budget, template: Any, values: Sequence[Any]) -> str:
    """Return `template % values`, with the directives `%s`, `%d`, `%f` and `%%`."""
    present(template)
    source = text(budget, template)
    is_markup = isinstance(source, Markup)
    unfit = RowError("the values do not fit the directives %s, %d and %f of the format")
    rest = iter(values)

    def piece(directive: re.Match[str]) -> str:
        if directive["percent"]:
            return "%"
        form, kind, precision = directive["form"], directive["kind"], directive["precision"]
        if kind.isdigit():
            raise unfit
        budget.work(1 + (int(directive["width"] or 0) + int(precision or 0)) // 16)
        try:
            value: Any = present(next(rest))
        except StopIteration:
            raise unfit from None
        is_number = isinstance(value, (int, float)) and math.isfinite(value)
        if kind == "s" and not isinstance(value, (list, tuple, dict)):
            value = str(escaped(budget, value) if is_markup else text(budget, value))
        elif kind == "d" and is_number and precision is None and abs(value) < 1e38:
            value = int(value)
        elif kind != "f" or not is_number:
            raise unfit
        return f"%{form}{kind}" % (value,)

    result = _DIRECTIVE.sub(piece, str(source))
    if next(rest, unfit) is not unfit:
        raise unfit
    return Markup(result) if is_markup else result


def truncate(budget: Budget, value: Any, length: Any, kills: Any, end: Any, leeway: Any) -> str:
    """Return Jinja2's `truncate`."""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise RowError(f"the filter 'truncate' does not accept a value of the type {kind}")
    budget.work(len(value) // 16)
    most, extra, last = size("length", length), size("leeway", leeway), text(budget, end)
    if most < len(last):
        raise RowError("the argument 'length' is less than the length of 'end'")
    if len(value) <= most + extra:
        return value
    short = value[: most - len(last)]
    short = short if kills else short.rsplit(" ", 1)[0]
    return joined(budget, [short, last], "", isinstance(short, Markup) or isinstance(last, Markup))


def word_wrap(
    budget: Budget, value: Any, width: Any, words: Any, wrapstring: Any, hyphens: Any
) -> str:
    """Return Jinja2's `wordwrap`."""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise RowError(f"the filter 'wordwrap' does not accept a value of the type {kind}")
    budget.work(len(value) // 4)
    most = size("width", width)
    if most == 0:
        raise RowError("the argument 'width' must be at least 1")
    glue = text(budget, wrapstring)
    wrapper = textwrap.TextWrapper(
        width=most,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=bool(words),
        break_on_hyphens=bool(hyphens),
    )
    lines = []
    for line in str(value).splitlines():
        # A long word is copied for each of its lines.
        longest = max(map(len, re.split("[ \t-\r]", line)))
        budget.work(longest // most * longest // 64)
        parts = wrapper.wrap(line)
        budget.work(len(parts) * len(glue) // 64)
        lines.append(str(glue).join(parts))
    wrapped = str(glue).join(lines)
    return Markup(wrapped) if budget.escapes and isinstance(glue, Markup) else wrapped
