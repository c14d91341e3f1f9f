"""The values of templates in the pure-Python backend.

They have the same texts and errors as in `value.rs` and `display.rs` of `src/message/text`. A field
that is missing or empty is a `Blank`. A blank is false in a condition, and `default` replaces it.
Every other use is an error, so no message begins with "Dear ,".
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from markupsafe import Markup, escape

from rapidsmtp._compose.encode import RowError

STEPS = 2_000_000
"""The maximum number of steps for one message, as in `src/message/text.rs`."""
BYTES = 64 << 20
"""The maximum number of bytes of the texts of one message."""

_ROW_DEPTH = 60
SMALLEST, LARGEST = -(2**127), 2**127 - 1
"""The range of integers of 128 bits."""
_INVISIBLE = re.compile(
    "[\\s\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*\\Z"
)


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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blank) and other.message == self.message

    # Each comparison is by the message, and no value is a key. `object` annotates `__hash__` as a
    # method, so mypy rejects None, which is Python's way to make a class unhashable.
    __hash__ = None  # type: ignore[assignment]

    def refuse(self) -> NoReturn:
        """Raise the error of this value."""
        raise RowError(self.message)


MISSING: Any = object()
"""The value of a missing field."""


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
        return value if SMALLEST <= value <= LARGEST else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
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


def size(name: str, value: Any) -> int:
    """Return the integer that an argument must be."""
    if not isinstance(value, int):
        raise RowError(f"the argument '{name}' must be an integer")
    return max(int(value), 0)


def items(budget: Budget, value: Any) -> list[Any]:
    """Return the items of a value: the characters of a text, the keys of a dict."""
    if isinstance(value, Blank):
        # A loop over an empty field has no steps, like a loop over an empty list.
        needed(value)
        return []
    if not isinstance(value, (str, list, tuple, dict)):
        raise RowError(f"a value of the type {type(value).__name__} has no items")
    budget.work(len(value) // 2)
    return list(str(value) if isinstance(value, str) else value)


def text(budget: Budget, value: Any) -> str:
    """Return `str(value)`."""
    return value if isinstance(value, str) else shown(budget, value)


def escaped(budget: Budget, value: Any) -> Markup:
    """Return `escape(value)`. Markup is already escaped, so it is returned unchanged."""
    found = text(budget, value)
    budget.work(len(found) // 16)
    return escape(found)


def joined(budget: Budget, parts: list[Any], glue: Any, is_markup: bool) -> str:
    """Join the texts of values. If the result is markup, texts are escaped."""
    convert = escaped if is_markup else text
    between = convert(budget, glue)
    texts = []
    for part in parts:
        texts.append(str(convert(budget, part)))
        budget.work(1 + (len(texts[-1]) + len(between)) // 64)
    joined = str(between).join(texts)
    return Markup(joined) if is_markup else joined


def shown(budget: Budget, value: Any, is_json: bool = False) -> str:
    """Return the `repr` of a value, or its JSON as in Jinja2: with escapes for HTML."""
    budget.work(1)
    present(value)
    if isinstance(value, dict):
        pairs = sorted(value.items()) if is_json else value.items()
        texts = [
            f"{shown(budget, key, is_json)}: {shown(budget, each, is_json)}" for key, each in pairs
        ]
        return "{" + ", ".join(texts) + "}"
    if isinstance(value, (list, tuple)):
        whole = ", ".join([shown(budget, each, is_json) for each in value])
        if is_json or isinstance(value, list):
            return f"[{whole}]"
        return f"({whole},)" if len(value) == 1 else f"({whole})"
    # Python and minijinja write very large and very small floats differently.
    if isinstance(value, float) and value and not 1e-4 <= abs(value) < 1e16:
        raise RowError("a number is too large or too small for a text; use the filter format")
    if not is_json:
        result = repr(value)
    else:
        result = json.dumps(str(value) if isinstance(value, str) else value)
        for character in "<>&'":
            result = result.replace(character, f"\\u{ord(character):04x}")
    budget.work(len(result) // 64)
    return result
