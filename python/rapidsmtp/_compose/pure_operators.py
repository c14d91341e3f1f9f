"""The operators of templates in the pure-Python backend.

They give the same results and errors as `src/message/text/operator.rs`.
"""

import math
from typing import Any

from markupsafe import Markup

from rapidsmtp._compose.encode import RowError
from rapidsmtp._compose.pure_format import format_text
from rapidsmtp._compose.pure_values import (
    LARGEST,
    MISSING,
    SMALLEST,
    Blank,
    Budget,
    compared,
    field,
    joined,
    present,
    size,
)

_NO_RESULT = "a calculation divides by zero, or its result is too large"
_CURE = "; a value of a CSV file is a text, so convert it with |int or |float"


def number(value: Any, sign: str) -> Any:
    """Return an operand or the result of an arithmetic operator."""
    present(value)
    if not isinstance(value, (int, float)):
        name = type(value).__name__
        raise RowError(f"the operator '{sign}' does not accept a value of the type {name}{_CURE}")
    if isinstance(value, int) and not SMALLEST <= value <= LARGEST:
        raise RowError(_NO_RESULT)
    return value


def operator(budget: Budget, left: Any, sign: str, right: Any) -> Any:
    """Apply an arithmetic operator, also to texts."""
    present(left)
    present(right)
    match sign, left, right:
        case "+", str(), str():
            is_markup = isinstance(left, Markup) or isinstance(right, Markup)
            return joined(budget, [left, right], "", is_markup)
        case "~", _, _:
            is_markup = isinstance(left, Markup) or isinstance(right, Markup)
            return joined(budget, [left, right], "", budget.escapes and is_markup)
        case "+", list(), list():
            budget.work((len(left) + len(right)) // 2)
            return left + right
        case "*", int() | float(), str() if not isinstance(left, bool):
            return _repeat(budget, right, left)
        case "*", str(), _:
            return _repeat(budget, left, right)
        case "%", str(), tuple():
            return format_text(budget, left, right)
        case "%", str(), _:
            return format_text(budget, left, (right,))
    return number(_compute(number(left, sign), sign, number(right, sign)), sign)


def _repeat(budget: Budget, source: str, count: Any) -> str:
    times: int = size("count", count)
    budget.work(len(source) * times // 64)
    return source * times


def _compute(left: Any, sign: str, right: Any) -> Any:
    is_integer = isinstance(left, int) and isinstance(right, int)
    if sign in ("//", "%") and right != 0 and not is_integer:
        raise RowError("the operators // and % accept only integers")
    is_large = isinstance(right, int) and right > 127 and (abs(left) > 1 or right >= 2**32)
    if sign == "**" and isinstance(left, int) and is_large:
        raise RowError(_NO_RESULT)
    try:
        match sign:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                # minijinja divides floats, also for integers.
                return float(left) / float(right)
            case "//":
                return left // right
            case "%":
                return left % right
            case _:
                power = left**right
                return math.nan if isinstance(power, complex) else power
    except ZeroDivisionError:
        raise RowError(_NO_RESULT) from None
    except OverflowError:
        return math.inf


def compare(budget: Budget, left: Any, sign: str, right: Any) -> bool:
    """Apply a comparison."""
    left, right = compared(left), compared(right)
    match sign:
        case "==" | "!=":
            budget.work(min(_weight(left), _weight(right)))
            return bool((left == right) == (sign == "=="))
        case "in":
            return _contains(budget, right, left)
        case "not in":
            return not _contains(budget, right, left)
    check_order(left, right)
    if isinstance(left, str):
        left, right = str(left), str(right)
    match sign:
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
    return bool(left >= right)


def _weight(value: Any) -> int:
    """Return the number of items in a value, and in its items."""
    if isinstance(value, (list, tuple)):
        return sum(1 + _weight(each) for each in value)
    return len(value) if isinstance(value, dict) else 1


def check_order(left: Any, right: Any) -> None:
    """Check that two values are texts or numbers.

    Raises:
        RowError: They have no order.
    """
    if isinstance(left, str) and isinstance(right, str):
        return
    values = (left, right)
    if any(not isinstance(each, (int, float)) or math.isnan(each) for each in values):
        names = " and ".join(type(each).__name__ for each in values)
        raise RowError(f"values of the types {names} have no order{_CURE}")


def _contains(budget: Budget, container: Any, item: Any) -> bool:
    if isinstance(container, str) and isinstance(item, str):
        budget.work(len(container) // 64)
        return str.__contains__(container, item)
    if isinstance(container, (list, tuple, dict)) and not isinstance(item, (list, tuple, dict)):
        budget.work(len(container))
        return item in container
    names = f"{type(item).__name__} cannot be in a value of the type {type(container).__name__}"
    raise RowError(f"a value of the type {names}")


def item(value: Any, key: Any, name: str) -> Any:
    """Return `value.key` or `value[key]`. A missing item is a blank, and so is an empty one."""
    if value is MISSING or (isinstance(value, Blank) and value.empty is MISSING):
        raise RowError(f"the field {name!r} is missing")
    present(key)
    found = MISSING
    if isinstance(value, dict) and isinstance(key, str):
        found = value.get(key, MISSING)
    elif isinstance(value, (str, list, tuple)) and isinstance(key, int):
        found = value[key] if -len(value) <= key < len(value) else MISSING
    return field(found, name)


def part(budget: Budget, value: Any, start: Any, stop: Any, name: str) -> Any:
    """Return `value[start:stop]`."""
    present(value)
    for bound in (start, stop):
        if bound is not None and not isinstance(bound, int):
            raise RowError("the bounds of [start:stop] must be integers")
    if not isinstance(value, (str, list, tuple)):
        kind = type(value).__name__
        raise RowError(f"a value of the type {kind} has no parts [start:stop]")
    budget.work(len(value) // 4)
    found = value[start:stop]
    return field(found, name) if isinstance(found, str) else found
