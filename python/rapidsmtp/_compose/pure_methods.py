"""The tests and methods of templates in the pure-Python backend.

They give the same results as `src/message/text/test.rs` and `method.rs`, and as Python and Jinja2.
"""

from typing import Any

from markupsafe import Markup, escape

from rapidsmtp._compose.encode import RowError
from rapidsmtp._compose.pure_filters import (
    empty_text,
    joined,
    pairs,
    path,
    replaced,
    size_of,
    spent,
    still_blank,
    stripped,
)
from rapidsmtp._compose.pure_values import (
    MISSING,
    Blank,
    Budget,
    Dict,
    List,
    Tuple,
    check_key,
    compare,
    compared,
    field,
    items,
    needed,
    operator,
    present,
    text,
    type_name,
)

_RANGE = 100_000
"""The maximum number of items of `range`."""

TESTS = {
    **dict.fromkeys(
        """
        defined undefined none boolean true false integer float number string mapping sequence
        iterable lower upper odd even
        """.split(),  # noqa: SIM905  (a list literal would fill a page)
        0,
    ),
    **dict.fromkeys(
        """
        divisibleby in eq equalto ne lt lessthan le gt greaterthan ge sameas
        """.split(),  # noqa: SIM905  (a list literal would fill a page)
        1,
    ),
}
"""The tests, with the numbers of their arguments."""

