"""A recipients list: find the columns of a template's fields, check the whole list, read its rows.

`open_recipients_list` reads the file once, in the selected backend. The check finds malformed rows,
and the rows that are not sent: repeated addresses, and addresses of an exclusion list.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

from rapidsmtp import _backend
from rapidsmtp._compose.list_columns import (
    RECIPIENT_FIELD,
    ListColumns,
)
from rapidsmtp._compose.list_file import ListFile, open_list_file, open_without_header
from rapidsmtp._compose.merge import ListMerge
from rapidsmtp._compose.pure_list import CheckSettings, Example, excluded_form

Duplicates = Literal["first", "all", "error"]
_DUPLICATES = get_args(Duplicates)
# An address in a line of an exclusion list, such as "Archer, Ann" <ann@example.com>.
_ADDRESS = re.compile(r"[^\s,;|\"<>()]+@[^\s,;|\"<>()]+")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """How to read a recipients list. `Template.merge_csv` describes the attributes.

    Attributes:
        encoding: The encoding of a file without a byte order mark.
        delimiter: The delimiter between cells.
        sheet: The sheet of a workbook.
        columns: The columns of fields, by field.
        recipient: The recipient column.
        tag: The column whose cell becomes the message's tag.
        duplicates: What to do with rows that have the address of an earlier row.
        exclude: The files with the addresses that are not sent.
        limit: The maximum number of rows to use.
        compares: Whether repeated addresses are found if `duplicates` is "all".
        provided: Fields of the template that need no column.
    """

    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    recipient: str | None = None
    tag: str | None = None
    duplicates: Duplicates = "first"
    exclude: Sequence[str | os.PathLike[str]] = ()
    limit: int | None = None
    compares: bool = True
    provided: Sequence[str] = ()


class CheckedList:
    """A recipients list that was read to its end without an error.

    Args:
        template: The compiled template.
        file: The list.
        columns: The columns of the template's fields, by field.
        tag: The column of the tag, or None.
        check: The result of the check.
        missing: A text for each field of the template without a column.
        drops_repeats: Whether rows with the address of an earlier row are not sent.
        names: The names of all columns.
        has_recipients: Whether a header field of recipients, such as To, has a field.

    Attributes:
        file: The list.
        columns: The columns of the template's fields, by field.
        unit: What a number of a row counts: "line", or "row" of a sheet.
        rows: The number of rows to use, without empty rows.
        total: The number of rows that are sent.
        repeated: The number of rows with the address of an earlier row.
        examples: The first of these rows: number, address, and the number of the earlier row.
        similar: The number of rows whose address differs from the address of an earlier row only in
            the case of the local part.
        similar_examples: The first of these rows.
        excluded: The number of rows with an excluded address.
        missing: A text for each field of the template without a column.
        drops_repeats: Whether rows with the address of an earlier row are not sent.
        names: The names of all columns.
        has_recipients: Whether a header field of recipients, such as To, has a field. Otherwise
            all messages have the same recipients.
    """

    def __init__(
        self,
        template: "_backend.Template",
        file: ListFile,
        columns: Mapping[str, int],
        tag: int | None,
        check: "_backend.ListCheck",
        missing: Sequence[str],
        drops_repeats: bool,
        names: Sequence[str],
        has_recipients: bool,
    ) -> None:
        self._template, self._file, self._columns = template, file, columns
        self._tag, self._check = tag, check
        self.file, self.columns = file, columns
        self.unit = file.unit
        self.rows = check.rows
        self.total = check.rows - check.dropped
        self.repeated, self.examples = check.repeated, check.examples
        self.similar, self.similar_examples = check.similar, check.similar_examples
        self.excluded = check.excluded
        self.missing = missing
        self.drops_repeats = drops_repeats
        self.names = names
        self.has_recipients = has_recipients

    def merge(self, limit: int | None = None, *, numbered: bool = False) -> ListMerge:
        """Merge the rows that are sent.

        Args:
            limit: The maximum number of rows.
            numbered: Whether a tag is a tuple: the number of the row, its line, the tag, and the
                place of the row in the file.

        Raises:
            OSError: The file was changed after the check, or cannot be read.
        """
        self._file.check_unchanged()
        places = [self._columns.get(name) for name in self._template.fields]
        rows = _backend.templates().RecipientsList(
            self._template, self._file, places, self._tag, self._check, numbered
        )
        return ListMerge(rows, limit, self.check_unchanged, self.repeated, self.excluded)

    def chunks(
        self, size: int, key: int | None, addresses: Sequence[int], *, hashes: bool
    ) -> "_backend.ListChunks":
        """Read the rows that are sent in chunks.

        Args:
            size: The maximum number of rows in a chunk.
            key: The column that identifies a row; None for the addresses.
            addresses: The columns with the addresses of the recipients.
            hashes: Whether to compute the hashes of the rows' keys.

        Raises:
            OSError: The file was changed after the check, or cannot be read.
        """
        self._file.check_unchanged()
        chunks: _backend.ListChunks = _backend.templates().ListChunks(
            self._file, self._check, size, key, addresses, hashes
        )
        return chunks

    def fields(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the fields of the rows that are sent, as mappings."""
        for cells in islice(self._kept(), limit):
            yield {name: _cell(cells[1], place) for name, place in self._columns.items()}

    def tags(self, limit: int | None = None) -> Iterator[tuple[int, int, str | None]]:
        """Yield the number, the line and the tag of each row that is sent."""
        for numbers, cells in islice(self._kept(), limit):
            yield *numbers, None if self._tag is None else _cell(cells, self._tag)

    def cells(self, skipped: int) -> Iterator[list[str]]:
        """Yield the cells of the rows that are sent, without the first `skipped` rows."""
        for _, cells in islice(self._kept(), skipped, None):
            yield self._whole(cells)

    def cells_at(self, place: int) -> list[str]:
        """Return the cells of the row at a place, in bytes from the start of the file.

        If the file was changed or cannot be read, the cells are empty.
        """
        try:
            self._file.check_unchanged()
            _, cells, _ = next(self._file.records(place))
        except (OSError, ValueError, StopIteration):
            cells = []
        return self._whole(cells)

    def _whole(self, cells: list[str]) -> list[str]:
        """Return the cells of a row, one for each column."""
        return (cells + [""] * len(self.names))[: len(self.names)]

    def check_unchanged(self) -> None:
        """Check that the file was not changed after the check.

        Raises:
            OSError: The file was changed.
        """
        self._file.check_unchanged()

    def named(self, column: str) -> int:
        """Return the place of a column.

        Raises:
            ValueError: There is no such column, or more than one.
        """
        return ListColumns(self._file).named(column)

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()

    def _kept(self) -> Iterator[tuple[tuple[int, int], list[str]]]:
        self._file.check_unchanged()
        records = islice(self._file.records(), self.rows)
        for row, (number, cells, _) in enumerate(records):
            if not self._check.is_dropped(row):
                yield (row + 1, number), cells


