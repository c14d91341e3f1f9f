"""The recipients list of `rapidsmtp send`, which is checked before the sending starts."""

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from rapidsmtp._compose.list_columns import is_address
from rapidsmtp._compose.recipients_list import CheckedList, ListOptions
from rapidsmtp._compose.template import Template, open_list
from rapidsmtp.cli.usage import UsageError, name_options

_COLUMN = re.compile(r"\s*([^\W\d]\w*)\s*=(.+)", re.DOTALL)


def list_options(options: argparse.Namespace) -> ListOptions:
    """Return how to read the recipients list.

    Raises:
        UsageError: An option is wrong.
    """
    columns: dict[str, str] = {}
    for text in options.column or []:
        match = _COLUMN.fullmatch(text)
        if match is None:
            raise UsageError(f"--column {text!r} is not of the form FIELD=COLUMN")
        if match[1] in columns:
            raise UsageError(f"--column {match[1]} is given twice")
        columns[match[1]] = match[2]
    return ListOptions(
        encoding=options.encoding,
        delimiter=options.delimiter,
        sheet=options.sheet,
        columns=columns,
        recipient=options.recipient_column,
        tag=options.tag,
        duplicates=options.duplicates,
        exclude=options.exclude or [],
        limit=options.limit,
        compares=not options.no_warnings,
    )


@contextlib.contextmanager
def open_recipients(to: str, template: Template, options: ListOptions) -> Iterator[CheckedList]:
    """Check the whole recipients list, and yield it.

    Args:
        to: A path, or "-" for the standard input.
        template: The template whose fields are the columns of the list.
        options: How to read the list.

    Yields:
        The recipients list. It can be read until the `with` block ends.

    Raises:
        UsageError: The list cannot be read or has an error.
    """
    try:
        recipients = open_list(template, to, options)
    except FileNotFoundError as error:
        if is_address(to) and not Path(to).exists():
            raise UsageError(
                f"--to {to} is an address, but --to needs a recipients list; write a file with the "
                "line email and below it the address. For a test, use --to with the list and "
                f"--test-to {to}"
            ) from None
        raise UsageError(f"{error.filename or to}: {error.strerror}") from None
    except OSError as error:
        raise UsageError(f"{error.filename or to}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(name_options(str(error))) from None
    with contextlib.closing(recipients):
        if not recipients.rows:
            raise UsageError(f"{to}: the list has column names but no rows")
        yield recipients
