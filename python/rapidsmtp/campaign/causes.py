"""The reasons of outcomes other than ACCEPTED, read with the index of these outcomes."""

from collections.abc import Iterator
from typing import NamedTuple

from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import OutcomeRecord, RowStatus

# `status <> 1` is the condition of the index `outcome_open`. SQLite uses the index only if the
# statement has the condition too.
_OPEN = "campaign = ? AND status <> 1"
# Without this list, SQLite would scan all outcomes of the campaign, by the primary key.
_STATUSES = ", ".join(str(int(each)) for each in RowStatus if each is not RowStatus.ACCEPTED)


class UnknownCause(NamedTuple):
    """Recipients that became UNKNOWN for one reason.

    Attributes:
        text: The reason.
        recipients: The number of recipients.
        first: The lowest row.
        last: The highest row.
        at: The time of the latest of these outcomes, in seconds since 1970.
    """

    text: str
    recipients: int
    first: int
    last: int
    at: float


def unknown_causes(journal: Journal) -> list[UnknownCause]:
    """Return the UNKNOWN recipients by cause, the latest cause last."""
    found = journal.database.execute(
        "SELECT text, count(*), min(row), max(row), max(at) FROM outcome "
        f"WHERE {_OPEN} AND status = ? GROUP BY text ORDER BY max(at), min(row)",
        (journal.campaign, int(RowStatus.UNKNOWN)),
    ).fetchall()
    return [
        UnknownCause(text or "", count, first, last, at / 1000)
        for text, count, first, last, at in found
    ]


def open_outcomes(journal: Journal) -> Iterator[OutcomeRecord]:
    """Yield every outcome other than ACCEPTED, by status and row."""
    cursor = journal.database.execute(
        "SELECT row, part, status, code, enhanced, text, address, attempts, passes, ms, epoch, at, "
        f"next_at FROM outcome WHERE {_OPEN} AND status IN ({_STATUSES}) "
        "ORDER BY status, row, part",
        (journal.campaign,),
    )
    while values := cursor.fetchone():
        yield OutcomeRecord._make(values)
