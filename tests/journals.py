"""What the tests of campaigns share: a clock that tests move, journals without a sender."""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.loading import create_campaign
from rapidsmtp.campaign.model import CampaignSettings, Columns, OutcomeRecord, RowStatus
from rapidsmtp.campaign.sqlite import SqliteDatabase

START = 1_700_000_000_000
COLUMNS = Columns(["email"], {}, ["email"])


class FakeClock(CampaignClock):
    """A clock that moves only when a test or a wait moves it."""

    def __init__(self, now: int = START) -> None:
        self.time = now
        self.passed = 0.0
        self.waits: list[float] = []

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.passed

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        self.waits.append(seconds)
        self.advance(seconds)
        return False

    def advance(self, seconds: float) -> None:
        self.time += max(1, round(seconds * 1000))
        self.passed += seconds


def journal_of(path: Path, chunks: Sequence[int]) -> Journal:
    """Create a journal with chunks of the given numbers of rows, and without a message."""
    database = SqliteDatabase(str(path), create=True)
    number, _ = create_campaign(
        database,
        name="test",
        message=b"",
        settings=CampaignSettings().to_json(),
        columns=COLUMNS.to_json(),
        relays=[("smtp://relay.example", 1)],
        now=START,
    )
    first = 1
    with database.transaction():
        for chunk, count in enumerate(chunks):
            database.execute(
                "INSERT INTO chunk (campaign, no, first, count, format, rows) "
                "VALUES (?, ?, ?, ?, 'jsonl', X'')",
                (number, chunk, first, count),
            )
            database.execute(
                "INSERT INTO lease (campaign, chunk, state, due_at) VALUES (?, ?, 'waiting', ?)",
                (number, chunk, START),
            )
            first += count
        database.execute("UPDATE campaign SET state = 'ready', rows = ?", (first - 1,))
    return Journal(database, number)


def record(row: int, status: RowStatus, epoch: int, *, part: int = 0, **values: Any) -> Any:
    """Return the record of an outcome."""
    made = OutcomeRecord(
        row, part, int(status), None, None, "", None, 1, 1, None, epoch, START, None
    )
    return made._replace(**values)


def statuses(journal: Journal) -> dict[tuple[int, int], RowStatus]:
    """Return the status of each recipient with an outcome."""
    found: Iterable[Any] = journal.database.execute(
        "SELECT row, part, status FROM outcome"
    ).fetchall()
    return {(row, part): RowStatus(status) for row, part, status in found}
