"""Open a recipients list: a CSV file of any encoding and delimiter, or a workbook.

The backends read CSV in UTF-8 from a file that can be read several times. So a list in another
encoding, a workbook and a pipe are first converted to a temporary file, and the caller deletes this
file with `ListFile.close`. The delimiter and the header are found here.
"""

import codecs
import contextlib
import csv
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rapidsmtp import _charset
from rapidsmtp._compose.workbook import WORKBOOK_SIGNATURES, write_workbook_csv

DELIMITERS = ",;\t|"
"""The delimiters that are detected, the most common first."""

_DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# A program that saves the file again adds empty cells to this line.
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\1*[ ]*\r?\n?', re.IGNORECASE)
_INVALID = re.compile("[\0\udc80-\udcff]")
_BLOCK = 1 << 20
# The maximum length of the header, in characters. A longer header usually has a quote that is not
# closed.
_MAX_HEADER = 1 << 16

NOT_UTF8 = 'the text is not UTF-8; give its encoding, such as encoding="windows-1252"'
NUL = (
    "the text contains a NUL byte; the file is damaged, or its encoding is another one, such as "
    'encoding="utf-16-le"'
)
# For each error text of Python's module `csv`: the error text of `src/message/list/records.rs`.
_CSV_ERRORS = {
    "unexpected end of data": "the quote of a cell is not closed",
    "expected after": (
        "a cell has text after its closing quote; write a quote inside a cell twice"
    ),
    "field larger": "a cell has more than 131072 characters; its quote is probably not closed",
}


@dataclass(slots=True, weakref_slot=True)
class ListFile:
    """A recipients list as CSV in UTF-8, with its header.

    Attributes:
        path: The path of the CSV file: either the list itself or a temporary file.
        name: The name of the list in error texts.
        sheet: Whether the list comes from a workbook. Then rows are counted, and not lines.
        delimiter: The delimiter between two cells.
        header: The names of the columns as they are in the file.
        width: The number of columns.
        header_number: The number of the header's line or row.
        start: The place of the first record after the header, in bytes from the start of the file.
        number: The number of the line or row of the record at `start`.
        cleanup: Deletes the temporary file; None without a temporary file.
        state: The size and the time of the last change of the file.
    """

    path: str
    name: str
    sheet: bool = False
    delimiter: str = ","
    header: list[str] = field(default_factory=list)
    width: int = 0
    header_number: int = 1
    start: int = 0
    number: int = 1
    cleanup: Callable[[], object] | None = None
    state: tuple[int, int] = (0, 0)

    @property
    def unit(self) -> str:
        """The unit of a record's number: lines of a file, or rows of a sheet."""
        return "row" if self.sheet else "line"

    def where(self, number: int) -> str:
        """Return the place of a record in error texts, such as "list.csv, line 3"."""
        return f"{self.name}, {self.unit} {number}"

    def check_unchanged(self) -> None:
        """Check that the file is the same as when it was opened.

        Raises:
            OSError: The file was changed, so the places of its rows may be wrong.
        """
        if _state(self.path) != self.state:
            raise self.changed()

    def changed(self) -> OSError:
        """Create the error for a list that was changed after the check."""
        return OSError(f"{self.name} was changed while it was read")

    def records(self, start: int | None = None) -> Iterator[tuple[int, list[str], int]]:
        """Yield the number, the cells and the end of each record that has a cell with text.

        Args:
            start: The place of the first record, in bytes from the start of the file; None for the
                first record after the header. The numbers count from this record.

        Raises:
            ValueError: A record is malformed or has too many cells.
        """
        with Path(self.path).open("rb") as binary:
            binary.seek(self.start if start is None else start)
            lines = _Lines(binary, self)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
            while True:
                number = lines.number
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise ValueError(f"{self.where(number)}: {csv_error(error)}") from None
                if cells is None:
                    return
                if self.sheet:
                    lines.number = number + 1
                if any(map(str.strip, cells)):
                    self._check_width(cells, number)
                    yield number, cells, lines.place

    def lines(self) -> Iterator[str]:
        """Yield the lines from the start of the file.

        Raises:
            ValueError: A line is not UTF-8.
        """
        with Path(self.path).open("rb") as binary:
            binary.seek(self.start)
            yield from _Lines(binary, self)

    def read_header(self, delimiter: str | None = None) -> None:
        """Read the header, and set the attributes that depend on it.

        Raises:
            ValueError: The header is malformed.
        """
        _read_header(self, "," if self.sheet else delimiter)

    def close(self) -> None:
        """Delete the temporary file."""
        if self.cleanup is not None:
            self.cleanup()

    def _check_width(self, cells: list[str], number: int) -> None:
        # Empty cells at the end are ignored, because spreadsheets write them.
        if len(cells) > self.width and any(map(str.strip, cells[self.width :])):
            raise ValueError(f"{self.where(number)}: {len(cells)} cells but {self.width} columns")


