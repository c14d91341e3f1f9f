"""The filters, methods and tests of templates in the pure-Python backend.

They give the same results as `src/message/text/function.rs`, and as Jinja2 and Python, with two
exceptions. `default` also replaces empty values, because a cell of a CSV file cannot be undefined.
`nl2br` is not a filter of Jinja2.
"""

import math
import re
import unicodedata
import urllib.parse
from collections.abc import Callable
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

from jinja2 import filters as of_jinja
from markupsafe import Markup, escape

from rapidsmtp._compose.encode import RowError
from rapidsmtp._compose.pure_format import truncate, word_wrap
from rapidsmtp._compose.pure_operators import check_order, compare, item, number, operator
from rapidsmtp._compose.pure_values import (
    LARGEST,
    MISSING,
    SMALLEST,
    Blank,
    Budget,
    compared,
    escaped,
    field,
    is_empty,
    items,
    joined,
    needed,
    present,
    shown,
    size,
    text,
)

REQUIRED: Final = object()
"""The default of a parameter that has no default."""

_Function: TypeAlias = Callable[..., Any]
_RANGE = 100_000
"""The maximum number of items of `range`."""
_ENTITIES = {"amp": 0x26, "lt": 0x3C, "gt": 0x3E, "quot": 0x22, "apos": 0x27, "nbsp": 0xA0}


class Function(NamedTuple):
    """A filter, a method (`.name`), a test (`?name`) or a function (`name()`).

    Attributes:
        parameters: The parameters with their defaults. A name with a space cannot be used for a
            named argument.
        function: Gets the budget, the value and the arguments.
        blanks: What the function does with a blank: "refuse" it, "keep" it (the result for an
            empty field is empty too), or "accept" it.
    """

    parameters: dict[str, Any]
    function: _Function
    blanks: str = "refuse"


