"""List the rows of a campaign with their outcomes, and write them to a file."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rapidsmtp._compose.outcome_columns import header_of, joined_cells
from rapidsmtp.campaign.model import OutcomeRecord, RowResult, RowStatus
from rapidsmtp.campaign.opened import OpenJournal

Row = tuple[int, dict[str, Any], list[OutcomeRecord] | None]
"""A row: its number, its values by column, and its outcomes; None for a row that is under way."""


def rows_with(
    opened: OpenJournal, statuses: Sequence[RowStatus] | None, *, waiting: bool
) -> Iterator[Row]:
    """Yield rows in order: the number, the values by column, and the outcomes of its recipients.

    A row that a process sends now may already be accepted. So it does not count as waiting, and
    only its final outcomes are yielded. If it has no final outcome, it is yielded with None, and
    only if `statuses` is None.

    Args:
        opened: The journal.
        statuses: The statuses of outcomes to yield; None for all.
        waiting: Whether to yield rows without an outcome, with an empty list.
    """
    where = "1 = 1"
    if statuses is not None:
        counts = [each.column for each in statuses]
        conditions = [f"l.{each} > 0" for each in counts]
        if waiting:
            names = " + ".join(f"l.{each.column}" for each in RowStatus)
            conditions.append(f"{names} - l.more_parts < c.count")
        where = " OR ".join(conditions) or "1 = 0"
    for (chunk,) in opened.database.execute(
        "SELECT l.chunk FROM lease l JOIN chunk c ON c.campaign = l.campaign AND c.no = l.chunk "
        f"WHERE l.campaign = ? AND ({where}) ORDER BY l.chunk",
        (opened.number,),
    ).fetchall():
        yield from _of_chunk(opened, chunk, statuses, waiting)


def _of_chunk(
    opened: OpenJournal, chunk: int, statuses: Sequence[RowStatus] | None, waiting: bool
) -> Iterator[Row]:
    lease = opened.journal.find_lease(chunk)
    # These rows are read before the outcomes. So a row is not reported as waiting if its outcome
    # arrives between the two statements.
    under_way = opened.journal.under_way(lease)
    rows = opened.rows_of(lease)
    outcomes: dict[int, list[OutcomeRecord]] = {}
    for values in opened.database.execute(
        "SELECT row, part, status, code, enhanced, text, address, attempts, passes, ms, epoch, at, "
        "next_at FROM outcome WHERE campaign = ? AND row >= ? AND row < ? ORDER BY row, part",
        (opened.number, lease.first, lease.first + lease.count),
    ).fetchall():
        outcomes.setdefault(values[0], []).append(OutcomeRecord._make(values))
    for row in range(lease.first, lease.first + lease.count):
        found = outcomes.get(row, [])
        is_under_way = row in under_way and all(each.epoch < lease.epoch for each in found)
        if is_under_way:
            found = [each for each in found if each.next_at is None]
        chosen = [each for each in found if statuses is None or each.status in statuses]
        if chosen:
            yield row, rows.values(row), chosen
        elif is_under_way and statuses is None:
            yield row, rows.values(row), None
        elif waiting and not (found or is_under_way):
            yield row, rows.values(row), []


def results(
    opened: OpenJournal, statuses: Sequence[RowStatus] | None, *, waiting: bool
) -> Iterator[tuple[dict[str, Any], RowResult | None]]:
    """Yield the row's values and the outcome of each recipient. The arguments: see `rows_with`.

    A row without an outcome is yielded once, with None as the outcome.
    """
    for _, values, records in rows_with(opened, statuses, waiting=waiting):
        if not records:
            yield values, None
        for record in records or ():
            yield values, record.result()


def export(
    opened: OpenJournal, path: str, statuses: Sequence[RowStatus] | None, *, waiting: bool
) -> int:
    """Write rows to a CSV file, and return their number. The file replaces an older one.

    A row with several recipients has one line. So the file can be used as a list again.
    """
    names = _names(opened)
    temporary = Path(f"{path}.part")
    count = 0
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header_of(names))
            for _, values, records in rows_with(opened, statuses, waiting=waiting):
                writer.writerow([*(values.get(name) for name in names), *_cells(records)])
                count += 1
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return count


def _names(opened: OpenJournal) -> list[str]:
    """Return the names of the list's columns."""
    names = dict.fromkeys(opened.columns.names)
    if opened.journal.format() == "jsonl":
        # `columns` has only the fields of the first row. If the rows came from a program, other
        # rows may have further fields.
        for _, values, _ in rows_with(opened, None, waiting=True):
            names.update(dict.fromkeys(values))
    return list(names)


def _cells(records: Sequence[OutcomeRecord] | None) -> list[str]:
    """Return the cells of a row's outcomes."""
    if not records:
        return joined_cells([("under way" if records is None else "waiting", *[None] * 4)])
    results = [each.result() for each in records]
    return joined_cells([
        (each.status.value, each.address, each.code, each.enhanced_status, each.text)
        for each in results
    ])  # fmt: skip
