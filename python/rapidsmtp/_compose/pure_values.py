"""The values and operators of templates in the pure-Python backend.

They give the same results and errors as `value.rs`, `display.rs` and `operator.rs` in
`src/message/text`. A field that is missing or empty is a `Blank`. A blank is false in a condition,
and `default` replaces it. Every other use is an error, so no message begins with "Dear ,".
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from markupsafe import Markup, escape

from rapidsmtp._compose.encode import RowError

STEPS = 2_000_000
"""The maximum number of steps for one message, as in `src/message/text.rs`."""
BYTES = 64 << 20
"""The maximum number of bytes of the texts of one message."""

_DEPTH = 64
_ROW_DEPTH = 60
_SMALLEST, _LARGEST = -(2**127), 2**127 - 1
_EXACT = 2**53
_TOO_LARGE = "an integer of the template is too large"
_INVISIBLE = re.compile(
    "[\\s\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*\\Z"
)
_LONGEST = 4300
"""The maximum precision of a float in a format."""

_PRECISION = re.compile(r"\.(\d+)[hlL]?[eEfFgG]")


class Budget:
    """The remaining work for one message: all texts and headers together.

    Attributes:
        escapes: Whether the text that is rendered now is HTML.
    """

    __slots__ = ("bytes", "escapes", "steps")

    def __init__(self) -> None:
        self.steps, self.bytes = STEPS, BYTES
        self.escapes = False

    def work(self, steps: int) -> None:
        """Subtract steps before they are executed.

        Raises:
            RowError: The budget is too small.
        """
        self.steps -= steps
        if self.steps < 0:
            raise RowError("rendering the template takes too many steps")

    def write(self, text: str) -> None:
        """Subtract the length of a part of a rendered text.

        Raises:
            RowError: The budget is too small.
        """
        self.bytes -= len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
        if self.bytes < 0:
            raise RowError("the rendered texts of the message are too long")


class Blank:
    """A field that is missing or empty.

    Attributes:
        message: The error that a use of this value causes.
        empty: The empty value; `MISSING` if the field is missing.
        is_condition: Whether a condition may read the value.
    """

    __slots__ = ("empty", "is_condition", "message")

    def __init__(self, message: str, empty: Any, is_condition: bool = True) -> None:
        self.message, self.empty, self.is_condition = message, empty, is_condition

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        raise RowError(self.message)

    __repr__ = __html__ = __str__

    def refuse(self) -> NoReturn:
        """Raise the error of this value."""
        raise RowError(self.message)


MISSING: Any = object()
"""The value of a missing field."""


class List(list[Any]):
    """A list of a row or a template, with the depth of the lists in it."""

    __slots__ = ("depth",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self.depth = _depth_around(self)


class Tuple(tuple[Any, ...]):
    """A tuple of a template."""

    depth: int

    def __new__(cls, items: Iterable[Any] = ()) -> "Tuple":
        made = super().__new__(cls, items)
        made.depth = _depth_around(made)
        return made


class Dict(dict[Any, Any]):
    """A dict of a row or a template."""

    __slots__ = ("depth",)

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__(pairs)
        self.depth = _depth_around(self.values())


def _depth_around(values: Iterable[Any]) -> int:
    depth = max((each.depth for each in values if isinstance(each, (List, Tuple, Dict))), default=0)
    if depth >= _DEPTH:
        raise RowError("a list or dict is nested too deeply")
    return depth + 1


def plain(value: Any, depth: int = 0) -> Any:
    """Convert a row's value to str, int, float, bool or None, or to lists and dicts of these.

    Raises:
        RowError: The value's lists and dicts are nested too deeply, or contain themselves.
        Exception: Any exception that `str(value)` raises.
    """
    if depth > _ROW_DEPTH:
        raise RowError("a list or dict is nested too deeply")
    kind = type(value)
    if kind in (str, float, bool) or value is None:
        return value
    if kind is int:
        # An integer of more than 128 bits becomes a text.
        return value if _SMALLEST <= value <= _LARGEST else str(value)
    if isinstance(value, Mapping):
        return Dict((str(key), plain(item, depth + 1)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return List(plain(item, depth + 1) for item in value)
    # A Markup object becomes plain text too, because data is never markup and must be escaped.
    text = str.__str__(str(value))
    return None if _is_missing(value, text) else text


def _is_missing(value: Any, text: str) -> bool:
    """Return whether an object is a missing value, such as `Decimal("NaN")` or pandas' `NaT`."""
    try:
        return bool(value != value)
    except Exception:
        return text in ("<NA>", "sNaN", "-sNaN")