class _Lines(Iterator[str]):
    """The lines of a CSV file, with the place and the number of the next line."""

    def __init__(self, binary: BinaryIO, file: ListFile) -> None:
        # Invalid bytes become surrogates, which `_INVALID` finds.
        self._lines = io.TextIOWrapper(
            binary, encoding="utf-8", errors="surrogateescape", newline=""
        )
        self._file = file
        self.place = file.start
        self.number = file.number

    def __next__(self) -> str:
        line = next(self._lines)
        fault = None if line.isascii() and "\0" not in line else _INVALID.search(line)
        if fault:
            text = NUL if fault[0] == "\0" else NOT_UTF8
            raise ValueError(f"{self._file.where(self.number)}: {text}")
        self.place += len(line) if line.isascii() else len(line.encode("utf-8"))
        if not self._file.sheet:
            self.number += 1
        return line


def encoding_for_label(label: str) -> str:
    """Return Python's name of an encoding, by a label of the Encoding standard or of Python.

    Raises:
        ValueError: The label is unknown.
    """
    codec = _charset.encoding_for_label(label)
    if codec is None:
        raise ValueError(
            f"unknown encoding {label!r}; use a name such as windows-1252, utf-8 or utf-16"
        )
    # A byte order mark is skipped in every encoding.
    return codecs.lookup(codec).name.removesuffix("-sig")


def delimiter_of(text: str) -> str:
    """Return the delimiter that a text states: its name, such as "tab", or the character itself.

    Raises:
        ValueError: The text is neither a name nor one ASCII character.
    """
    delimiter = _DELIMITER_NAMES.get(text.lower(), text)
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise ValueError(f"{text!r} is not a delimiter; use one character such as ';', or tab")
    return delimiter


def open_list_file(
    path: str | os.PathLike[str],
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    sheet: str | None = None,
) -> ListFile:
    """Open a recipients list and read its header.

    Args:
        path: The path; "-" is the standard input.
        encoding: The encoding of a CSV file without a byte order mark. None means UTF-8.
        delimiter: The delimiter. None means that the header shows it.
        sheet: The name of the sheet in a workbook. None means the first sheet.

    Raises:
        ValueError: The file is not a list, or an argument is wrong.
        OSError: The file cannot be read.
    """
    given = delimiter_of(delimiter) if delimiter is not None else None
    file = open_without_header(path, encoding, sheet)
    try:
        file.read_header(given)
    except BaseException:
        file.close()
        raise
    return file


def open_without_header(
    path: str | os.PathLike[str], encoding: str | None = None, sheet: str | None = None
) -> ListFile:
    """Open a recipients list, as `open_list_file` does, but do not read its header.

    Raises:
        ValueError: The file is not a list, or an argument is wrong.
        OSError: The file cannot be read.
    """
    codec = encoding_for_label(encoding) if encoding is not None else None
    file = _converted(os.fsdecode(path), codec, encoding or "", sheet)
    file.state = _state(file.path)
    return file