def open_recipients_list(
    path: str | os.PathLike[str],
    options: ListOptions,
    template: "_backend.Template",
    recipient_fields: Sequence[str],
) -> CheckedList:
    """Open a recipients list and check it.

    Args:
        path: The path; "-" is the standard input.
        options: How to read the list.
        template: The compiled template.
        recipient_fields: The fields in the header fields of recipients, such as To.

    Raises:
        ValueError: The list is malformed, lacks a column, or has a repeated address although
            `duplicates` is "error".
        OSError: A file cannot be read.
    """
    if options.duplicates not in _DUPLICATES:
        raise ValueError(
            f"duplicates is {options.duplicates!r}: it must be one of {', '.join(_DUPLICATES)}"
        )
    excluded = frozenset().union(
        *(excluded_addresses(each, options.encoding) for each in options.exclude)
    )
    file = open_list_file(
        path, encoding=options.encoding, delimiter=options.delimiter, sheet=options.sheet
    )
    try:
        columns = ListColumns(file, options.columns, options.recipient)
        required = template.required_fields
        places = {
            name: columns.place_of(name, is_required=name in required) for name in template.fields
        }
        missing = [name for name, place in places.items() if place is None]
        for name in missing:
            if name in required:
                raise ValueError(columns.missing(name))
        tag = columns.named(options.tag) if options.tag is not None else None
        found = {name: place for name, place in places.items() if place is not None}
        check = _backend.templates().ListCheck(
            file, _settings(options, columns, found, recipient_fields, excluded)
        )
        if options.duplicates == "error" and check.repeated:
            raise ValueError(_repeated(file, check.examples, check.repeated))
        warnings = [columns.warning(name) for name in missing]
        drops = options.duplicates == "first"
        return CheckedList(
            template,
            file,
            found,
            tag,
            check,
            warnings,
            drops,
            columns.names,
            bool(recipient_fields),
        )
    except BaseException:
        file.close()
        raise


