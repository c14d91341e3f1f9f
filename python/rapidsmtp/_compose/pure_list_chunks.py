"""Divide a checked recipients list into the chunks of a campaign's journal.

`ListChunks` and `repeated_keys` have the interface of the compiled backend
(`src/message/list/list_chunks.rs`, `src/message/list/repeated_keys.rs`) and give the same results.
Only the hashes are others.
"""

import csv
import hashlib
import io
from array import array
from collections.abc import Iterable, Sequence
from itertools import islice

from rapidsmtp._compose.invisible import trim
from rapidsmtp._compose.list_file import ListFile
from rapidsmtp._compose.pure_list import ListCheck, checked_rows, comparable


class ListChunks:
    """A checked list that is read chunk by chunk.

    Args:
        file: The list.
        check: The result of the check.
        size: The maximum number of rows in a chunk.
        key: The column that identifies a row; None for the addresses.
        addresses: The columns with the addresses of the recipients.
        hashes: Whether to compute the hashes of the rows' keys.
    """

    def __init__(
        self,
        file: ListFile,
        check: ListCheck,
        size: int,
        key: int | None,
        addresses: Sequence[int],
        hashes: bool,
    ) -> None:
        self._rows = checked_rows(file, check)
        self._size, self._delimiter = size, file.delimiter
        self._key, self._addresses, self._hashes = key, addresses, hashes

    def next(self) -> tuple[int, bytes, bytes] | None:
        """Read the next chunk.

        Returns:
            The number of rows, the rows in CSV, and the hashes of their keys, as 64-bit numbers in
            the byte order of this machine; 0 for a row without a key. None after the last row.

        Raises:
            OSError: The file cannot be read, or was changed after the check.
        """
        rows = [cells for _, _, cells, _ in islice(self._rows, self._size)]
        if not rows:
            return None
        hashes = packed(map(self._key_of, rows)) if self._hashes else b""
        return len(rows), csv_of(rows, self._delimiter), hashes

    def _key_of(self, cells: Sequence[str]) -> str | None:
        if self._key is not None:
            return _cell(cells, self._key).strip() or None
        return key_of_addresses(_cell(cells, column) for column in self._addresses)


def repeated_keys(hashes: Iterable[bytes], part: int, parts: int) -> list[tuple[int, int]]:
    """Return the rows of a part of a list whose key occurs in an earlier row.

    Args:
        hashes: The hashes of all rows in order, as `ListChunks` returns them.
        part: The number of the part, from 0.
        parts: The number of parts, a power of two.

    Returns:
        Each row with the first row that has its key. Rows are counted from 1.
    """
    mask, row, entries = parts - 1, 0, list[tuple[int, int]]()
    for block in hashes:
        numbers = array("q", block)
        entries += [
            (each, row + place)
            for place, each in enumerate(numbers, 1)
            if each & mask == part and each
        ]
        row += len(numbers)
    first: dict[int, int] = {}
    found = ((number, first.setdefault(each, number)) for each, number in entries)
    return [(number, earlier) for number, earlier in found if number != earlier]


def csv_of(rows: Iterable[Sequence[str]], delimiter: str) -> bytes:
    """Return rows in CSV, in UTF-8."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode("utf-8")


def addresses_in(cells: Iterable[str]) -> list[str]:
    """Return the addresses in cells, in the form in which they are compared."""
    found = map(trim, cells)
    return [comparable(address) for address in found if "@" in address]


def key_of_addresses(cells: Iterable[str]) -> str | None:
    """Return the key of a row that its addresses identify; None if it has no address."""
    return "\0".join(addresses_in(cells)) or None


def hash_of_key(key: str) -> int:
    """Return a hash of a key: a number of 64 bits with a sign, and not 0."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1


def packed(keys: Iterable[str | None]) -> bytes:
    """Return the hashes of keys as `ListChunks.next` does."""
    return array("q", (0 if key is None else hash_of_key(key) for key in keys)).tobytes()


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column] if column < len(cells) else ""
