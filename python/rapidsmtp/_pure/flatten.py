"""Fast functions for `to_bytes`. They join message parts, and render fields without folding.

If a field needs folding or encoding, `fold_field` returns None, and `email` folds the field. The
compiled backend folds some of these fields itself.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO

_LINE_END = re.compile(r"\r\n|\n|\r")

_SLICE = 1 << 20
"""The number of characters whose line ends are repaired in one step. Each step copies its
characters, so this number limits the memory for the copy."""


def assemble(parts: Sequence[str | bytes]) -> bytes:
    """Join the parts of a message.

    Args:
        parts: Bytes, which stay unchanged, and ASCII texts, whose line ends become CRLF.
    """
    with BytesIO() as file:
        for part in parts:
            if isinstance(part, bytes):
                file.write(part)
            else:
                file.writelines(map(_repaired, _slices(part)))
        return file.getvalue()


def has_from_line(text: str) -> bool:
    """Return whether a line of the text begins with "From "."""
    return text.startswith("From ") or "\nFrom " in text


def mentions(parts: Iterable[str | bytes], needle: bytes) -> bool:
    """Return whether one of the parts contains the ASCII text `needle`."""
    text = needle.decode("ascii")
    return any((text in part) if isinstance(part, str) else needle in part for part in parts)


def fold_field(name: str, value: str, limit: int, source: str) -> bytes | None:
    """Render a header field that needs no folding and no encoding, as `email` would.

    Args:
        name: The name of the field.
        value: The value of the field, or the text of a parsed value.
        limit: The maximum number of characters in a line.
        source: The folding method of `email` to imitate: `"parsed"`, `"parameters"`, `"lines"` or
            `"compat32"`.

    Returns:
        The field with CRLF at its end; None if `email` has to fold it.
    """
    field = f"{name}: {value}"
    if not (value and name and len(field) <= limit and field.isascii() and field.isprintable()):
        return None
    if " " in name or (source == "compat32" and value != value.strip()):
        return None
    return field.encode("ascii") + b"\r\n"


def tree_text(tree: object, plain: Mapping[type, bool]) -> str | None:
    """Return the text of a parse tree.

    Args:
        tree: The tree.
        plain: The types of nodes whose text the compiled backend can compute. The pure-Python
            backend ignores this argument.

    Returns:
        The text; the compiled backend returns None for a text with surrogates.
    """
    return str(tree)


def _slices(text: str) -> Iterator[str]:
    """Split a text into slices. Each slice except the last ends with a line end."""
    begin = 0
    while len(text) - begin > _SLICE:
        end = text.find("\n", begin + _SLICE) + 1 or len(text)
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _repaired(text: str) -> bytes:
    if text.count("\r\n") != text.count("\r") or text.count("\r") != text.count("\n"):
        text = _LINE_END.sub("\r\n", text)
    return text.encode("ascii")
