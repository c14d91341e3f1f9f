"""Kernels of `to_bytes`: a message's pieces made one, and header fields that need no folding.

What the compiled half folds besides, the twin leaves to `email`: it answers None.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

_LINE_END = re.compile(r"\r\n|\n|\r")


def assemble(pieces: Sequence[str | bytes]) -> bytes:
    """Join pieces; the line ends of those that are text become CRLF.

    Args:
        pieces: octets, and text, which is ASCII.
    """
    return b"".join(piece if isinstance(piece, bytes) else _repaired(piece) for piece in pieces)


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


def tree_text(tree: object, plain: Mapping[type, bool]) -> str:
    """The text of a parse tree.

    Args:
        tree: the tree.
        plain: which types need not be asked for their `str`; the compiled half's shortcut.
    """
    return str(tree)


def _repaired(text: str) -> bytes:
    if text.count("\r\n") != text.count("\r") or text.count("\r") != text.count("\n"):
        text = _LINE_END.sub("\r\n", text)
    return text.encode("ascii")
