"""What the tests of campaigns share: a clock that tests move, journals without a sender."""

import csv
import io
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Campaign, Message, RelayError
from rapidsmtp._models.chunk import Chunk
from rapidsmtp._models.outcome import message_of
from rapidsmtp.campaign.chunk_rows import engine_chunk
from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.loading import create_campaign
from rapidsmtp.campaign.model import CampaignSettings, Columns, Lease, OutcomeRecord, RowStatus
from rapidsmtp.campaign.opened import OpenJournal
from rapidsmtp.campaign.relays import RelayLine
from rapidsmtp.campaign.running import Run
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


class Crash(BaseException):
    """The end of the process, at a place that a test chooses."""


class FakeRelay:
    """A relay in memory.

    Attributes:
        taken: The row, the recipients and the content of each message that was taken.
        senders: The senders in the envelopes of these messages.
        replies: A function that returns the outcome of a recipient: a status name, and optionally
            a code and a text. The default is ACCEPTED.
        error: The error that stops the engine, or None.
        after_submit: A function that is called after each submission.
    """

    def __init__(self) -> None:
        self.taken: list[tuple[int, list[str], bytes]] = []
        self.senders: list[str] = []
        self.replies: Callable[[int, str], tuple[Any, ...]] = lambda row, address: ("ACCEPTED",)
        self.error: RelayError | None = None
        self.after_submit: Callable[[], None] = lambda: None

    def counts(self) -> Counter[tuple[int, str]]:
        """Return how often each recipient was taken."""
        return Counter((row, each) for row, several, _ in self.taken for each in several)

    def send(self, row: "FakeRow") -> list[tuple[Any, ...]]:
        """Send a row, and return its outcomes as `Engine.take_outcomes` does."""
        try:
            message = row.message()
        except ValueError as error:
            return [outcome(row.number, 0, "INVALID", None, str(error), None)]
        parts = range(len(message.recipients)) if row.parts is None else row.parts
        addresses = [message.recipients[part] for part in parts]
        found = [self.replies(row.number, address) for address in addresses]
        taken = [
            address
            for address, (status, *_) in zip(addresses, found, strict=True)
            if status in ("ACCEPTED", "TAKEN")
        ]
        if taken:
            self.taken.append((row.number, taken, message.data))
            self.senders.append(message.sender)
        is_plain = len(message.recipients) == 1
        return [
            outcome(
                row.number,
                part,
                "UNKNOWN" if status == "TAKEN" else status,
                *(rest or (None, "")),
                None if is_plain and status == "ACCEPTED" else address,
            )
            for part, address, (status, *rest) in zip(parts, addresses, found, strict=True)
        ]


def outcome(
    row: int, part: int, status: str, code: int | None, text: str, address: str | None
) -> tuple[Any, ...]:
    named = "RETURNED" if status == "NOT_ATTEMPTED" else status
    return row, part, int(RowStatus[named]), code, None, text, address, 1, 500


@dataclass
class FakeRow:
    """A granted row."""

    rows: "FakeRows"
    number: int
    parts: Sequence[int] | None

    def message(self) -> Message:
        chunk = self.rows.chunk
        identity = f"{chunk.id_prefix}{self.number}"
        values = {**self.rows.values[self.number - chunk.first], "_id": identity}
        pending = self.rows.template.pending(values, self.number, chunk.date, identity, chunk.time)
        return message_of(pending)


class FakeRows:
    """The interface of `GrantedRows`, for `FakeFeed`."""

    def __init__(self, template: Any, chunk: Chunk) -> None:
        self.template, self.chunk = template, chunk
        if chunk.format == "csv":
            lines = csv.reader(io.StringIO(chunk.data.decode(), newline=""))
            self.values = [
                {name: cells[place] for name, place in chunk.columns.items()} for cells in lines
            ]
        else:
            self.values = [json.loads(line) for line in chunk.data.decode().splitlines()]
        self.granted: list[FakeRow] = []

    def grant(self, rows: Sequence[int], parts: Any = None) -> None:
        self.granted += [FakeRow(self, row, (parts or {}).get(row)) for row in rows]

    @property
    def left(self) -> int:
        return len(self.granted)

    def withdraw(self) -> list[int]:
        rows, self.granted = [each.number for each in self.granted], []
        return rows

    def recipients(self, row: int) -> list[str] | None:
        try:
            return list(FakeRow(self, row, None).message().recipients)
        except ValueError:
            return None


