"""Append rows to a campaign, unless it already has a row with the same key."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rapidsmtp._compose.list_file import open_list_file
from rapidsmtp._compose.merge import mapping_of
from rapidsmtp.campaign import states
from rapidsmtp.campaign.chunk_rows import key_of
from rapidsmtp.campaign.loading import Loader, hash_of, source_of_rows
from rapidsmtp.campaign.model import Columns, JournalError
from rapidsmtp.campaign.opened import OpenJournal


class AddReport(NamedTuple):
    """The result of `add`.

    Attributes:
        new: The number of rows that were appended.
        known: The number of rows that the campaign already has. They are not sent again.
        changed: The number of rows that the campaign already has with other values. They are not
            sent again.
    """

    new: int
    known: int
    changed: int


AddReport.__module__ = "rapidsmtp"


def add(
    opened: OpenJournal,
    rows: str | os.PathLike[str] | Iterable[Any],
    list_options: Mapping[str, Any],
) -> AddReport:
    """Append rows. `Campaign.add` describes the arguments."""
    opened.check_writable()
    if opened.journal.state() == "aborted":
        raise JournalError(
            f"journal {opened.database.path}: the campaign was aborted; create a new campaign"
        )
    # A process that appends rows at the same time would not find these rows, and would append rows
    # with the same keys.
    with opened.database.alone():
        return _add(opened, rows, list_options)


def _add(
    opened: OpenJournal,
    rows: str | os.PathLike[str] | Iterable[Any],
    list_options: Mapping[str, Any],
) -> AddReport:
    columns = opened.columns
    form = opened.journal.format()
    known = _KnownRows(opened)
    try:
        counts = {"new": 0, "known": 0, "changed": 0}

        def new_rows() -> Iterator[Any]:
            for values in _read(rows, list_options):
                row = _converted(values, columns, form)
                kind = known.kind_of(row)
                counts[kind] += 1
                if kind == "new":
                    yield row

        loader = Loader(opened.journal, columns)
        loader.add(source_of_rows(columns, form, new_rows()))
        with opened.database.transaction():
            opened.journal.change_state(states.REOPEN, opened.clock.now())
    finally:
        known.close()
    return AddReport(**counts)


class _KnownRows:
    """The keys of all rows of a campaign, as hashes in a temporary table."""

    def __init__(self, opened: OpenJournal) -> None:
        self._database, self._columns = opened.database, opened.columns
        self._database.execute("CREATE TEMP TABLE known (hash bigint, row_hash bigint)")
        for (chunk,) in self._database.execute(
            "SELECT no FROM chunk WHERE campaign = ? ORDER BY no", (opened.number,)
        ).fetchall():
            rows = opened.rows_of(opened.journal.find_lease(chunk))
            hashes = [(hash_of(row, self._columns), _hash_of_values(row)) for row in rows.raw]
            self._database.executemany("INSERT INTO known VALUES (?, ?)", hashes)
        self._database.execute("CREATE INDEX known_hash ON known (hash)")

    def kind_of(self, row: Any) -> str:
        """Return "new", "known" or "changed". The next call with a new row returns "known"."""
        if key_of(row, self._columns) is None:
            return "new"
        mine = hash_of(row, self._columns)
        found = self._database.execute(
            "SELECT row_hash FROM known WHERE hash = ?", (mine,)
        ).fetchall()
        values = _hash_of_values(row)
        if not found:
            self._database.execute("INSERT INTO known VALUES (?, ?)", (mine, values))
            return "new"
        return "known" if (values,) in found else "changed"

    def close(self) -> None:
        self._database.execute("DROP TABLE known")


def _hash_of_values(row: Any) -> int:
    text = json.dumps(row, ensure_ascii=False, default=str, sort_keys=True)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _read(
    rows: str | os.PathLike[str] | Iterable[Any], list_options: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Yield each row as a mapping from column names to cells."""
    if not isinstance(rows, (str, os.PathLike)):
        yield from map(mapping_of, rows)
        return
    file = open_list_file(rows, **list_options)
    try:
        for _, cells, _ in file.records():
            yield dict(zip(file.header, cells, strict=False))
    finally:
        file.close()


def _converted(values: Mapping[str, Any], columns: Columns, form: str) -> Any:
    """Return a row in the form of the campaign's list.

    Raises:
        ValueError: The row lacks a required column.
    """
    if form == "jsonl":
        missing: Sequence[str] = [
            name for name in columns.recipient if isinstance(name, str) and name not in values
        ]
        row: Any = json.loads(json.dumps(dict(values), ensure_ascii=False, default=str))
    else:
        by_place = {place: name for name, place in columns.fields.items()}
        row, missing = [], []
        for place, name in enumerate(columns.names):
            value = values.get(name, values.get(by_place.get(place, name)))
            if value is None and place in by_place:
                missing.append(name)
            row.append("" if value is None else str(value))
    if missing:
        raise ValueError(
            f"column {missing[0]!r} of the campaign's list is missing; the columns are: "
            f"{', '.join(values)}"
        )
    return row
