"""A recipients list in CSV: check the whole file, then read its rows one at a time.

`check_csv` and `csv_rows` accept every encoding of Python. When a template is merged with a UTF-8
file, the compiled backend reads the rows with its own reader (`RecipientsList`) instead of
`csv_rows`.
"""

import csv
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

# The maximum number of columns that an error text names. An ellipsis replaces the others.
_SHOWN_COLUMNS = 8
_UTF8 = frozenset(("utf-8", "utf-8-sig", "utf8"))


def is_utf8(encoding: str) -> bool:
    """Return whether an encoding's name means UTF-8, with or without a byte order mark."""
    return encoding.lower() in _UTF8


def check_csv(path: str | PathLike[str], encoding: str, required: Iterable[str]) -> int:
    """Read a CSV file to its end and return the number of its rows.

    Args:
        path: The file; its first line names the columns.
        encoding: The encoding of the file.
        required: The columns that the file must have exactly once.

    Raises:
        ValueError: A required column is missing, a row has too few or too many cells, or the file
            contains bytes that are invalid in the encoding. The error text contains the line
            number.
        OSError: The file cannot be read.
    """
    name, line, count = Path(path).name, 1, 0
    try:
        with _open(path, encoding) as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            for column in sorted(required):
                if columns.count(column) != 1:
                    raise ValueError(f"{name}, line 1: {_column_error(column, columns)}")
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    _check_cells(cells, columns, f"{name}, line {line}")
                    count += 1
                line = reader.line_num + 1
    except UnicodeError:
        raise ValueError(f"{name}, line {line} or later: not in the encoding {encoding}") from None
    except LookupError:
        raise ValueError(f"unknown encoding {encoding!r}") from None
    except csv.Error as error:
        raise ValueError(f"{name}, line {line}: {error}") from None
    return count


def csv_rows(path: str | PathLike[str], encoding: str) -> Iterator[dict[str, Any]]:
    """Read the rows of a CSV file that `check_csv` accepted, one at a time."""
    with _open(path, encoding) as file:
        reader = csv.reader(file, strict=True)
        columns = next(reader, [])[::-1]
        for cells in reader:
            if cells:
                # Columns and cells are reversed, because `dict` keeps the last value of a repeated
                # key. So the first of several columns with the same name is used.
                yield dict(zip(columns, cells[::-1], strict=True))


def _open(path: str | PathLike[str], encoding: str) -> TextIO:
    # The encoding "utf-8-sig" removes a byte order mark. Otherwise the mark would become part of
    # the first column's name.
    encoding = "utf-8-sig" if is_utf8(encoding) else encoding
    return Path(path).open(encoding=encoding, newline="")


def _column_error(column: str, columns: list[str]) -> str:
    if column in columns:
        return f"more than one column {column!r}"
    found = ", ".join(map(repr, columns[:_SHOWN_COLUMNS])) or "none"
    more = ", …" if len(columns) > _SHOWN_COLUMNS else ""
    return f"no column {column!r}; the columns are: {found}{more}"


def _check_cells(cells: list[str], columns: list[str], where: str) -> None:
    if len(cells) < len(columns):
        raise ValueError(f"{where}: no cell for the column {columns[len(cells)]!r}")
    if len(cells) > len(columns):
        raise ValueError(f"{where}: {len(cells)} cells but {len(columns)} columns")