class FakeFeed:
    """The interface of `Feed`, with a relay in memory. A submission sends at once."""

    def __init__(self, relay: FakeRelay) -> None:
        self._relay = relay
        self._outbox: list[list[tuple[Any, ...]]] = []
        self.outcomes: list[tuple[Any, ...]] = []

    @property
    def pending(self) -> int:
        return len(self._outbox)

    def submit(self, rows: FakeRows, limit: int) -> None:
        for _ in range(min(limit, rows.left)):
            row = rows.granted[0]
            stopped = [outcome(row.number, 0, "NOT_ATTEMPTED", None, "stopped", None)]
            self._outbox.append(self._relay.send(row) if self._relay.error is None else stopped)
            del rows.granted[0]
            self._relay.after_submit()

    def take(self, wait: float, at_least: int = 1) -> None:
        self.outcomes += [each for several in self._outbox for each in several]
        self._outbox.clear()

    def error(self) -> RelayError | None:
        return self._relay.error

    def end(self) -> None:
        assert not self._outbox

    def close(self) -> None:
        self.take(0.0)


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> FakeRelay:
    """The relay of all campaigns of a test."""
    made = FakeRelay()
    monkeypatch.setattr(RelayLine, "feed", lambda _: FakeFeed(made))

    def granted_rows(opened: OpenJournal, template: Any, lease: Lease, _: object) -> FakeRows:
        form, data = opened.journal.chunk_rows(lease.chunk)
        return FakeRows(template, engine_chunk(opened.columns, form, data, lease, opened.id))

    monkeypatch.setattr(OpenJournal, "granted_rows", granted_rows)
    # The clock of the tests stands still, so each block would have the maximum size.
    monkeypatch.setattr("rapidsmtp.campaign.flow.MAX_BLOCK", 64)
    # The engine writes the progress file, and there is no engine.
    monkeypatch.setattr(OpenJournal, "create_progress", lambda *_: None)
    end = Run._end

    def end_unless_crashed(run: Run) -> list[Any]:
        return [] if isinstance(sys.exc_info()[1], Crash) else end(run)

    monkeypatch.setattr(Run, "_end", end_unless_crashed)
    return made


class Machine:
    """A campaign that a test creates, crashes and opens again."""

    TEMPLATE = (
        b"From: News <news@example.com>\r\nTo: {{ email }}\r\nSubject: Hello {{ name }}\r\n\r\n"
        b"Dear {{ name }}\r\n"
    )

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "j"
        self.clock = FakeClock()
        rows = settings.pop("rows", 10)
        if isinstance(rows, int):
            rows = [person(number) for number in range(1, rows + 1)]
        settings.setdefault("relays", ["smtp://relay.example"])
        self.campaign = Campaign.create(
            self.path, settings.pop("template", self.TEMPLATE), rows, clock=self.clock, **settings
        )

    def reopen(self, **arguments: Any) -> Campaign:
        self.campaign.close()
        self.campaign = Campaign.open(self.path, clock=self.clock, **arguments)
        return self.campaign

    def run(self, **arguments: Any) -> Counter[str]:
        """Run, and return the number of outcomes by status."""
        return Counter(each.status.name for each in self.campaign.run(**arguments))

    def statuses(self) -> dict[int, str]:
        """Return the status of each row with one recipient, or "waiting"."""
        return {
            number: "waiting" if result is None else result.status.name
            for number, (_, result) in enumerate(self.campaign.rows(), 1)
        }


def person(number: int) -> dict[str, str]:
    return {"email": f"user{number}@domain{number % 30}.example", "name": f"Person {number}"}
