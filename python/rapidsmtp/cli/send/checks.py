"""Checks of a bulk mailing before it is sent. They give warnings, never errors.

Only one message is checked as an example, because all messages are built from the same template.
Duplicate recipients are found by comparing columns of the recipients list, without rendering.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rapidsmtp._compose.template import Template
from rapidsmtp._models.message import Message
from rapidsmtp.cli import display
from rapidsmtp.errors import brief

# The maximum number of recipients that are stored to find duplicates. For each of them, a hash is
# stored, which takes about 100 bytes. If a list is longer, its later rows are compared only with
# the stored recipients, and the warning states this.
_MAX_KNOWN = 4_000_000
_EXAMPLES = 3


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings to stderr, one line each."""
    for warning in warnings:
        display.notice(f"warning: {warning}")


def strict_error(warnings: Sequence[str]) -> str:
    """Return the error text of --strict."""
    fact = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    return f"{fact}, and --strict allows none; nothing was sent"


def check_template(template: Template, message: Message) -> list[str]:
    """Return warnings about the template and one of its messages.

    Args:
        template: The template.
        message: Any message of the mailing. All messages are built from the same template.
    """
    return [str(finding) for finding in template.check(message=message)]


def check_recipients(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> list[str]:
    """Return a list with one warning if a recipient occurs in more than one row, else empty.

    Args:
        rows: The rows of the recipients list.
        columns: The columns that hold recipients. In each row, the cells of these columns that
            contain an "@" are compared with those of the other rows. If no cell contains an "@",
            all of these cells are compared.
    """
    names = sorted(columns)
    if not names:
        return []
    known: set[int] = set()
    examples: list[str] = []
    count = number = 0
    for number, row in enumerate(rows, 1):
        cells = [str(row.get(name) or "").strip().casefold() for name in names]
        addresses = [cell for cell in cells if "@" in cell] or cells
        key = hash(tuple(addresses))
        if key in known:
            count += 1
            if len(examples) < _EXAMPLES:
                examples.append(brief(f"row {number} ({', '.join(addresses)})"))
        elif len(known) < _MAX_KNOWN:
            known.add(key)
    if not count:
        return []
    rest = ", …" if count > len(examples) else ""
    fact = "1 row repeats" if count == 1 else f"{count} rows repeat"
    bound = f"; compared with the first {_MAX_KNOWN} recipients only" if number > _MAX_KNOWN else ""
    return [f"{fact} a recipient of an earlier row: {', '.join(examples)}{rest}{bound}"]
