"""The filters of templates in the pure-Python backend.

They give the same results as `src/message/text/filter.rs`, and as Jinja2's own functions, with two
exceptions. `default` also replaces empty values, because a cell of a CSV file cannot be undefined.
`nl2br` is not a filter of Jinja2. An empty field stays empty: `name|trim` is false in a condition,
and an error in an output.
"""

import json
import math
import re
import textwrap
import urllib.parse
from collections.abc import Callable, Sequence
from functools import cmp_to_key
from itertools import pairwise
from typing import Any, Final, TypeAlias

from jinja2 import filters as of_jinja
from markupsafe import Markup, escape

from rapidsmtp._compose.encode import RowError
from rapidsmtp._compose.pure_values import (
    MISSING,
    Blank,
    Budget,
    Dict,
    List,
    Tuple,
    bounded,
    check_key,
    compare,
    compared,
    equal,
    escaped,
    format_text,
    is_empty,
    item,
    items,
    not_iterable,
    operator,
    ordered,
    present,
    text,
    type_name,
)

_REQUIRED: Final = object()
_Function: TypeAlias = Callable[..., Any]
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": "\xa0"}


def apply(budget: Budget, name: str, value: Any, given: Sequence[Any]) -> Any:
    """Apply a filter, also to an empty field."""
    if isinstance(value, Blank) and name in _TRANSPARENT:
        return still_blank(value, FILTERS[name][1](budget, empty_text(value), *given))
    return FILTERS[name][1](budget, value, *given)


def empty_text(blank: Blank) -> str:
    if blank.empty is MISSING:
        blank.refuse()
    return blank.empty if isinstance(blank.empty, str) else ""


def still_blank(blank: Blank, result: Any) -> Blank:
    return Blank(blank.message, result, blank.is_condition)


def _not_accepted(name: str, value: Any) -> RowError:
    return RowError(f"the filter '{name}' does not accept a value of the type {type_name(value)}")


def size_of(name: str, value: Any) -> int:
    if not isinstance(value, int):
        raise RowError(f"the argument '{name}' must be an integer")
    return max(int(value), 0)


