"""Check and read a recipients list in the pure-Python backend.

The classes have the interface of the compiled backend (`src/message/list.rs`) and give the same
results.
"""

import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TextIO

from rapidsmtp._compose.invisible import trim
from rapidsmtp._compose.list_file import ListFile
from rapidsmtp._domain import to_a_labels

_EXAMPLES = 3
# The number of addresses that are compared in memory. The addresses of a longer list are first
# distributed to temporary files by their hashes, so that each file is compared in memory.
_IN_MEMORY = 100_000
_FILES = 100
_LOWER = str.maketrans({code: code + 32 for code in range(ord("A"), ord("Z") + 1)})

Example = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """What to look for in a list.

    Attributes:
        address_columns: The columns with the addresses of the recipients.
        needs_at: Whether a cell without an `@` is no address. Otherwise the cells of all columns
            together are the address, if none of them has an `@`.
        finds_repeats: Whether to find repeated addresses.
        drops_repeats: Whether rows with a repeated address are not sent.
        excluded: The addresses that are not sent, as `excluded_form` returns them.
        limit: The maximum number of rows to use. The rows after them are only checked.
    """

    address_columns: Sequence[int] = ()
    needs_at: bool = True
    finds_repeats: bool = False
    drops_repeats: bool = False
    excluded: frozenset[str] = field(default_factory=frozenset)
    limit: int | None = None


class ListCheck:
    """Check a whole list.

    Args:
        file: The list.
        settings: What to look for.

    Attributes:
        rows: The number of rows to use, without empty rows.
        end: The place after the last of these rows, in bytes from the start of the file.
        dropped: The number of rows that are not sent.
        repeated: The number of rows with the address of an earlier row.
        examples: The first of these rows: number, address, and the number of the earlier row.
        similar: The number of rows whose address differs from the address of an earlier row only in
            the case of the local part.
        similar_examples: The first of these rows.
        excluded: The number of rows with an excluded address.

    Raises:
        ValueError: The list is malformed.
        OSError: The list cannot be read.
    """

    def __init__(self, file: ListFile, settings: CheckSettings) -> None:
        self.rows = self.repeated = self.similar = self.excluded = 0
        self.examples: list[Example] = []
        self.similar_examples: list[Example] = []
        # The indexes of the rows that are not sent, sorted.
        self._dropped = array("Q")
        table = _AddressTable()
        columns = settings.address_columns
        self.end = file.start
        for number, cells, end in file.records():
            if settings.limit is not None and self.rows >= settings.limit:
                continue
            row = self.rows
            self.rows += 1
            self.end = end
            found = [trim(cells[each]) if each < len(cells) else "" for each in columns]
            addresses = [cell for cell in found if "@" in cell]
            if not addresses and not settings.needs_at and any(found):
                addresses = found
            if not addresses:
                continue
            compared = [comparable(each) for each in addresses]
            if settings.excluded and any(
                each.translate(_LOWER) in settings.excluded for each in compared
            ):
                self.excluded += 1
                self._dropped.append(row)
            elif settings.finds_repeats:
                table.add("\0".join(compared), row, number)
        self._find_repeats(table, settings.drops_repeats)

    @property
    def dropped(self) -> int:
        """The number of rows that are not sent."""
        return len(self._dropped)

    def is_dropped(self, row: int) -> bool:
        """Return whether a row is not sent. `row` is its index, from 0."""
        place = bisect_left(self._dropped, row)
        return place < len(self._dropped) and self._dropped[place] == row

    def _find_repeats(self, table: "_AddressTable", drops: bool) -> None:
        rows = array("Q")
        for is_exact, row, number, first, address in table.repeats():
            if is_exact:
                self.repeated += 1
                rows.append(row)
                _insert(self.examples, (number, address.replace("\0", ", "), first))
            else:
                self.similar += 1
                _insert(self.similar_examples, (number, address.replace("\0", ", "), number))
        if drops:
            self._dropped = array("Q", sorted([*self._dropped, *rows]))