def field(value: Any, name: str) -> Any:
    """Return the value of a field: the value itself, or a blank if it is missing or empty."""
    if value is MISSING:
        return Blank(f"the field {name!r} is missing", MISSING, is_condition=False)
    if isinstance(value, Blank) or not is_empty(value):
        return value
    return Blank(f"the field {name!r} is empty and has no |default", value)


def is_empty(value: Any) -> bool:
    """Return whether a value shows no character: None, NaN, or an invisible text."""
    if isinstance(value, str):
        return bool(_INVISIBLE.match(value))
    return value is None or (isinstance(value, float) and math.isnan(value))


def present(value: Any) -> Any:
    """Return a value that is not blank.

    Raises:
        RowError: The value is blank.
    """
    if isinstance(value, Blank):
        value.refuse()
    return value


def needed(value: Any) -> Any:
    """Return the value of a condition. A missing field is an error in a condition too."""
    if isinstance(value, Blank) and not value.is_condition:
        value.refuse()
    return value


def compared(value: Any) -> Any:
    """Return the value for a comparison. A comparison reads an empty value itself."""
    if isinstance(value, Blank):
        if value.empty is MISSING:
            value.refuse()
        return value.empty
    return value


def type_name(value: Any) -> str:
    """Return the name of a value's type."""
    for kind in (List, Tuple, Dict):
        if isinstance(value, kind):
            return kind.__name__.lower()
    return type(value).__name__


def text(budget: Budget, value: Any) -> str:
    """Return `str(value)`."""
    if isinstance(value, str):
        return value
    return shown(budget, value)


def escaped(budget: Budget, value: Any) -> Markup:
    """Return `escape(value)`. Markup is already escaped, so it is returned unchanged."""
    return escape(text(budget, value))


