"""Load a list into the chunks of a journal."""

import hashlib
import os
import secrets
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from rapidsmtp._compose.merge import mapping_of
from rapidsmtp._compose.recipients_list import ListOptions
from rapidsmtp._compose.template import Template, destination_fields, open_list
from rapidsmtp.campaign.chunk_rows import encode_csv, encode_jsonl, key_of
from rapidsmtp.campaign.database import Database
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import Columns, OutcomeRecord, RowStatus

MIN_CHUNK, MAX_CHUNK = 1000, 10_000
_CHUNKS = 200
_ITERABLE_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """A list to load.

    Attributes:
        columns: How to read the rows.
        format: 'csv' or 'jsonl'.
        rows: The rows: lists of cells, or mappings.
        chunk_size: The number of rows in a chunk.
    """

    columns: Columns
    format: str
    rows: Iterator[Any]
    chunk_size: int

    def chunks(self) -> Iterator[list[Any]]:
        """Yield the rows of each chunk."""
        while chunk := list(islice(self.rows, self.chunk_size)):
            yield chunk

    def encode(self, chunk: list[Any]) -> bytes:
        """Return the bytes of a chunk."""
        if self.format == "csv":
            return encode_csv(chunk, self.columns.delimiter)
        return encode_jsonl(chunk)


def open_source(
    template: Template,
    rows: str | os.PathLike[str] | Iterable[Any],
    *,
    key: str | None,
    options: ListOptions,
) -> Source:
    """Open a list: a file, or the rows of a program.

    Args:
        template: The template.
        rows: The path of a CSV file or a workbook, or mappings.
        key: The column or the field that identifies a row; None for the addresses.
        options: How to read a file.

    Raises:
        ValueError: The list is malformed, or lacks a column.
        OSError: The file cannot be read.
    """
    if isinstance(rows, (str, os.PathLike)):
        return _open_file(template, rows, key, options)
    mappings: Iterable[Any] = rows
    source = iter(mapping_of(row) for row in mappings)
    first = next(source, None)
    if first is None:
        raise ValueError("the list has no rows")
    if key is not None and key not in first:
        raise ValueError(f"the key field {key!r} is missing; the fields are: {', '.join(first)}")
    columns = Columns(list(first), {}, destination_fields(template), key)
    return Source(columns, "jsonl", chain([first], source), _ITERABLE_CHUNK)


def _open_file(
    template: Template, path: str | os.PathLike[str], key: str | None, options: ListOptions
) -> Source:
    checked = open_list(template, path, options)
    file = checked.file
    places = checked.columns
    recipient = [places[name] for name in destination_fields(template) if name in places]
    if options.recipient is not None:
        recipient = [checked.named(options.recipient)]
    names = [name or f"column {place}" for place, name in enumerate(file.header, 1)]
    columns = Columns(
        names,
        dict(places),
        sorted(set(recipient)),
        None if key is None else checked.named(key),
        file.delimiter,
    )
    if not checked.rows:
        checked.close()
        raise ValueError(f"{file.name}: the list has no rows")
    size = max(MIN_CHUNK, min(MAX_CHUNK, checked.rows // _CHUNKS))

    def cells() -> Iterator[Sequence[str]]:
        try:
            for _, record, _ in islice(file.records(), checked.rows):
                yield record
            file.check_unchanged()
        finally:
            checked.close()

    return Source(columns, "csv", cells(), size)


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
            self._database.execute("CREATE TEMP TABLE loaded (hash bigint, row bigint)")
        row = self._database.execute(
            "SELECT count(*), coalesce(sum(count), 0) FROM chunk WHERE campaign = ?",
            (journal.campaign,),
        ).fetchone()
        self._chunk: int = row[0]
        self.rows: int = row[1]

    def add(self, source: Source) -> None:
        """Write all chunks of a source, each in one transaction."""
        for rows in source.chunks():
            data = source.encode(rows)
            self._digest.update(data)
            with self._database.transaction():
                self._insert(rows, data, source.format)

    def _insert(self, rows: list[Any], data: bytes, format: str) -> None:
        campaign = self._journal.campaign
        first = self.rows + 1
        self._database.execute(
            "INSERT INTO chunk (campaign, no, first, count, format, rows) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (campaign, self._chunk, first, len(rows), format, data),
        )
        self._database.execute(
            "INSERT INTO lease (campaign, chunk, state, due_at) VALUES (?, ?, 'waiting', 0)",
            (campaign, self._chunk),
        )
        self._database.execute(
            "UPDATE campaign SET rows = rows + ? WHERE no = ?", (len(rows), campaign)
        )
        if self._finds_repeats:
            # Written in order and sorted once: an index on random hashes would take several times
            # as long.
            self._database.executemany(
                "INSERT INTO loaded VALUES (?, ?)",
                [(hash_of(row, self._columns), first + place) for place, row in enumerate(rows)],
            )
        self._chunk += 1
        self.rows += len(rows)

    def finish(self) -> None:
        """Make the campaign ready."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE campaign SET state = 'ready', list_sha256 = ? WHERE no = ?",
                (self._digest.hexdigest(), self._journal.campaign),
            )

    def repeats(self) -> Iterator[tuple[int, int]]:
        """Yield each row whose key occurs in an earlier row, and the first row with this key."""
        yield from self._database.execute(
            "SELECT l.row, m.first FROM (SELECT hash, min(row) AS first FROM loaded "
            "WHERE hash IS NOT NULL GROUP BY hash HAVING count(*) > 1) m JOIN loaded l "
            "ON l.hash = m.hash WHERE l.row > m.first ORDER BY l.row"
        ).fetchall()

    def suppress_repeats(self, now: int) -> None:
        """Give the rows that `repeats` yields the status SUPPRESSED."""
        by_chunk: dict[int, list[OutcomeRecord]] = defaultdict(list)
        bounds = self._database.execute(
            "SELECT first, no FROM chunk WHERE campaign = ? ORDER BY first",
            (self._journal.campaign,),
        ).fetchall()
        firsts = [first for first, _ in bounds]
        for row, earlier in self.repeats():
            text = f"the recipient is that of row {earlier}"
            record = OutcomeRecord(
                row, 0, RowStatus.SUPPRESSED, None, None, text, None, 0, 0, None, 0, now, None
            )
            by_chunk[bounds[bisect_right(firsts, row) - 1][1]].append(record)
        for chunk, records in by_chunk.items():
            with self._database.transaction():
                lease = self._journal.find_lease(chunk)
                self._journal.outcomes.save(lease, records, is_first=False)


def hash_of(row: Mapping[str, Any] | Sequence[str], columns: Columns) -> int | None:
    """Return a hash of a row's key with 64 bits, or None if the row has no key."""
    key = key_of(row, columns)
    if key is None:
        return None
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
