"""The recipients list of `rapidsmtp send`: a CSV file that is checked before the sending starts.

The file is read more than once: first to check it, then to read the rows. A file that can be read
only once (a pipe, `/dev/stdin`) is first copied to a temporary file.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidsmtp._compose.recipients_csv import check_csv, csv_rows
from rapidsmtp.cli.usage import UsageError


@dataclass(frozen=True, slots=True)
class RecipientsFile:
    """A recipients list without errors. `open_recipients` has checked it.

    Attributes:
        path: The path of a CSV file that can be read repeatedly.
        encoding: The encoding of the file.
        total: The number of rows.
    """

    path: str
    encoding: str
    total: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows, one at a time."""
        return csv_rows(self.path, self.encoding)


@contextlib.contextmanager
def open_recipients(
    to: str, columns: Iterable[str], encoding: str = "utf-8-sig"
) -> Iterator[RecipientsFile]:
    """Check the whole recipients list, and yield an object that reads its rows.

    Args:
        to: A path, or "-" for the standard input.
        columns: The names of the columns that the list must have.
        encoding: The character encoding of the list.

    Yields:
        The recipients list. It can be read until the `with` block ends.

    Raises:
        UsageError: The list cannot be read or has an error.
    """
    with _rereadable(to) as path:
        try:
            total = check_csv(path, encoding, columns)
            _check_text(path, to, encoding)
        except OSError as error:
            raise UsageError(f"{to}: {error.strerror}") from None
        except ValueError as error:
            # The error must name the user's file, not the temporary copy.
            raise UsageError(str(error).replace(Path(path).name, Path(to).name)) from None
        if not total:
            raise UsageError(f"{to}: the list has column names but no rows")
        yield RecipientsFile(path, encoding, total)


@contextlib.contextmanager
def _rereadable(to: str) -> Iterator[str]:
    """Yield the path `to`. If its file can be read only once, yield the path of a copy."""
    path = Path(to)
    # A path such as /dev/stdin may name a file that is already open. If such a path is opened
    # twice, some systems start the second reading where the first reading ended. So the file is
    # copied, and the copy is read.
    if to != "-" and not to.startswith("/dev/") and not _is_pipe(path):
        yield to
        return
    with tempfile.TemporaryDirectory(prefix="rapidsmtp-") as folder:
        copy = Path(folder, "the list")
        try:
            source = sys.stdin.buffer if to == "-" else path.open("rb")
            with source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise UsageError(f"{to}: {error.strerror}") from None
        yield str(copy)


def _is_pipe(path: Path) -> bool:
    return path.is_fifo() or path.is_socket() or path.is_char_device()


def _check_text(path: str, to: str, encoding: str) -> None:
    """Refuse a file that contains NUL. Such a file is damaged or is not in this encoding."""
    with Path(path).open(encoding=encoding) as file:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                raise UsageError(f"{to}, line {number}: the line contains a NUL byte")