def shown(budget: Budget, value: Any) -> str:
    """Return `repr(value)`. Each item of a list costs a step, because lists can share items."""
    budget.work(1)
    if isinstance(value, Dict):
        pairs = (f"{shown(budget, key)}: {shown(budget, item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, List):
        return "[" + ", ".join(shown(budget, item) for item in value) + "]"
    if isinstance(value, Tuple):
        items = ", ".join(shown(budget, item) for item in value)
        return f"({items},)" if len(value) == 1 else f"({items})"
    result = repr(value)
    budget.work(len(result) // 64)
    return result


class _Shown:
    """A list or dict whose text costs steps, for `%`."""

    def __init__(self, budget: Budget, value: Any, is_markup: bool) -> None:
        self._budget, self._value, self._is_markup = budget, value, is_markup

    def __str__(self) -> str:
        text = shown(self._budget, self._value)
        return str(escape(text)) if self._is_markup else text

    __repr__ = __str__

    def __getitem__(self, key: Any) -> NoReturn:
        raise TypeError


class _Escaped(str):
    """A text of a format that is markup."""

    _plain: str

    def __new__(cls, value: str) -> "_Escaped":
        made = super().__new__(cls, str(escape(value)))
        made._plain = value
        return made

    def __repr__(self) -> str:
        return str(escape(repr(self._plain)))


def operator(budget: Budget, left: Any, sign: str, right: Any) -> Any:
    """Apply an arithmetic operator, `%` or `~`."""
    if sign == "~":
        return _concatenate(budget, left, right)
    present(left)
    present(right)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return _compute(left, sign, right)
    if sign == "+":
        if isinstance(left, str) and isinstance(right, str):
            budget.work((len(left) + len(right)) // 64)
            return left + right
        for kind in (List, Tuple):
            if isinstance(left, kind) and isinstance(right, kind):
                budget.work((len(left) + len(right)) // 2)
                return kind([*left, *right])
    if sign == "*" and isinstance(left, int):
        left, right = right, left
    if sign == "*" and isinstance(right, int):
        count = max(right, 0)
        if isinstance(left, str):
            budget.work(len(left) * count // 64)
            return left * count
        if isinstance(left, (List, Tuple)):
            budget.work(len(left) * count // 2)
            return type(left)([*left] * count)
    if sign == "%" and isinstance(left, str):
        return format_text(budget, left, right)
    raise RowError(
        f"the operator '{sign}' does not accept values of the types {type_name(left)} and "
        f"{type_name(right)}"
    )


def _compute(left: Any, sign: str, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        left, right = int(left), int(right)
        if sign == "/" and max(abs(left), abs(right)) > _EXACT:
            raise RowError(_TOO_LARGE)
        if sign == "**" and right < 0 and max(abs(left), abs(right)) > _EXACT:
            raise RowError(_TOO_LARGE)
        if sign == "**" and right > 127 and abs(left) > 1:
            raise RowError(_TOO_LARGE)
        if sign == "**" and right >= 2**32:
            raise RowError(_TOO_LARGE)
    if right == 0 and sign in ("/", "//", "%"):
        raise RowError("division by zero")
    try:
        match sign:
            case "+":
                result = left + right
            case "-":
                result = left - right
            case "*":
                result = left * right
            case "/":
                result = left / right
            case "//":
                result = left // right
            case "%":
                result = left % right
            case _:
                result = left**right
    except ZeroDivisionError:
        raise RowError("division by zero") from None
    except OverflowError:
        raise RowError("a number of the template is too large") from None
    if isinstance(result, complex):
        raise RowError("the power of a negative number is not a real number")
    return bounded(result)


def bounded(number: Any) -> Any:
    """Return a number of at most 128 bits.

    Raises:
        RowError: The number is a larger integer.
    """
    if isinstance(number, int) and not _SMALLEST <= number <= _LARGEST:
        raise RowError(_TOO_LARGE)
    return number


def negative(value: Any) -> Any:
    """Return `-value`."""
    present(value)
    if not isinstance(value, (int, float)):
        name = type_name(value)
        raise RowError(f"the operator '-' does not accept a value of the type {name}")
    return bounded(-value)


def _concatenate(budget: Budget, left: Any, right: Any) -> str:
    first, second = text(budget, left), text(budget, right)
    budget.work((len(first) + len(second)) // 64)
    if budget.escapes and (isinstance(first, Markup) or isinstance(second, Markup)):
        return escape(first) + escape(second)
    return str(first) + str(second)


def format_text(budget: Budget, template: str, given: Any) -> str:
    """Return `template % given`."""
    is_markup = isinstance(template, Markup)
    source = str(template)
    numbers = re.findall("[0-9]+", source)
    all_given = given if isinstance(given, Tuple) else (given,)
    for each in all_given:
        present(each)
    if "*" in source:
        numbers += [str(abs(each)) for each in all_given if isinstance(each, int)]
    for number in numbers:
        budget.work(min(int(number[:20]), STEPS * 16 + 16) // 16)
    budget.work(source.count("%") + len(source) // 64)

    def wrapped(value: Any) -> Any:
        if isinstance(value, (List, Tuple, Dict)):
            return _Shown(budget, value, is_markup)
        return _Escaped(value) if is_markup and isinstance(value, str) else present(value)

    if isinstance(given, Tuple):
        values: Any = tuple(map(wrapped, given))
    elif isinstance(given, Dict):
        values = _Mapping(given, wrapped)
    else:
        values = wrapped(given)
    try:
        if any(int(each[:20]) > _LONGEST for each in _PRECISION.findall(source)):
            raise ValueError
        result: str = source % values
    except RowError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError):
        raise RowError("the values do not fit the directives of the format") from None
    return Markup(result) if is_markup else result


class _Mapping(dict[str, Any]):
    """The dict of a format."""

    def __init__(self, given: Dict, wrapped: Callable[[Any], Any]) -> None:
        super().__init__(given)
        self._shown, self._wrapped = wrapped(given), wrapped

    def __getitem__(self, key: str) -> Any:
        return self._wrapped(super().__getitem__(key))

    def __str__(self) -> str:
        return str(self._shown)

    __repr__ = __str__


def compare(budget: Budget, left: Any, sign: str, right: Any) -> bool:
    """Apply a comparison."""
    left, right = compared(left), compared(right)
    match sign:
        case "==":
            return equal(budget, left, right)
        case "!=":
            return not equal(budget, left, right)
        case "in":
            return _contains(budget, right, left)
        case "not in":
            return not _contains(budget, right, left)
    order = ordered(budget, left, right)
    if order is None:
        return False
    return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[sign]


def equal(budget: Budget, left: Any, right: Any) -> bool:
    """Return whether two values are equal."""
    budget.work(1)
    left, right = compared(left), compared(right)
    for kind in (List, Tuple):
        if isinstance(left, kind) and isinstance(right, kind):
            return len(left) == len(right) and all(
                equal(budget, one, other) for one, other in zip(left, right, strict=True)
            )
    if isinstance(left, Dict) and isinstance(right, Dict):
        return len(left) == len(right) and all(
            key in right and equal(budget, item, right[key]) for key, item in left.items()
        )
    if isinstance(left, str) and isinstance(right, str):
        return str.__eq__(left, right)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    return left is None and right is None


def ordered(budget: Budget, left: Any, right: Any) -> int | None:
    """Return a number below, at or above 0; None if one of the values is NaN."""
    budget.work(1)
    left, right = compared(left), compared(right)
    if isinstance(left, str) and isinstance(right, str):
        return (str.__gt__(left, right)) - (str.__lt__(left, right))
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        if math.isnan(left) or math.isnan(right):
            return None
        return (left > right) - (left < right)
    for kind in (List, Tuple):
        if isinstance(left, kind) and isinstance(right, kind):
            for one, other in zip(left, right, strict=False):
                if not equal(budget, one, other):
                    return ordered(budget, one, other)
            return (len(left) > len(right)) - (len(left) < len(right))
    raise RowError(
        f"values of the types {type_name(left)} and {type_name(right)} have no order; a value of a "
        "CSV file is a text, so convert it with |int or |float"
    )


def _contains(budget: Budget, container: Any, item: Any) -> bool:
    if isinstance(container, str):
        if not isinstance(item, str):
            name = type_name(item)
            raise RowError(f"only a text can be in a text, not a value of the type {name}")
        budget.work(len(container) // 64)
        return str.__contains__(container, item)
    if isinstance(container, (List, Tuple)):
        return any(equal(budget, each, item) for each in container)
    if isinstance(container, Dict):
        check_key(item)
        return not isinstance(item, Tuple) and item in container
    raise not_iterable(container)


def check_key(key: Any) -> None:
    """Check the key of a dict.

    Raises:
        RowError: The key is a list or dict.
    """
    if isinstance(key, (List, Dict)):
        raise RowError(f"a value of the type {type_name(key)} cannot be a key")


def not_iterable(value: Any) -> RowError:
    """Return the error for a value without items."""
    return RowError(f"a value of the type {type_name(value)} has no items")


def items(budget: Budget, value: Any) -> list[Any]:
    """Return the items of a value: the characters of a text, the keys of a dict."""
    if isinstance(value, Blank):
        # A loop over an empty field has no steps, like a loop over an empty list.
        needed(value)
        return []
    if isinstance(value, str):
        budget.work(len(value))
        return list(str(value))
    if isinstance(value, (List, Tuple, Dict)):
        budget.work(len(value) // 2)
        return list(value)
    raise not_iterable(value)


def item(value: Any, key: Any, name: str) -> Any:
    """Return `value.key` or `value[key]`. A missing item is a blank, and so is an empty one."""
    if value is MISSING or (isinstance(value, Blank) and value.empty is MISSING):
        raise RowError(f"the field {name!r} is missing")
    present(key)
    found = MISSING
    if isinstance(value, Dict):
        check_key(key)
        found = MISSING if isinstance(key, Tuple) else value.get(key, MISSING)
    elif isinstance(value, (str, List, Tuple)) and isinstance(key, int):
        try:
            found = value[key]
        except IndexError:
            found = MISSING
    return field(found, name)


def part(budget: Budget, value: Any, bounds: slice, name: str) -> Any:
    """Return `value[start:stop:step]`."""
    present(value)
    if not isinstance(value, (str, List, Tuple)):
        kind = type_name(value)
        raise RowError(f"a value of the type {kind} has no parts [start:stop]")
    budget.work(len(value) // 4 if isinstance(value, str) else len(value) // 2)
    for bound in (bounds.start, bounds.stop, bounds.step):
        if bound is not None and not isinstance(bound, int):
            raise RowError("the bounds of [start:stop] must be integers")
    if bounds.step == 0 and bounds.step is not None:
        raise RowError("slice step cannot be zero")
    found = value[bounds]
    return field(found, name) if isinstance(value, str) else type(value)(found)