_TYPES = frozenset(
    """
    boolean true false integer float number string mapping sequence
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)

_SIGNS = {
    "in": "in",
    "eq": "==",
    "equalto": "==",
    "ne": "!=",
    "lt": "<",
    "lessthan": "<",
    "le": "<=",
    "gt": ">",
    "greaterthan": ">",
    "ge": ">=",
}


def test(budget: Budget, name: str, value: Any, *given: Any) -> bool:
    """Apply a test. The value of an empty field is the empty value itself."""
    if name in ("defined", "undefined"):
        return (not isinstance(value, Blank)) == (name == "defined")
    if name == "none":
        return value is None or (isinstance(value, Blank) and value.empty is None)
    # As in Jinja2, a missing value has no type.
    if name in _TYPES and isinstance(value, Blank) and value.empty is MISSING:
        return False
    value = compared(value)
    if name in _SIGNS:
        return compare(budget, value, _SIGNS[name], given[0])
    match name:
        case "boolean":
            return isinstance(value, bool)
        case "true":
            return value is True
        case "false":
            return value is False
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, float)
        case "number":
            return isinstance(value, (int, float))
        case "string":
            return isinstance(value, str)
        case "mapping":
            return isinstance(value, Dict)
        case "sequence" | "iterable":
            return isinstance(value, (str, List, Tuple, Dict))
        case "lower":
            return text(budget, value).islower()
        case "upper":
            return text(budget, value).isupper()
        case "sameas":
            if not (given[0] is None or isinstance(given[0], bool)):
                raise RowError("the test 'sameas' needs true, false or none")
            return value is given[0]
    if not isinstance(value, (int, float)):
        raise RowError(f"the test '{name}' does not accept a value of the type {type_name(value)}")
    if name == "divisibleby":
        return bool(operator(budget, value, "%", given[0]) == 0)
    return bool(operator(budget, value, "%", 2) == (name == "odd"))


METHODS = {
    "upper": (0, 0),
    "lower": (0, 0),
    "title": (0, 0),
    "capitalize": (0, 0),
    "strip": (0, 1),
    "lstrip": (0, 1),
    "rstrip": (0, 1),
    "split": (0, 2),
    "splitlines": (0, 0),
    "replace": (2, 3),
    "startswith": (1, 1),
    "endswith": (1, 1),
    "find": (1, 1),
    "count": (1, 1),
    "join": (1, 1),
    "zfill": (1, 1),
    "isdigit": (0, 0),
    "items": (0, 0),
    "keys": (0, 0),
    "values": (0, 0),
    "get": (1, 2),
}
"""The methods, with the least and the largest numbers of their arguments."""


def call(budget: Budget, name: str, value: Any, *given: Any) -> Any:
    """Call a method. The result of a method of an empty field is empty too."""
    if isinstance(value, Blank):
        return still_blank(value, _of_text(budget, name, empty_text(value), given))
    if name in ("items", "keys", "values", "get"):
        if not isinstance(value, Dict):
            raise _no_method(name, value)
        return _of_dict(budget, name, value, given)
    if not isinstance(value, str):
        raise _no_method(name, value)
    return _of_text(budget, name, value, given)


def _no_method(name: str, value: Any) -> RowError:
    return RowError(f"a value of the type {type_name(value)} has no method '{name}'")


def _of_dict(budget: Budget, name: str, value: Dict, given: tuple[Any, ...]) -> Any:
    match name:
        case "items":
            return pairs(budget, value)
        case "keys":
            return List(value)
        case "values":
            return List(value.values())
    present(given[0])
    check_key(given[0])
    found = MISSING if isinstance(given[0], Tuple) else value.get(given[0], MISSING)
    if found is MISSING:
        found = given[1] if len(given) > 1 else None
    return field(found, str(given[0]) if isinstance(given[0], str) else "?")


def _of_text(budget: Budget, name: str, source: str, given: tuple[Any, ...]) -> Any:
    budget.work(1 + len(source) // 16)
    convert = Markup if isinstance(source, Markup) else str
    bare = str(source)

    def argument(at: int) -> str:
        value = present(given[at])
        if not isinstance(value, str):
            raise RowError(f"the arguments of the method '{name}' must be texts")
        return value

    match name:
        case "upper" | "lower" | "title" | "capitalize":
            return convert(getattr(bare, name)())
        case "strip" | "lstrip" | "rstrip":
            return stripped(budget, name, source, given[0] if given else None)
        case "split":
            return _split(bare, convert, given)
        case "splitlines":
            return List(convert(line) for line in bare.splitlines())
        case "replace":
            count = given[2] if len(given) > 2 else -1
            if not isinstance(count, int):
                raise RowError("the argument 'count' must be an integer")
            old, new = argument(0), argument(1)
            by = escape(new) if convert is Markup else new
            return convert(replaced(budget, bare, str(old), str(by), count))
        case "startswith" | "endswith" | "find" | "count":
            return getattr(bare, name)(str(argument(0)))
        case "join":
            parts = items(budget, given[0])
            if not all(isinstance(part, str) for part in parts):
                raise RowError("the method 'join' needs texts")
            return joined(budget, parts, source, convert is Markup)
        case "zfill":
            return convert(bare.zfill(spent(budget, size_of("width", given[0]))))
        case "isdigit":
            return bare.isascii() and bare.isdigit()
    raise _no_method(name, source)


def _split(bare: str, convert: Any, given: tuple[Any, ...]) -> Any:
    limit = given[1] if len(given) > 1 else -1
    if not isinstance(limit, int):
        raise RowError("the argument 'maxsplit' must be an integer")
    separator = present(given[0]) if given else None
    if separator == "":
        raise RowError("the separator of the method 'split' is empty")
    if separator is not None and not isinstance(separator, str):
        raise RowError("the arguments of the method 'split' must be texts")
    return List(convert(part) for part in bare.split(separator, limit))


def range_of(budget: Budget, *given: Any) -> Any:
    """Return the integers of `range`."""
    for bound in given:
        present(bound)
        if not isinstance(bound, int):
            raise RowError("the arguments of 'range' must be integers")
    if len(given) == 3 and given[2] == 0:
        raise RowError("the step of 'range' is zero")
    found = range(*given)
    # The built-in `len` fails for more than 63 bits.
    if found and (found[-1] - found[0]) // found.step >= _RANGE:
        raise RowError(f"the function 'range' gives more than {_RANGE} items")
    budget.work(len(found) // 2)
    return List(found)


def select(
    budget: Budget, value: Any, keeps: bool, attribute: Any, name: str | None, *given: Any
) -> Any:
    """Return the items for which a test is true: `select`, `reject` and so on."""
    kept = []
    for one in items(budget, value):
        tested = one if attribute is None else path(one, attribute)
        is_true = bool(needed(tested)) if name is None else test(budget, name, tested, *given)
        if is_true == keeps:
            kept.append(one)
    return List(kept)
