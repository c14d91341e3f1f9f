"""Continue with an older copy of a journal.

The copy does not contain the grants that were made after it. The file `J-exchanges` contains the
number of the highest granted row. Up to this row, a message may have been sent to each recipient
without an outcome, and to each recipient that was due again. These recipients become UNKNOWN.
"""

from rapidsmtp.campaign import states
from rapidsmtp.campaign.model import OutcomeRecord, RowStatus
from rapidsmtp.campaign.opened import OpenJournal
from rapidsmtp.campaign.sqlite import SqliteDatabase

_TEXT = "the journal is an older copy, and the message may have been sent since"


def accept_older_copy(opened: OpenJournal, database: SqliteDatabase) -> None:
    """Make the recipients UNKNOWN to which a message may have been sent after the copy was made.

    Args:
        opened: The journal.
        database: Its database.

    Raises:
        JournalError: The file is read-only.
    """
    if database.granted_since is None:
        return
    opened.check_writable()
    opened.recover()
    now = opened.clock.now()
    for (chunk,) in database.execute(
        "SELECT no FROM chunk WHERE campaign = ? AND first <= ? ORDER BY no",
        (opened.number, database.granted_since),
    ).fetchall():
        _mark(opened, chunk, database.granted_since, now)
    with database.transaction(database.granted_since):
        opened.journal.change_state(states.REOPEN, now)
    database.forget_newer()


def _mark(opened: OpenJournal, chunk: int, highest: int, now: int) -> None:
    with opened.database.transaction():
        lease = opened.journal.find_lease(chunk)
        last = min(lease.first + lease.count - 1, highest)
        whole = set(range(lease.first, last + 1))  # rows that may have been sent to all recipients
        due: dict[tuple[int, int], tuple[int, str | None]] = {}
        for row, part, passes, next_at, address in opened.database.execute(
            "SELECT row, part, passes, next_at, address FROM outcome WHERE campaign = ? "
            "AND row >= ? AND row <= ?",
            (opened.number, lease.first, last),
        ).fetchall():
            if next_at is not None and next_at <= now:
                due[row, part] = passes, address
            else:
                whole.discard(row)
        for row, addresses in opened.parts_of(lease, sorted(whole)).items():
            for part, address in enumerate(addresses or [None]):
                due.setdefault((row, part), (0, address))
        if not due:
            return
        records = [
            OutcomeRecord(
                row, part, RowStatus.UNKNOWN, None, None, _TEXT, address, 0, passes, None,
                lease.epoch, now, None,
            )
            for (row, part), (passes, address) in sorted(due.items())
        ]  # fmt: skip
        opened.journal.outcomes.save(lease, records, is_first=False)
        opened.journal.close_chunk(lease)
