"""Load a list into the chunks of a journal."""

import hashlib
import os
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

from rapidsmtp import _backend
from rapidsmtp._compose.merge import mapping_of
from rapidsmtp._compose.pure_list_chunks import csv_of, hash_of_key, packed
from rapidsmtp._compose.recipients_list import ListOptions
from rapidsmtp._compose.template import Template, destination_fields, open_list
from rapidsmtp.campaign.chunk_rows import compressed, json_lines_of, key_of
from rapidsmtp.campaign.database import Database
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import Columns, OutcomeRecord, RowStatus

MIN_CHUNK, MAX_CHUNK = 5000, 10_000
_CHUNKS = 200
# Each relay leases one chunk after the other. So a list for several relays is divided into several
# chunks for each relay.
_CHUNKS_OF_RELAY, _MIN_CHUNK_OF_RELAY = 10, 100
_ITERABLE_CHUNK = 1000
_KEYS_AT_ONCE = 1 << 19
"""The number of keys of a list that are compared at a time."""


class LoadedChunk(NamedTuple):
    """Rows to load.

    Attributes:
        rows: The number of rows.
        text: The rows in CSV or as lines of JSON.
        hashes: The hashes of the keys of the rows (see `ListChunks`), or b"".
    """

    rows: int
    text: bytes
    hashes: bytes


@dataclass(frozen=True, slots=True)
class Source:
    """A list to load.

    Attributes:
        columns: How to read the rows.
        format: 'csv' or 'jsonl'.
        chunks: A function that yields the chunks. Its argument: whether the chunks need hashes.
    """

    columns: Columns
    format: str
    chunks: Callable[[bool], Iterator[LoadedChunk]]


def source_of_rows(columns: Columns, form: str, rows: Iterable[Any]) -> Source:
    """Return a source of rows: lists of cells for 'csv', mappings for 'jsonl'."""

    def chunks(hashes: bool) -> Iterator[LoadedChunk]:
        iterator = iter(rows)
        while some := list(islice(iterator, _ITERABLE_CHUNK)):
            text = csv_of(some, columns.delimiter) if form == "csv" else json_lines_of(some)
            keys = (key_of(row, columns) for row in some)
            yield LoadedChunk(len(some), text, packed(keys) if hashes else b"")

    return Source(columns, form, chunks)


def open_source(
    template: Template,
    rows: str | os.PathLike[str] | Iterable[Any],
    *,
    key: str | None,
    options: ListOptions,
    relays: int = 1,
) -> Source:
    """Open a list: a file, or the rows of a program.

    Args:
        template: The template.
        rows: The path of a CSV file or a workbook, or mappings.
        key: The column or the field that identifies a row; None for the addresses.
        options: How to read a file.
        relays: The number of relays.

    Raises:
        ValueError: The list is malformed, or lacks a column.
        OSError: The file cannot be read.
    """
    if isinstance(rows, (str, os.PathLike)):
        return _open_file(template, rows, key, options, relays)
    mappings: Iterable[Any] = rows
    source = iter(mapping_of(row) for row in mappings)
    first = next(source, None)
    if first is None:
        raise ValueError("the list has no rows")
    if key is not None and key not in first:
        raise ValueError(f"the key field {key!r} is missing; the fields are: {', '.join(first)}")
    columns = Columns(list(first), {}, destination_fields(template), key)
    return source_of_rows(columns, "jsonl", chain([first], source))


def _open_file(
    template: Template,
    path: str | os.PathLike[str],
    key: str | None,
    options: ListOptions,
    relays: int,
) -> Source:
    checked = open_list(template, path, options)
    file = checked.file
    places = checked.columns
    recipient = sorted({places[name] for name in destination_fields(template) if name in places})
    if options.recipient is not None:
        recipient = [checked.named(options.recipient)]
    names = [name or f"column {place}" for place, name in enumerate(file.header, 1)]
    key_column = None if key is None else checked.named(key)
    columns = Columns(names, dict(places), recipient, key_column, file.delimiter)
    if not checked.rows:
        checked.close()
        raise ValueError(f"{file.name}: the list has no rows")
    size = _chunk_size(checked.rows, relays)

    def chunks(hashes: bool) -> Iterator[LoadedChunk]:
        try:
            rows = checked.chunks(size, key_column, recipient, hashes=hashes)
            while chunk := rows.next():
                yield LoadedChunk(*chunk)
            file.check_unchanged()
        finally:
            checked.close()

    return Source(columns, "csv", chunks)


