"""Kernels of `to_bytes`: a message's pieces made one, and header fields that need no folding.

What the compiled half folds besides, the twin leaves to `email`: it answers None.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO

_LINE_END = re.compile(r"\r\n|\n|\r")

_SLICE = 1 << 20
"""Characters of a large text that are repaired at once, so that there is no second copy of it."""


def assemble(pieces: Sequence[str | bytes]) -> bytes:
    """Join pieces; the line ends of those that are text become CRLF.

    Args:
        pieces: octets, and text, which is ASCII.
    """
    with BytesIO() as file:
        for piece in pieces:
            if isinstance(piece, bytes):
                file.write(piece)
            else:
                file.writelines(map(_repaired, _slices(piece)))
        return file.getvalue()


def has_from_line(text: str) -> bool:
    """Whether a line of the text begins with "From "."""
    return text.startswith("From ") or "\nFrom " in text


def mentions(pieces: Iterable[str | bytes], needle: bytes) -> bool:
    """Whether one of the pieces holds these octets, which are ASCII."""
    text = needle.decode("ascii")
    return any((text in piece) if isinstance(piece, str) else needle in piece for piece in pieces)


def fold_field(name: str, value: str, limit: int, source: str) -> bytes | None:
    """Fold a header field where that is plain.

    Args:
        name: its name.
        value: its value; the text of it, where it was parsed.
        limit: characters of the longest line.
        source: `"parsed"`, `"parameters"`, `"lines"` or `"compat32"`: whose way of folding.

    Returns:
        The field with CRLF at its end; None where `email` has to be asked.
    """
    field = f"{name}: {value}"
    if not (value and name and len(field) <= limit and field.isascii() and field.isprintable()):
        return None
    if " " in name or (source == "compat32" and value != value.strip()):
        return None
    return field.encode("ascii") + b"\r\n"


def tree_text(tree: object, plain: Mapping[type, bool]) -> str | None:
    """The text of a parse tree.

    Args:
        tree: the tree.
        plain: which types need not be asked for their `str`; the compiled half's shortcut.

    Returns:
        The text; the compiled half gives None for one that has surrogates.
    """
    return str(tree)


def _slices(text: str) -> Iterator[str]:
    """A text in slices that end with a line end."""
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