class RecipientsList:
    """The rows of a checked list, as pending messages.

    Args:
        template: The compiled template.
        file: The list.
        columns: The columns of the template's fields, in order.
        tag: The column whose cell becomes the message's tag, or None.
        check: The result of the check. The rows that it drops are skipped.
        numbered: Whether a tag is a tuple: the number of the row, its line, the tag, and the place
            of the row in the file.
    """

    def __init__(
        self,
        template: Any,
        file: ListFile,
        columns: Sequence[int | None],
        tag: int | None,
        check: ListCheck,
        numbered: bool,
    ) -> None:
        self._template = template
        self._places = {
            name: place
            for name, place in zip(template.fields, columns, strict=True)
            if place is not None
        }
        self._tag = tag
        self._numbered = numbered
        self._rows = checked_rows(file, check)

    def next(self, date: str, id: str, time: int) -> Any:
        """Read the next row and create its pending message. Return None after the last row.

        Raises:
            OSError: The file cannot be read, or was changed after the check.
        """
        row = next(self._rows, None)
        if row is None:
            return None
        count, number, cells, place = row
        tag: Any = _cell(cells, self._tag) if self._tag is not None else None
        tag = (count, number, tag, place) if self._numbered else tag
        values = {name: _cell(cells, place) for name, place in self._places.items()}
        return self._template.pending(values, tag, date, id, time)


def checked_rows(file: ListFile, check: ListCheck) -> Iterator[tuple[int, int, list[str], int]]:
    """Yield the rows of a checked list that are sent.

    Yields:
        The number, the line or the row of a sheet, the cells, and the place in the file in bytes.

    Raises:
        OSError: The file cannot be read, or was changed after the check.
    """
    rows, place = 0, file.start
    # If the file ends too early, its last row may be incomplete. So each row is yielded after the
    # next row was read. Rows that were appended to the file are ignored.
    last: tuple[int, int, list[str], int] | None = None
    try:
        for number, cells, end in islice(file.records(), check.rows):
            if last is not None:
                yield last
            last = None if check.is_dropped(rows) else (rows + 1, number, cells, place)
            rows, place = rows + 1, end
    except ValueError as error:
        raise OSError(str(error)) from None
    if (rows, place) != (check.rows, check.end):
        raise file.changed()
    if last is not None:
        yield last


def comparable(address: str) -> str:
    """Return an address with its domain in lower case and as A-labels."""
    local_part, at, domain = address.rpartition("@")
    if not at:
        return address
    if not domain.isascii():
        try:
            return f"{local_part}@{to_a_labels(domain)}"
        except ValueError:
            pass
    return f"{local_part}@{domain.translate(_LOWER)}"


def excluded_form(address: str) -> str:
    """Return the form in which an excluded address is compared."""
    return comparable(trim(address)).translate(_LOWER)


class _AddressTable:
    """The addresses of a list, each with the index and the number of its row."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, int]] = []
        self._files: list[TextIO] = []

    def add(self, address: str, row: int, number: int) -> None:
        self._rows.append((address, row, number))
        if len(self._rows) > _IN_MEMORY:
            self._write()

    def repeats(self) -> Iterator[tuple[bool, int, int, int, str]]:
        """Yield the rows whose address occurs earlier.

        Yields:
            Whether the address is equal, and not only similar; the index of the row; its number;
            the number of the earlier row; the address.
        """
        if not self._files:
            yield from _repeats(self._rows)
            return
        self._write()
        for file in self._files:
            with file:
                file.seek(0)
                yield from _repeats(map(_parsed, file))

    def _write(self) -> None:
        if not self._files:
            self._files = [
                tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n")  # noqa: SIM115  (`repeats` closes it)
                for _ in range(_FILES)
            ]
        for address, row, number in self._rows:
            file = self._files[hash(address.translate(_LOWER)) % _FILES]
            escaped = address.encode("unicode_escape").decode("ascii")
            file.write(f"{row} {number} {escaped}\n")
        self._rows.clear()


def _parsed(line: str) -> tuple[str, int, int]:
    row, number, address = line.rstrip("\n").split(" ", 2)
    return address.encode("ascii").decode("unicode_escape"), int(row), int(number)


def _repeats(rows: Iterable[tuple[str, int, int]]) -> Iterator[tuple[bool, int, int, int, str]]:
    known: dict[str, int] = {}
    folded: set[str] = set()
    for address, row, number in rows:
        lower = address.translate(_LOWER)
        if address in known:
            yield True, row, number, known[address], address
        else:
            if lower in folded:
                yield False, row, number, number, address
            known[address] = number
            folded.add(lower)


def _insert(examples: list[Example], example: Example) -> None:
    examples.append(example)
    examples.sort()
    del examples[_EXAMPLES:]


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column] if column < len(cells) else ""