def _changed(change: Callable[[str], str]) -> _Function:
    def apply_change(budget: Budget, value: Any) -> str:
        source = text(budget, value)
        budget.work(len(source) // 16)
        changed = change(str(source))
        return Markup(changed) if isinstance(source, Markup) else changed

    return apply_change


def _abs(budget: Budget, value: Any) -> Any:
    present(value)
    if not isinstance(value, (int, float)):
        raise _not_accepted("abs", value)
    return bounded(abs(value))


def _batch(budget: Budget, value: Any, linecount: Any, fill_with: Any) -> Any:
    count = size_of("linecount", linecount)
    all_items = items(budget, value)
    if count == 0:
        raise RowError("the argument 'linecount' must be at least 1")
    rows = List()
    for start in range(0, len(all_items), count):
        row = all_items[start : start + count]
        if fill_with is not None and len(row) < count:
            budget.work(count // 2)
            row += [fill_with] * (count - len(row))
        budget.work(len(row) // 2)
        rows.append(List(row))
    return List(rows)


def _center(budget: Budget, value: Any, width: Any) -> str:
    size = size_of("width", width)
    budget.work(size // 64)
    source = text(budget, value)
    return source.center(size)


def _default(budget: Budget, value: Any, default_value: Any, boolean: Any) -> Any:
    if isinstance(value, Blank) or is_empty(value) or (boolean and not value):
        return default_value
    return value


def _dictsort(budget: Budget, value: Any, case_sensitive: Any, by: Any, reverse: Any) -> Any:
    present(value)
    if by not in ("key", "value"):
        raise RowError("the argument 'by' must be key or value")
    if not isinstance(value, Dict):
        raise _not_accepted("dictsort", value)
    keyed = [([_lower(pair[by == "value"], case_sensitive)], Tuple(pair)) for pair in value.items()]
    return List(_sorted(budget, keyed, reverse))


def _end(place: int) -> _Function:
    def end_of(budget: Budget, value: Any) -> Any:
        found = items(budget, value)
        if not found:
            message = "the list is empty, so it has no first or last item"
            return Blank(message, MISSING, is_condition=False)
        return found[place]

    return end_of


def _float(budget: Budget, value: Any, default: Any) -> Any:
    present(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def _indent(budget: Budget, value: Any, width: Any, first: Any, blank: Any) -> str:
    present(value)
    if not isinstance(value, str):
        raise _not_accepted("indent", value)
    by: str = width if isinstance(width, str) else " " * spent(budget, size_of("width", width))
    source = value
    lines = str(source).split("\n")
    budget.work(len(lines) * len(by) // 64 + len(source) // 64)
    whole = [
        (by if (first if at == 0 else blank or line) else "") + line
        for at, line in enumerate(lines)
    ]
    indented = "\n".join(whole)
    return Markup(indented) if isinstance(source, Markup) else indented


def spent(budget: Budget, size: int) -> int:
    budget.work(size // 64)
    return size


def _int(budget: Budget, value: Any, default: Any, base: Any) -> Any:
    present(value)
    if isinstance(value, float) and math.isinf(value):
        raise RowError("infinity and NaN are not integers")
    if isinstance(value, str):
        try:
            return bounded(int(value, base))
        except (TypeError, ValueError):
            pass
    try:
        return bounded(int(float(value) if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        return default


def pairs(budget: Budget, value: Any) -> Any:
    present(value)
    if not isinstance(value, Dict):
        raise _not_accepted("items", value)
    budget.work(len(value) // 2)
    return List(Tuple(pair) for pair in value.items())


def _join(budget: Budget, value: Any, d: Any, attribute: Any) -> str:
    parts = _attributes(budget, items(budget, value), attribute)
    is_markup = budget.escapes and any(isinstance(each, Markup) for each in (d, *parts))
    return joined(budget, parts, d, is_markup)


def joined(budget: Budget, parts: list[Any], glue: Any, is_markup: bool) -> str:
    convert: _Function = escaped if is_markup else text
    between = convert(budget, glue)
    texts = []
    for part in parts:
        texts.append(convert(budget, part))
        budget.work(1 + (len(texts[-1]) + len(between)) // 64)
    joined = str(between).join(texts)
    return Markup(joined) if is_markup else joined


def _attributes(budget: Budget, found: list[Any], attribute: Any) -> list[Any]:
    if attribute is None:
        return found
    return [path(each, attribute) for each in found]


def path(value: Any, attribute: Any) -> Any:
    """Return the value of an attribute such as `a.0.b`."""
    if not isinstance(attribute, str):
        return item(value, attribute, "?")
    for key in attribute.split("."):
        is_index = key.isascii() and key.isdigit()
        value = item(value, int(key) if is_index else str(key), str(key))
    return value


def _length(budget: Budget, value: Any) -> int:
    present(value)
    if not isinstance(value, (str, List, Tuple, Dict)):
        raise _not_accepted("length", value)
    return len(value)


def _lower(value: Any, case_sensitive: Any) -> Any:
    return str(value).lower() if isinstance(value, str) and not case_sensitive else value


def _extreme(sign: str) -> _Function:
    def extreme(budget: Budget, value: Any, case_sensitive: Any, attribute: Any) -> Any:
        best, best_key = MISSING, None
        for each in items(budget, value):
            key = each if attribute is None else path(each, attribute)
            key = _lower(present(key), case_sensitive)
            if best is MISSING or compare(budget, key, sign, best_key):
                best, best_key = each, key
        return _end(0)(budget, List(() if best is MISSING else (best,)))

    return extreme


def _nl2br(budget: Budget, value: Any) -> Markup:
    return Markup(str(escaped(budget, value)).replace("\n", "<br>\n"))


def _replace(budget: Budget, value: Any, old: Any, new: Any, count: Any) -> str:
    if count is not None and not isinstance(count, int):
        raise RowError("the argument 'count' must be an integer")
    source, before, by = text(budget, value), text(budget, old), text(budget, new)
    if not budget.escapes:
        source, before, by = str(source), str(before), str(by)
    elif (isinstance(before, Markup) or isinstance(by, Markup)) and not isinstance(source, Markup):
        source = escape(source)
    if isinstance(source, Markup):
        by = escape(by)
    result = replaced(budget, str(source), str(before), str(by), -1 if count is None else count)
    return Markup(result) if isinstance(source, Markup) else result


def replaced(budget: Budget, source: str, old: str, new: str, count: int) -> str:
    found = source.count(old)
    grown = (found if count < 0 else min(found, count)) * len(new)
    budget.work((len(source) + grown) // 64)
    return source.replace(old, new, count)


def _reverse(budget: Budget, value: Any) -> Any:
    present(value)
    if isinstance(value, str):
        return value[::-1]
    return List(reversed(items(budget, value)))


def _round(budget: Budget, value: Any, precision: Any, method: Any) -> Any:
    if method not in ("common", "ceil", "floor"):
        raise RowError("the argument 'method' must be common, ceil or floor")
    present(value)
    if not isinstance(value, (int, float)):
        raise _not_accepted("round", value)
    if method == "common":
        if precision is not None and not isinstance(precision, int):
            raise RowError("the precision of the filter 'round' must be an integer")
        if isinstance(value, float) and not math.isfinite(value) and precision is None:
            raise RowError("infinity and NaN are not integers")
        # Half of such a unit is larger than each integer of 128 bits.
        if isinstance(value, int) and precision is not None and precision < -38:
            return 0
        if isinstance(value, float) and precision is not None:
            if precision < -308:
                return math.copysign(0.0, value)
            if precision < 0 and math.isfinite(value) and abs(value) >= 2.0**127:
                raise RowError("the number of the filter 'round' is too large")
        return bounded(round(value, precision))
    unit = operator(budget, 10, "**", precision)
    scaled = operator(budget, value, "*", unit)
    if isinstance(scaled, float):
        if not math.isfinite(scaled):
            raise RowError("infinity and NaN are not integers")
        scaled = bounded(math.ceil(scaled) if method == "ceil" else math.floor(scaled))
    return operator(budget, scaled, "/", unit)


def _sort(budget: Budget, value: Any, reverse: Any, case_sensitive: Any, attribute: Any) -> Any:
    keyed = []
    for each in items(budget, value):
        if attribute is None:
            keys = [each]
        elif isinstance(attribute, str):
            keys = [path(each, name) for name in attribute.split(",")]
        else:
            keys = [path(each, attribute)]
        keyed.append(([_lower(key, case_sensitive) for key in keys], each))
    return List(_sorted(budget, keyed, reverse))


def _sorted(budget: Budget, keyed: list[tuple[list[Any], Any]], reverse: Any) -> list[Any]:
    """Sort items by their keys. The keys must be texts or numbers, so each two have an order."""
    for (first, _), (second, _) in pairwise(keyed):
        for one, other in zip(first, second, strict=True):
            for key in (one, other):
                present(key)
                is_number = isinstance(key, (int, float)) and not math.isnan(key)
                if not isinstance(key, str) and not is_number:
                    raise RowError(f"a value of the type {type_name(key)} cannot be sorted")
            ordered(budget, one, other)
    budget.work(len(keyed) * max(len(keyed), 1).bit_length())

    def order(one: tuple[list[Any], Any], other: tuple[list[Any], Any]) -> int:
        pairs = zip(one[0], other[0], strict=True)
        return next((each for pair in pairs if (each := ordered(budget, *pair))), 0)

    return [each for _, each in sorted(keyed, key=cmp_to_key(order), reverse=bool(reverse))]


def _striptags(budget: Budget, value: Any) -> str:
    """Remove comments and tags, join white space and replace entities, as MarkupSafe does."""
    source = str(text(budget, value))
    budget.work(len(source) // 8)
    parts, at = [], 0
    while (start := source.find("<", at)) >= 0:
        skip, end = (4, "-->") if source.startswith("<!--", start) else (1, ">")
        found = source.find(end, start + skip)
        if found < 0:
            break
        parts.append(source[at:start])
        at = found + len(end)
    joined = " ".join("".join((*parts, source[at:])).split())
    return re.sub("&([a-zA-Z0-9#]+);", _character, joined)


def _character(entity: re.Match[str]) -> str:
    name = entity[1]
    code = 0
    if re.fullmatch("#[0-9]{1,9}", name):
        code = int(name[1:])
    elif re.fullmatch("#[xX][0-9a-fA-F]{1,8}", name):
        code = int(name[2:], 16)
    elif name in _ENTITIES:
        code = ord(_ENTITIES[name])
    # HTML gives other meanings to control characters.
    if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
        raise RowError(f"the filter 'striptags' does not know '&{name};'")
    return chr(code)


def _sum(budget: Budget, value: Any, attribute: Any, start: Any) -> Any:
    if isinstance(start, str):
        raise _not_accepted("sum", start)
    for each in _attributes(budget, items(budget, value), attribute):
        budget.work(1)
        start = operator(budget, start, "+", each)
    return start


def _title(budget: Budget, value: Any) -> str:
    return str(of_jinja.do_title(text(budget, value)))


def _tojson(budget: Budget, value: Any, indent: Any) -> Markup:
    width = None if indent is None else min(size_of("indent", indent), 100)
    source = json.dumps(_for_json(budget, value), sort_keys=True, indent=width)
    budget.work(len(source) // 64)
    for character in "<>&'":
        source = source.replace(character, f"\\u{ord(character):04x}")
    return Markup(source)


def _for_json(budget: Budget, value: Any) -> Any:
    budget.work(1)
    if isinstance(value, Blank):
        value = compared(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("the filter 'tojson' does not accept infinity and NaN")
    if isinstance(value, Dict):
        if not all(isinstance(key, str) for key in value):
            raise RowError("the filter 'tojson' needs texts as keys")
        return {str(key): _for_json(budget, each) for key, each in value.items()}
    if isinstance(value, (List, Tuple)):
        return [_for_json(budget, each) for each in value]
    return str(value) if isinstance(value, str) else value


def _trim(budget: Budget, value: Any, chars: Any) -> str:
    return stripped(budget, "strip", value, chars)


def stripped(budget: Budget, method: str, value: Any, chars: Any) -> str:
    if chars is not None and not isinstance(chars, str):
        raise RowError("the argument 'chars' must be a text")
    source = text(budget, value)
    budget.work(len(source) * len(chars or "") // 64)
    stripped = getattr(str(source), method)(chars)
    return Markup(stripped) if isinstance(source, Markup) else stripped


def _truncate(
    budget: Budget, value: Any, length: Any, killwords: Any, end: Any, leeway: Any
) -> str:
    present(value)
    if not isinstance(value, str):
        raise _not_accepted("truncate", value)
    budget.work(len(value) // 16)
    size, last = size_of("length", length), text(budget, end)
    extra = 5 if leeway is None else size_of("leeway", leeway)
    if size < len(last):
        raise RowError("the argument 'length' is less than the length of 'end'")
    if len(value) <= size + extra:
        return value
    short = value[: size - len(last)]
    return (short if killwords else short.rsplit(" ", 1)[0]) + last


def _unique(budget: Budget, value: Any, case_sensitive: Any, attribute: Any) -> Any:
    seen: list[Any] = []
    kept = []
    for each in items(budget, value):
        key = _lower(each if attribute is None else path(each, attribute), case_sensitive)
        check_key(key)
        if not any(equal(budget, other, key) for other in seen):
            seen.append(key)
            kept.append(each)
    return List(kept)


def _urlencode(budget: Budget, value: Any) -> str:
    if isinstance(value, (List, Tuple, Dict)):
        pairs = [*value.items()] if isinstance(value, Dict) else []
        if not isinstance(value, Dict):
            for each in items(budget, value):
                pair = items(budget, each)
                if len(pair) != 2:
                    raise not_iterable(each)
                pairs.append((pair[0], pair[1]))
        return "&".join(
            f"{_quote(budget, key, is_query=True)}={_quote(budget, each, is_query=True)}"
            for key, each in pairs
        )
    return _quote(budget, value, is_query=False)


def _quote(budget: Budget, value: Any, is_query: bool) -> str:
    source = text(budget, value)
    budget.work(1 + len(source) // 16)
    quoted = urllib.parse.quote(str(source), "" if is_query else "/")
    return quoted.replace("%20", "+") if is_query else quoted


def _wordcount(budget: Budget, value: Any) -> int:
    return len(re.findall(r"\w+", text(budget, value)))


def _wordwrap(
    budget: Budget, value: Any, width: Any, words: Any, wrapstring: Any, hyphens: Any
) -> str:
    present(value)
    if not isinstance(value, str):
        raise _not_accepted("wordwrap", value)
    budget.work(len(value) // 4)
    size = size_of("width", width)
    if size == 0:
        raise RowError("the argument 'width' must be at least 1")
    glue = "\n" if wrapstring is None else text(budget, wrapstring)
    wrapper = textwrap.TextWrapper(
        width=size,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=bool(words),
        break_on_hyphens=bool(hyphens),
    )
    lines = []
    for line in str(value).splitlines():
        parts = wrapper.wrap(line)
        budget.work(len(parts) * len(glue) // 64)
        lines.append(glue.join(parts))
    wrapped = glue.join(lines)
    return wrapped if budget.escapes else str(wrapped)


def _map(budget: Budget, value: Any, attribute: Any, default: Any) -> Any:
    found = _attributes(budget, items(budget, value), attribute)
    if default is not None:
        found = [default if isinstance(each, Blank) else each for each in found]
    return List(found)


def each(budget: Budget, value: Any, name: str, given: Sequence[Any]) -> Any:
    """Apply a filter to each item: the filter `map`."""
    return List(apply(budget, name, one, given) for one in items(budget, value))


def map_attribute(budget: Budget, value: Any, attribute: Any, default: Any) -> Any:
    """Return an attribute of each item: the filter `map`."""
    return _map(budget, value, attribute, default)


def format_filter(budget: Budget, value: Any, given: Any) -> str:
    """Return `value % given`: the filter `format`."""
    present(value)
    return format_text(budget, text(budget, value), given)


FILTERS: dict[str, tuple[dict[str, Any], _Function]] = {
    "abs": ({}, _abs),
    "batch": ({"linecount": _REQUIRED, "fill_with": None}, _batch),
    "capitalize": ({}, _changed(str.capitalize)),
    "center": ({"width": 80}, _center),
    "count": ({}, _length),
    "d": ({"default_value": "", "boolean": False}, _default),
    "default": ({"default_value": "", "boolean": False}, _default),
    "dictsort": ({"case_sensitive": False, "by": "key", "reverse": False}, _dictsort),
    "e": ({}, escaped),
    "escape": ({}, escaped),
    "first": ({}, _end(0)),
    "float": ({"default": 0.0}, _float),
    "indent": ({"width": 4, "first": False, "blank": False}, _indent),
    "int": ({"default": 0, "base": 10}, _int),
    "items": ({}, pairs),
    "join": ({"d": "", "attribute": None}, _join),
    "last": ({}, _end(-1)),
    "length": ({}, _length),
    "list": ({}, lambda budget, value: List(items(budget, value))),
    "lower": ({}, _changed(str.lower)),
    "max": ({"case_sensitive": False, "attribute": None}, _extreme(">")),
    "min": ({"case_sensitive": False, "attribute": None}, _extreme("<")),
    "nl2br": ({}, _nl2br),
    "replace": ({"old": _REQUIRED, "new": _REQUIRED, "count": None}, _replace),
    "reverse": ({}, _reverse),
    "round": ({"precision": 0, "method": "common"}, _round),
    "safe": ({}, lambda budget, value: Markup(text(budget, value))),
    "sort": ({"reverse": False, "case_sensitive": False, "attribute": None}, _sort),
    "string": ({}, text),
    "striptags": ({}, _striptags),
    "sum": ({"attribute": None, "start": 0}, _sum),
    "title": ({}, _title),
    "tojson": ({"indent": None}, _tojson),
    "trim": ({"chars": None}, _trim),
    "truncate": ({"length": 255, "killwords": False, "end": "...", "leeway": None}, _truncate),
    "unique": ({"case_sensitive": False, "attribute": None}, _unique),
    "upper": ({}, _changed(str.upper)),
    "urlencode": ({}, _urlencode),
    "wordcount": ({}, _wordcount),
    "wordwrap": (
        {"width": 79, "break_long_words": True, "wrapstring": None, "break_on_hyphens": True},
        _wordwrap,
    ),
}
"""The filters: the parameters with their defaults, and the function."""

_TRANSPARENT = frozenset(
    """
    capitalize count float int length list lower string striptags title trim upper wordcount
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)

REQUIRED = _REQUIRED
"""The default of a parameter that has no default."""