def apply(budget: Budget, name: str, value: Any, *given: Any) -> Any:
    """Apply a function, also to an empty field."""
    _, function, blanks = FUNCTIONS[name]
    budget.work(1 + (len(value) // 64 if isinstance(value, str) else 0))
    if blanks == "accept":
        return function(budget, value, *given)
    for each in given:
        present(each)
    if isinstance(value, Blank) and blanks == "keep":
        empty = compared(value)
        result = function(budget, empty if isinstance(empty, str) else "", *given)
        return Blank(value.message, result, value.is_condition)
    present(value)
    if name[0] == ".":
        kind = dict if name in (".get", ".items", ".keys", ".values") else str
        if not isinstance(value, kind):
            type_name = type(value).__name__
            raise RowError(f"a value of the type {type_name} has no method '{name[1:]}'")
    return function(budget, value, *given)


def _not_accepted(callee: str, value: Any) -> RowError:
    return RowError(f"the {callee} does not accept a value of the type {type(value).__name__}")


def _changed(change: Callable[[str], str]) -> _Function:
    def apply_change(budget: Budget, value: Any) -> str:
        source = text(budget, value)
        budget.work(len(source) // 16)
        changed = change(str(source))
        return Markup(changed) if isinstance(source, Markup) else changed

    return apply_change


def _abs(budget: Budget, value: Any) -> Any:
    if not isinstance(value, (int, float)):
        raise _not_accepted("filter 'abs'", value)
    return _bounded(abs(value))


def _bounded(integer: Any) -> Any:
    if isinstance(integer, int) and not SMALLEST <= integer <= LARGEST:
        raise RowError("an integer of the template is too large")
    return integer


def _batch(budget: Budget, value: Any, linecount: Any, fill_with: Any) -> Any:
    count, found = size("linecount", linecount), items(budget, value)
    # Repeated batches would nest lists without a limit.
    if count == 0 or any(isinstance(each, (list, tuple)) for each in found):
        raise RowError("the filter 'batch' needs a count, and items that are no lists")
    rows = [found[start : start + count] for start in range(0, len(found), count)]
    if fill_with is not None and rows:
        budget.work(count // 2)
        rows[-1] += [fill_with] * (count - len(rows[-1]))
    return rows


def _center(budget: Budget, value: Any, width: Any) -> str:
    most = size("width", width)
    budget.work(most // 64)
    return text(budget, value).center(most)


def _default(budget: Budget, value: Any, default_value: Any, boolean: Any) -> Any:
    if isinstance(value, Blank) or is_empty(value) or (boolean and not value):
        return default_value
    return value


def _end(place: int) -> _Function:
    def end_of(budget: Budget, value: Any) -> Any:
        found = items(budget, value)
        if not found:
            message = "the list is empty, so it has no first or last item"
            return Blank(message, MISSING, is_condition=False)
        return found[place]

    return end_of


def _parsed(value: Any) -> float | None:
    if isinstance(value, str):
        # Python also reads the digits of other scripts, and underscores.
        for character in value:
            is_other = not character.isascii() and unicodedata.category(character)[0] == "N"
            if character == "_" or is_other:
                raise RowError("a number in a text must have the digits 0 to 9 only")
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _float(budget: Budget, value: Any, default: Any) -> Any:
    parsed = _parsed(value)
    return default if parsed is None else parsed


def _int(budget: Budget, value: Any, default: Any) -> Any:
    parsed = _parsed(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str) and re.fullmatch("[-+]?[0-9]+", value.strip()):
        return _bounded(int(value))
    if parsed is None or not math.isfinite(parsed):
        return default
    if abs(parsed) >= 1e38:
        raise RowError("an integer of the template is too large")
    return int(parsed)


def _pairs(budget: Budget, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _not_accepted("filter 'items'", value)
    budget.work(len(value) // 2)
    return list(value.items())


def _join(budget: Budget, value: Any, d: Any, attribute: Any) -> str:
    parts = _attributes(budget, value, attribute)
    is_markup = budget.escapes and any(isinstance(each, Markup) for each in (d, *parts))
    return joined(budget, parts, d, is_markup)


def _attributes(budget: Budget, value: Any, attribute: Any) -> list[Any]:
    found = items(budget, value)
    return found if attribute is None else [_path(each, attribute) for each in found]


def _path(value: Any, attribute: Any) -> Any:
    """Return the value of an attribute such as `a.0.b`."""
    if not isinstance(attribute, str):
        return item(value, attribute, "?")
    for key in attribute.split("."):
        is_index = key.isascii() and key.isdigit()
        value = item(value, int(key) if is_index else str(key), str(key))
    return value


def _length(budget: Budget, value: Any) -> int:
    if not isinstance(value, (str, list, tuple, dict)):
        raise _not_accepted("filter 'length'", value)
    return len(value)


def _replace(budget: Budget, value: Any, old: Any, new: Any, count: Any) -> str:
    is_markup = budget.escapes and any(isinstance(each, Markup) for each in (value, old, new))
    convert = escaped if is_markup else text
    source, by = convert(budget, value), convert(budget, new)
    result = _replaced(budget, str(source), str(text(budget, old)), str(by), count)
    return Markup(result) if is_markup else result


def _replaced(budget: Budget, source: str, old: str, new: str, count: Any) -> str:
    most = _count(count)
    found = source.count(old)
    grown = (found if most < 0 else min(found, most)) * len(new)
    budget.work((len(source) + grown) // 64)
    return source.replace(old, new, most)


def _count(value: Any) -> int:
    if value is not None and not isinstance(value, int):
        raise RowError("the argument 'count' must be an integer")
    return -1 if value is None else int(value)


def _reverse(budget: Budget, value: Any) -> Any:
    return value[::-1] if isinstance(value, str) else items(budget, value)[::-1]


def _round(budget: Budget, value: Any, precision: Any, method: Any) -> Any:
    if not isinstance(value, (int, float)):
        raise _not_accepted("filter 'round'", value)
    if not isinstance(precision, int) or abs(precision) > 15:
        raise RowError("the precision of 'round' must be an integer from -15 to 15")
    if method not in ("common", "ceil", "floor"):
        raise RowError("the filter 'round' accepts the methods common, ceil and floor")
    if method == "common":
        return round(value, precision)
    factor = float(f"1e{int(precision)}")
    scaled = float(value) * factor
    if not math.isfinite(scaled):
        return float(value)
    return float(math.ceil(scaled) if method == "ceil" else math.floor(scaled)) / factor


def _keyed(
    budget: Budget, value: Any, case_sensitive: Any, attribute: Any
) -> list[tuple[list[Any], Any]]:
    """Return items with their keys. Each two keys have an order."""
    names = attribute.split(",") if isinstance(attribute, str) else [attribute]
    keyed: list[tuple[list[Any], Any]] = []
    for each in items(budget, value):
        keys = [present(each if name is None else _path(each, name)) for name in names]
        for key in keys:
            budget.work(1 + (len(key) // 64 if isinstance(key, str) else 0))
        if not case_sensitive:
            keys = [str(key).lower() if isinstance(key, str) else key for key in keys]
        for one, other in zip(keyed[-1][0] if keyed else keys, keys, strict=True):
            check_order(one, other)
        keyed.append((keys, each))
    budget.work(len(keyed) * max(len(keyed), 1).bit_length())
    return keyed


def _sort(budget: Budget, value: Any, reverse: Any, case_sensitive: Any, attribute: Any) -> Any:
    keyed = _keyed(budget, value, case_sensitive, attribute)
    return [each for _, each in sorted(keyed, key=lambda pair: pair[0], reverse=bool(reverse))]


def _extreme(choose: Callable[..., Any]) -> _Function:
    def extreme(budget: Budget, value: Any, case_sensitive: Any, attribute: Any) -> Any:
        keyed = _keyed(budget, value, case_sensitive, attribute)
        found = [choose(keyed, key=lambda pair: pair[0])[1]] if keyed else []
        return _end(0)(budget, found)

    return extreme


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
    code = _ENTITIES.get(name, 0)
    if re.fullmatch("#[0-9]{1,9}", name):
        code = int(name[1:])
    elif re.fullmatch("#[xX][0-9a-fA-F]{1,8}", name):
        code = int(name[2:], 16)
    # HTML gives other meanings to control characters.
    if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
        raise RowError("the filter 'striptags' does not accept the entities of the text")
    return chr(code)


def _sum(budget: Budget, value: Any, attribute: Any, start: Any) -> Any:
    for each in _attributes(budget, value, attribute):
        budget.work(1)
        # Texts cannot be added up.
        start = operator(budget, start, "+", number(each, "+"))
    return start


def _urlencode(budget: Budget, value: Any) -> str:
    if isinstance(value, (list, tuple, dict)):
        raise _not_accepted("filter 'urlencode'", value)
    return urllib.parse.quote(str(text(budget, value)))


def map_attribute(budget: Budget, value: Any, attribute: Any) -> Any:
    """Return an attribute of each item: the filter `map`."""
    return [present(each) for each in _attributes(budget, value, attribute)]


def select(
    budget: Budget, value: Any, keeps: bool, attribute: Any, name: str | None, *given: Any
) -> Any:
    """Return the items for which a test is true: `select`, `reject` and so on."""
    kept = []
    for one in items(budget, value):
        tested = one if attribute is None else _path(one, attribute)
        is_true = bool(needed(tested) if name is None else apply(budget, name, tested, *given))
        if is_true == keeps:
            kept.append(one)
    return kept


def _range(budget: Budget, value: Any, start: Any, stop: Any, step: Any) -> Any:
    bounds = (0, start, step) if stop is None else (start, stop, step)
    if not all(isinstance(bound, int) for bound in bounds):
        raise RowError("the arguments of 'range' must be integers")
    if step == 0:
        raise RowError("the step of 'range' is zero")
    found = range(*bounds)
    # The built-in `len` fails for more than 63 bits.
    if found and (found[-1] - found[0]) // found.step >= _RANGE:
        raise RowError(f"the function 'range' gives more than {_RANGE} items")
    budget.work(len(found) // 2)
    return list(found)


def _argument(value: Any) -> str:
    if not isinstance(value, str):
        raise RowError("the arguments of a method must be texts")
    return str(value)


def _method(name: str) -> _Function:
    def call(budget: Budget, value: str, part: Any) -> Any:
        return getattr(str(value), name)(_argument(part))

    return call


def _stripped(method: str) -> _Function:
    def strip(budget: Budget, value: Any, chars: Any) -> str:
        if chars is not None and not isinstance(chars, str):
            raise RowError("the argument 'chars' must be a text")
        source = text(budget, value)
        budget.work(len(source) * len(chars or "") // 64)
        stripped = getattr(str(source), method)(chars)
        return Markup(stripped) if isinstance(source, Markup) else stripped

    return strip


def _title_of_python(source: str) -> str:
    runs = groupby(source, lambda character: character.islower() or character.isupper())
    return "".join("".join(run).capitalize() for _, run in runs)


def _get(budget: Budget, value: dict[str, Any], key: Any, default: Any) -> Any:
    name = _argument(key)
    return field(value.get(name, default), name)


def _join_texts(budget: Budget, value: str, found: Any) -> str:
    parts = items(budget, found)
    for part in parts:
        _argument(part)
    return joined(budget, parts, value, isinstance(value, Markup))


def _replace_text(budget: Budget, value: str, old: Any, new: Any, count: Any) -> str:
    before, by = _argument(old), _argument(new)
    if not isinstance(value, Markup):
        return _replaced(budget, value, before, by, count)
    return Markup(_replaced(budget, str(value), before, str(escape(new)), count))


def _split(budget: Budget, value: str, separator: Any, count: Any) -> Any:
    most = _count(count)
    budget.work(1 + len(value) // 16)
    if separator is not None and not _argument(separator):
        raise RowError("the separator of the method 'split' is empty")
    parts = str(value).split(separator, most)
    return [Markup(part) if isinstance(value, Markup) else part for part in parts]


def _kind(value: Any) -> Any:
    """Return a value, or the empty value of a field. A missing value has no type."""
    return value.empty if isinstance(value, Blank) else value


def _is(*kinds: type) -> Function:
    return Function({}, lambda _, value: isinstance(_kind(value), kinds), "accept")


def _is_number(kind: type) -> Function:
    return Function({}, lambda _, value: type(_kind(value)) is kind, "accept")


def _compares(sign: str) -> Function:
    def test(budget: Budget, value: Any, other: Any) -> bool:
        return compare(budget, value, sign, other)

    return Function({"other value": REQUIRED}, test, "accept")


def _is_multiple(test: str, rest: int) -> _Function:
    def is_multiple(budget: Budget, value: Any, other: Any = 2) -> bool:
        dividend, divisor = compared(value), compared(other)
        if not isinstance(dividend, int) or not isinstance(divisor, int):
            raise _not_accepted(f"test '{test}'", dividend)
        if divisor == 0:
            raise RowError("division by zero")
        return dividend % abs(divisor) == rest

    return is_multiple


_CASE = {"case_sensitive": False, "attribute": None}
_CHARS = {"set of characters": None}

FUNCTIONS: dict[str, Function] = {
    "abs": Function({}, _abs),
    "batch": Function({"linecount": REQUIRED, "fill_with": None}, _batch),
    "capitalize": Function({}, _changed(str.capitalize), "keep"),
    "center": Function({"width": 80}, _center),
    "count": Function({}, _length, "keep"),
    "d": Function({"default_value": "", "boolean": False}, _default, "accept"),
    "default": Function({"default_value": "", "boolean": False}, _default, "accept"),
    "e": Function({}, escaped),
    "escape": Function({}, escaped),
    "first": Function({}, _end(0)),
    "float": Function({"default": 0.0}, _float, "keep"),
    "int": Function({"default": 0}, _int, "keep"),
    "items": Function({}, _pairs),
    "join": Function({"d": "", "attribute": None}, _join),
    "last": Function({}, _end(-1)),
    "length": Function({}, _length, "keep"),
    "list": Function({}, items, "keep"),
    "lower": Function({}, _changed(str.lower), "keep"),
    "max": Function(_CASE, _extreme(max)),
    "min": Function(_CASE, _extreme(min)),
    "nl2br": Function(
        {}, lambda budget, value: Markup(str(escaped(budget, value)).replace("\n", "<br>\n"))
    ),
    "replace": Function({"old": REQUIRED, "new": REQUIRED, "count": None}, _replace),
    "reverse": Function({}, _reverse),
    "round": Function({"precision": 0, "method": "common"}, _round),
    "safe": Function({}, lambda budget, value: Markup(text(budget, value))),
    "sort": Function({"reverse": False, **_CASE}, _sort),
    "string": Function({}, text, "keep"),
    "striptags": Function({}, _striptags, "keep"),
    "sum": Function({"attribute": None, "start": 0}, _sum),
    # In Jinja2, the result of `title` is plain text, even if the value is markup.
    "title": Function(
        {}, lambda budget, value: str(of_jinja.do_title(text(budget, value))), "keep"
    ),
    "tojson": Function({}, lambda budget, value: Markup(shown(budget, value, is_json=True))),
    "trim": Function({"chars": None}, _stripped("strip"), "keep"),
    "truncate": Function({"length": 255, "killwords": False, "end": "...", "leeway": 5}, truncate),
    "upper": Function({}, _changed(str.upper), "keep"),
    "urlencode": Function({}, _urlencode),
    "wordwrap": Function(
        {"width": 79, "break_long_words": True, "wrapstring": "\n", "break_on_hyphens": True},
        word_wrap,
    ),
    "range()": Function({"first number": REQUIRED, "last number": None, "step width": 1}, _range),
    ".capitalize": Function({}, _changed(str.capitalize), "keep"),
    ".endswith": Function({"end of the text": REQUIRED}, _method("endswith"), "keep"),
    ".get": Function({"key of the dict": REQUIRED, "default value": None}, _get),
    ".items": Function({}, _pairs),
    ".join": Function({"list of texts": REQUIRED}, _join_texts, "keep"),
    ".keys": Function({}, lambda budget, value: list(value)),
    ".lower": Function({}, _changed(str.lower), "keep"),
    ".lstrip": Function(_CHARS, _stripped("lstrip"), "keep"),
    ".replace": Function(
        {"old text": REQUIRED, "new text": REQUIRED, "maximum count": -1}, _replace_text, "keep"
    ),
    ".rstrip": Function(_CHARS, _stripped("rstrip"), "keep"),
    ".split": Function({"separating text": None, "maximum count": -1}, _split, "keep"),
    ".startswith": Function({"start of the text": REQUIRED}, _method("startswith"), "keep"),
    ".strip": Function(_CHARS, _stripped("strip"), "keep"),
    ".title": Function({}, _changed(_title_of_python), "keep"),
    ".upper": Function({}, _changed(str.upper), "keep"),
    ".values": Function({}, lambda budget, value: list(value.values())),
    "?boolean": _is(bool),
    "?defined": Function({}, lambda _, value: not isinstance(value, Blank), "accept"),
    "?divisibleby": Function({"other number": REQUIRED}, _is_multiple("divisibleby", 0), "accept"),
    "?eq": _compares("=="),
    "?equalto": _compares("=="),
    "?even": Function({}, _is_multiple("even", 0), "accept"),
    "?false": Function({}, lambda _, value: _kind(value) is False, "accept"),
    "?float": _is(float),
    "?ge": _compares(">="),
    "?greaterthan": _compares(">"),
    "?gt": _compares(">"),
    "?in": _compares("in"),
    "?integer": _is_number(int),
    "?iterable": _is(str, list, tuple, dict),
    "?le": _compares("<="),
    "?lessthan": _compares("<"),
    "?lower": Function({}, lambda budget, value: text(budget, compared(value)).islower(), "accept"),
    "?lt": _compares("<"),
    "?mapping": _is(dict),
    "?ne": _compares("!="),
    "?none": Function({}, lambda _, value: _kind(value) is None, "accept"),
    "?number": _is(int, float),
    "?odd": Function({}, _is_multiple("odd", 1), "accept"),
    "?sequence": _is(str, list, tuple, dict),
    "?string": _is(str),
    "?true": Function({}, lambda _, value: _kind(value) is True, "accept"),
    "?undefined": Function({}, lambda _, value: isinstance(value, Blank), "accept"),
    "?upper": Function({}, lambda budget, value: text(budget, compared(value)).isupper(), "accept"),
}