def _state(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _converted(path: str, codec: str | None, label: str, sheet: str | None) -> ListFile:
    """Return the list as a CSV file in UTF-8 that can be read several times."""
    # The name may have bytes that are not UTF-8.
    name = Path(path).name.encode("utf-8", "backslashreplace").decode()
    is_regular = path != "-" and not path.startswith("/dev/") and _is_regular(path)
    with contextlib.ExitStack() as stack:
        if path == "-":
            if sys.stdin is None:
                raise OSError("the standard input is closed")
            source: BinaryIO = sys.stdin.buffer
        else:
            source = stack.enter_context(Path(path).open("rb"))
        head = source.read(8)
        if head.startswith(WORKBOOK_SIGNATURES):
            file = _temporary(name)
            if not is_regular:
                workbook = Path(file.path).with_name("workbook")
                with workbook.open("wb") as target:
                    target.write(head)
                    shutil.copyfileobj(source, target, _BLOCK)
                path = str(workbook)
            write_workbook_csv(path, name, sheet, file.path)
            file.sheet = True
            return file
        if sheet is not None:
            raise ValueError(f"{name} is not a workbook, so it has no sheet {sheet!r}")
        mark = next((mark for mark in _BYTE_ORDER_MARKS if head.startswith(mark)), b"")
        codec = _BYTE_ORDER_MARKS.get(mark, codec or "utf-8")
        if is_regular and codec == "utf-8":
            return ListFile(path, name, start=len(mark))
        file = _temporary(name)
        with Path(file.path).open("wb") as target:
            _convert(head[len(mark) :], source, target, codec, f"{name}, line", label or codec)
        return file


def _temporary(name: str) -> ListFile:
    try:
        folder = tempfile.mkdtemp(prefix="rapidsmtp-")
    except OSError as error:
        raise OSError(
            error.errno,
            "the list must be copied to a temporary file, and no folder for temporary files can "
            "be used; set TMPDIR to a folder",
        ) from None
    file = ListFile(str(Path(folder, "list.csv")), name)
    file.cleanup = weakref.finalize(file, _remove, folder, os.getpid())
    return file


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a child process after `fork`
        shutil.rmtree(folder, ignore_errors=True)


def _is_regular(path: str) -> bool:
    mode = Path(path).stat().st_mode
    return not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode))


def _convert(
    head: bytes, source: BinaryIO, target: BinaryIO, codec: str, where: str, label: str
) -> None:
    """Copy a text from its encoding to UTF-8."""
    if codec == "utf-8":
        target.write(head)
        shutil.copyfileobj(source, target, _BLOCK)
        return
    decoder = codecs.getincrementaldecoder(codec)()
    number, last = 1, ""
    block = head
    while True:
        try:
            text = decoder.decode(block, not block)
        except UnicodeDecodeError as error:
            text = error.object[: error.start].decode(codec, "replace")
            number += _line_ends(last + text)
            fault = f"the text is not in the encoding {label}; give its encoding"
            raise ValueError(f'{where} {number}: {fault}, such as encoding="utf-8"') from None
        target.write(text.encode("utf-8", "surrogatepass"))
        # The last character of a block is counted with the next block, because a CR and its LF may
        # be in two blocks.
        number += _line_ends(last + text[:-1]) if text else 0
        last = text[-1:] or last
        if not block:
            return
        block = source.read(_BLOCK)


def _line_ends(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def csv_error(error: csv.Error) -> str:
    """Return the text of an error of the module `csv`, as the compiled backend gives it."""
    text = str(error)
    return next((ours for theirs, ours in _CSV_ERRORS.items() if theirs in text), text)


def _read_header(file: ListFile, delimiter: str | None) -> None:
    """Read the header, and set the attributes of `file` that depend on it."""
    with Path(file.path).open("rb") as binary:
        binary.seek(file.start)
        lines = _Lines(binary, file)
        text, number = "", 1
        for line in lines:
            separator = _SEPARATOR_LINE.fullmatch(line) if lines.number == 2 else None
            if separator is not None:  # Excel reads the delimiter from this line
                try:
                    delimiter = delimiter or delimiter_of(separator[1])
                except ValueError as error:
                    raise ValueError(f"{file.where(number)}: {error}") from None
                number = lines.number
                continue
            text += line
            file.delimiter = delimiter or _detected(text)
            cells = _header_cells(text, file.delimiter, file.where(number))
            if cells is not None and any(map(str.strip, cells)):
                file.header, file.width, text = cells, len(cells), ""
                break
            if cells is not None:
                text, number = "", number + 1 if file.sheet else lines.number
        if text:
            raise ValueError(f"{file.where(number)}: {_CSV_ERRORS['unexpected end of data']}")
        file.header_number = number
        file.start = lines.place
        file.number = number + 1 if file.sheet else lines.number


def _header_cells(text: str, delimiter: str, where: str) -> list[str] | None:
    """Return the cells of a header; None if it continues on the next line.

    Raises:
        ValueError: The text is malformed.
    """
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        if "unexpected end of data" in str(error) and len(text) <= _MAX_HEADER:
            return None
        raise ValueError(f"{where}: {csv_error(error)}") from None


def _detected(header: str) -> str:
    """Return the delimiter that occurs most often in a header outside quotes."""
    bare = re.sub(r'"[^"]*"', "", header)
    # In a header such as "Name, first name;Address", a comma belongs to a name more often than
    # another delimiter.
    found = max(reversed(DELIMITERS), key=bare.count)
    return found if found in bare else ","