def repeated_rows(examples: Sequence[Example], count: int, unit: str) -> str:
    """Return the first of some rows for an error text or a warning."""
    shown = ", ".join(f"{unit} {number} ({address})" for number, address, _ in examples)
    return f"{shown}, …" if count > len(examples) else shown


def _settings(
    options: ListOptions,
    columns: ListColumns,
    found: Mapping[str, int],
    recipient_fields: Iterable[str],
    excluded: frozenset[str],
) -> CheckSettings:
    usual = found.get(RECIPIENT_FIELD)
    addresses = sorted({found[name] for name in recipient_fields if name in found})
    if options.recipient is not None:
        usual = columns.named(options.recipient)
        addresses = [usual]
    return CheckSettings(
        address_columns=addresses,
        # If the recipients come from other columns, such as a user and a domain, these columns
        # together are the address.
        needs_at=usual in addresses,
        finds_repeats=options.compares or options.duplicates != "all",
        drops_repeats=options.duplicates == "first",
        excluded=excluded,
        limit=options.limit,
    )


def _repeated(file: ListFile, examples: Sequence[Example], count: int) -> str:
    number, address, first = examples[0]
    more = f"; {count} rows repeat an address" if count > 1 else ""
    return (
        f"{file.where(number)}: the address {address} is already in {file.unit} {first}{more}; use "
        'duplicates="first" to send to the first one only'
    )


def excluded_addresses(path: str | os.PathLike[str], encoding: str | None) -> frozenset[str]:
    """Return the addresses of an exclusion list.

    The list may be in UTF-8 although the recipients list has another encoding.

    Raises:
        ValueError: The file is malformed, or has no column with addresses.
        OSError: The file cannot be read.
    """
    try:
        return _addresses(path, None)
    except ValueError:
        if encoding is None:
            raise
        return _addresses(path, encoding)


def _addresses(path: str | os.PathLike[str], encoding: str | None) -> frozenset[str]:
    """Return the addresses of an exclusion list: one in a line, or a column of a CSV file.

    Raises:
        ValueError: The file is malformed, or has no column with addresses.
        OSError: The file cannot be read.
    """
    file = open_without_header(path, encoding)
    try:
        first = next(filter(str.strip, file.lines()), "")
        if _ADDRESS.search(first) or first.startswith("#"):
            found = (_ADDRESS.search(line) for line in file.lines() if not line.startswith("#"))
            return frozenset(excluded_form(match[0]) for match in found if match)
        file.read_header()
        columns = ListColumns(file)
        place = columns.recipient()
        if place is None and first:
            raise ValueError(
                f"{file.where(file.header_number)}: no column with addresses was found; write one "
                "address in each line, or name the column email"
            )
        cells = (_cell(record, place or 0) for _, record, _ in file.records())
        return frozenset(excluded_form(each) for each in cells if "@" in each)
    finally:
        file.close()


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column] if column < len(cells) else ""