def _chunk_size(rows: int, relays: int) -> int:
    """Return the number of rows in a chunk.

    Each chunk needs several transactions, and each transaction waits for the disk. So a chunk of a
    large list has several thousand rows.
    """
    size = max(MIN_CHUNK, min(MAX_CHUNK, rows // _CHUNKS))
    if relays == 1:
        return size
    return max(_MIN_CHUNK_OF_RELAY, min(size, rows // (relays * _CHUNKS_OF_RELAY)))


def create_campaign(
    database: Database,
    *,
    name: str,
    message: bytes,
    settings: str,
    columns: str,
    relays: Sequence[tuple[str, int]],
    now: int,
) -> tuple[int, str]:
    """Insert a campaign in the state "loading", and return its number and its id."""
    campaign_id = secrets.token_hex(8)
    with database.transaction():
        (number,) = database.execute("SELECT coalesce(max(no), 0) + 1 FROM campaign").fetchone()
        database.execute(
            "INSERT INTO campaign (no, id, name, state, message, settings, columns, rows, "
            "list_sha256, created_at) VALUES (?, ?, ?, 'loading', ?, ?, ?, 0, '', ?)",
            (number, campaign_id, name, message, settings, columns, now),
        )
        database.executemany(
            "INSERT INTO relay (campaign, no, url, weight, state) VALUES (?, ?, ?, ?, 'up')",
            [(number, place, url, weight) for place, (url, weight) in enumerate(relays)],
        )
    return int(number), campaign_id


class Loader:
    """Writes the rows of a list as chunks.

    Args:
        journal: The journal.
        columns: How to read the rows.
        finds_repeats: Whether to find rows whose key occurs in an earlier row of this loader.

    Attributes:
        rows: The number of rows in the journal.
    """

    def __init__(self, journal: Journal, columns: Columns, *, finds_repeats: bool = False) -> None:
        self._journal = journal
        self._database = journal.database
        self._columns = columns
        self._digest = hashlib.sha256()
        self._finds_repeats = finds_repeats
        if finds_repeats:
            self._database.execute(
                "CREATE TEMP TABLE loaded (first integer PRIMARY KEY, hashes BLOB)"
            )
            self._database.execute(
                "CREATE TEMP TABLE repeated (row integer PRIMARY KEY, earlier bigint)"
            )
        row = self._database.execute(
            "SELECT count(*), coalesce(sum(count), 0) FROM chunk WHERE campaign = ?",
            (journal.campaign,),
        ).fetchone()
        self._chunk: int = row[0]
        self.rows: int = row[1]

    def add(self, source: Source) -> None:
        """Write all chunks of a source, each in one transaction."""
        for chunk in source.chunks(self._finds_repeats):
            data = compressed(chunk.text)
            self._digest.update(data)
            with self._database.transaction():
                self._insert(chunk, data, source.format)

    def _insert(self, chunk: LoadedChunk, data: bytes, format: str) -> None:
        campaign = self._journal.campaign
        first = self.rows + 1
        self._database.execute(
            "INSERT INTO chunk (campaign, no, first, count, format, rows) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (campaign, self._chunk, first, chunk.rows, format, data),
        )
        self._database.execute(
            "INSERT INTO lease (campaign, chunk, state, due_at) VALUES (?, ?, 'waiting', 0)",
            (campaign, self._chunk),
        )
        self._database.execute(
            "UPDATE campaign SET rows = rows + ? WHERE no = ?", (chunk.rows, campaign)
        )
        if self._finds_repeats:
            self._database.execute("INSERT INTO loaded VALUES (?, ?)", (first, chunk.hashes))
        self._chunk += 1
        self.rows += chunk.rows

    def finish(self) -> None:
        """Save the hash of the list, and make the campaign ready."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE campaign SET state = 'ready', list_sha256 = ? WHERE no = ?",
                (self._digest.hexdigest(), self._journal.campaign),
            )

    def find_repeats(self) -> int:
        """Find the rows whose key occurs in an earlier row, and return their number."""
        find = _backend.templates().repeated_keys
        # Only a part of the keys is compared at a time. So the memory does not depend on the number
        # of rows.
        parts = 1
        while self.rows > parts * _KEYS_AT_ONCE:
            parts *= 2
        count = 0
        with self._database.transaction():
            for part in range(parts):
                stored = self._database.execute("SELECT hashes FROM loaded ORDER BY first")
                hashes = (row[0] for row in iter(stored.fetchone, None))
                found = find(hashes, part, parts)
                self._database.executemany("INSERT INTO repeated VALUES (?, ?)", found)
                count += len(found)
        self._database.execute("DROP TABLE loaded")
        return count

    def repeats(self) -> Iterator[tuple[int, int]]:
        """Yield each row that `find_repeats` has found, and the first row with its key."""
        found = self._database.execute("SELECT row, earlier FROM repeated ORDER BY row")
        yield from iter(found.fetchone, None)

    def suppress_repeats(self, now: int) -> None:
        """Set the status SUPPRESSED for the rows that `find_repeats` has found."""
        bounds = self._database.execute(
            "SELECT first, no FROM chunk WHERE campaign = ? ORDER BY first",
            (self._journal.campaign,),
        ).fetchall()
        firsts = [first for first, _ in bounds]
        for place, repeats in groupby(
            self.repeats(), lambda repeat: bisect_right(firsts, repeat[0]) - 1
        ):
            records = [
                OutcomeRecord(
                    row, 0, RowStatus.SUPPRESSED, None, None,
                    f"the recipient is that of row {earlier}", None, 0, 0, None, 0, now, None,
                )
                for row, earlier in repeats
            ]  # fmt: skip
            with self._database.transaction():
                lease = self._journal.find_lease(bounds[place][1])
                self._journal.outcomes.save(lease, records, is_first=False)


def hash_of(row: Mapping[str, Any] | Sequence[str], columns: Columns) -> int | None:
    """Return a 64-bit hash of a row's key, or None if the row has no key."""
    key = key_of(row, columns)
    return None if key is None else hash_of_key(key)
