"""A message and a list of recipients, which is read through before anything is sent.

A list is read more than once: to check it, and then row by row. So one that can be read only
once (a pipe, `/dev/stdin`) is first copied to a temporary file.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidsmtp.cli.composition import Composition
from rapidsmtp.cli.usage import UsageError
from rapidsmtp.template import Template, check_csv, csv_rows


@dataclass(frozen=True, slots=True)
class Listing:
    """What is sent to whom.

    Attributes:
        template: The message.
        columns: The fields that its To, Cc and Bcc hold.
        path: A CSV file that can be read again and again.
        encoding: Its encoding.
        total: The number of its rows.
    """

    template: Template
    columns: frozenset[str]
    path: str
    encoding: str
    total: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows, one at a time."""
        return csv_rows(self.path, self.encoding)


@contextlib.contextmanager
def load(
    composed: Composition, to: str, encoding: str = "utf-8-sig", tag: str | None = None
) -> Iterator[Listing]:
    """Read the list through.

    Args:
        composed: The message.
        to: A path, or "-" for the standard input.
        encoding: That of the CSV file.
        tag: A column that must be there beside those of the template.

    Raises:
        UsageError: Something is wrong with it.
    """
    with _kept(to) as path:
        try:
            required = composed.template.required_fields | ({tag} if tag else set())
            total = check_csv(path, encoding, required)
            _check_text(path, to, encoding)
        except OSError as error:
            raise UsageError(f"{to}: {error.strerror}") from None
        except ValueError as error:
            # The list has the name that the user gave it.
            raise UsageError(str(error).replace(Path(path).name, Path(to).name)) from None
        if not total:
            raise UsageError(f"{to}: no rows, only the names of the columns")
        yield Listing(composed.template, composed.columns, path, encoding, total)


@contextlib.contextmanager
def _kept(to: str) -> Iterator[str]:
    """Give a path that can be opened again."""
    path = Path(to)
    # What stands in /dev may be a file that this process has read from already.
    if to != "-" and not to.startswith("/dev/") and not _is_pipe(path):
        yield to
        return
    with tempfile.TemporaryDirectory(prefix="rapidsmtp-") as folder:
        copy = Path(folder, "the list")
        try:
            source = sys.stdin.buffer if to == "-" else path.open("rb")
            with source, copy.open("wb") as kept:
                shutil.copyfileobj(source, kept)
        except OSError as error:
            raise UsageError(f"{to}: {error.strerror}") from None
        yield str(copy)


def _is_pipe(path: Path) -> bool:
    return path.is_fifo() or path.is_socket() or path.is_char_device()


def _check_text(path: str, to: str, encoding: str) -> None:
    """NUL stands in no text: the file was cut off by a crash, or is in another encoding."""
    with Path(path).open(encoding=encoding) as file:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                raise UsageError(f"{to}, line {number}: a NUL byte")
