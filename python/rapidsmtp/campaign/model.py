"""The data of a campaign: states, settings, and the outcome of a recipient."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from rapidsmtp._models.outcome import Status


class JournalError(Exception):
    """A journal cannot be used, or the campaign in it does not permit the operation."""


JournalError.__module__ = "rapidsmtp"


class JournalUnavailable(JournalError):
    """The journal cannot be written at present: the disk is full, or another process writes."""


class CampaignState(StrEnum):
    """The state of a campaign."""

    LOADING = "loading"
    """A process writes the list. If it crashes, this state stays: create the journal again."""
    READY = "ready"
    """Rows wait, and no process sends."""
    RUNNING = "running"
    """A process sends, or it crashed while it was sending."""
    PAUSED = "paused"
    """No row is granted until `resume`."""
    DONE = "done"
    """No row is due again."""
    ABORTED = "aborted"
    """No row is granted any more."""


CampaignState.__module__ = "rapidsmtp"


class RowStatus(IntEnum):
    """The status of a recipient as the journal stores it (the column `outcome.status`)."""

    ACCEPTED = 1
    REFUSED = 2
    DEFERRED = 3
    UNKNOWN = 4
    INVALID = 5
    RETURNED = 6
    SUPPRESSED = 7

    @property
    def public(self) -> Status:
        """The `Status` for users."""
        return _PUBLIC[self]

    @property
    def column(self) -> str:
        """The column of `lease` that counts this status."""
        return self.name.lower()


_PUBLIC = {each: Status[each.name] for each in RowStatus if each.name in Status.__members__}
_PUBLIC[RowStatus.RETURNED] = Status.NOT_ATTEMPTED
_BY_NUMBER = {int(row): status for row, status in _PUBLIC.items()}
ROW_STATUS = {status: row for row, status in _PUBLIC.items()}
"""The stored status of each public `Status` except PARTIAL."""

BY_ENGINE_NAME = {status.name: int(row) for status, row in ROW_STATUS.items()}
"""The stored status by the name that the engine uses for it."""


class RowResult(NamedTuple):
    """The outcome of one recipient.

    Attributes:
        row: The number of the row in the list, from 1.
        part: The number of the recipient in the message, from 0 (To, Cc, Bcc in order).
        address: The recipient; None if the row has one recipient and was accepted.
        status: The status. NOT_ATTEMPTED means that the recipient waits again.
        code: The code of the reply; None if there was none.
        enhanced_status: The enhanced status code of the reply, or None.
        text: The text of the reply, or the reason.
        attempts: The number of attempts, in all passes.
        seconds: The time from the first attempt of the last pass to the outcome, in seconds.
        at: The time of the outcome, in seconds since 1970.
        next_at: The time from which the recipient is tried again, in seconds since 1970, or None.
    """

    row: int
    part: int
    address: str | None
    status: Status
    code: int | None
    enhanced_status: str | None
    text: str
    attempts: int
    seconds: float
    at: float
    next_at: float | None


RowResult.__module__ = "rapidsmtp"


class OutcomeRecord(NamedTuple):
    """A row for the table `outcome`, without the campaign.

    The fields have the order of the parameters of `outcome_table.UPSERT`. So a list of records can
    be passed to `executemany`. Plain tuples of the same shape are also allowed.
    """

    row: int
    part: int
    status: int
    code: int | None
    enhanced: str | None
    text: str | None
    address: str | None
    attempts: int
    passes: int
    ms: int | None
    epoch: int
    at: int
    next_at: int | None

    def result(self) -> RowResult:
        """Return the outcome for users."""
        # A campaign creates one result for each recipient. This is the fastest way to create it.
        row, part, status, code, enhanced, text, address, attempts, _, ms, _, at, next_at = self
        values = (
            row, part, address, _BY_NUMBER[status], code, enhanced, text or "", attempts,
            (ms or 0) / 1000, at / 1000, next_at / 1000 if next_at else None,
        )  # fmt: skip
        return RowResult._make(values)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send the rows of a chunk. It is valid while `epoch` is the chunk's epoch.

    Attributes:
        campaign: The number of the campaign in the journal.
        chunk: The number of the chunk.
        epoch: The number of this lease among the leases of the chunk.
        first: The number of the chunk's first row.
        count: The number of rows.
        stamp_at: The time in Date and in the DKIM signature, in milliseconds since 1970.
        virgin: Whether no row of the chunk has an outcome.
    """

    campaign: int
    chunk: int
    epoch: int
    first: int
    count: int
    stamp_at: int
    virgin: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """How to read the rows of the chunks (the column `campaign.columns`, as JSON).

    Attributes:
        names: The names of the list's columns, as in its header. For rows of a program: the keys.
        fields: For format 'csv': for each field of the template, the place of its column.
        recipient: For format 'csv': the places of the columns with the addresses. For 'jsonl': the
            names of the fields with the addresses.
        key: The place or the name of the column that identifies a row. None means that the
            addresses identify it.
        delimiter: The delimiter between cells.
    """

    names: Sequence[str]
    fields: Mapping[str, int]
    recipient: Sequence[int] | Sequence[str]
    key: int | str | None = None
    delimiter: str = ","

    def to_json(self) -> str:
        """Return the columns as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Columns":
        """Return the columns from the text of `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class CampaignSettings:
    """The settings of a campaign (the column `campaign.settings`, as JSON).

    `Campaign.create` describes the arguments of the same names.

    Attributes:
        rate: Messages per second for each relay, or None.
        per_day: The maximum number of rows on the first, the second, … day. The last number holds
            for all further days.
        between: The start and the end of the daily window, in minutes since midnight.
        zone: The time zone of `between` and `per_day`.
        start_at: The time before which nothing is sent, in milliseconds since 1970.
        retry_delays: The waits before the first, the second, … retry of deferred recipients, in
            seconds. The last wait holds for all further retries.
        retry_for: The time after the chunk's first pass in which a deferred recipient is tried
            again, in seconds.
        on_unknown: "report" or "resend".
        idempotency_header: The name of the header field with the value `{campaign}.{row}`, or None.
        duplicates: "first" or "all".
        connections: The number of connections for each relay.
        sender: Further arguments of `Sender`.
        dkim: The domain, the selector and the algorithm of each signature.
        attachment_root: The folder of the files that are read for each row, or None.
    """

    rate: float | None = None
    per_day: Sequence[int] = ()
    between: Sequence[int] | None = None
    zone: str = "UTC"
    start_at: int | None = None
    retry_delays: Sequence[float] = (900, 3600, 14400)
    retry_for: float = 86400
    on_unknown: str = "report"
    idempotency_header: str | None = None
    duplicates: str = "first"
    connections: int = 4
    sender: Mapping[str, Any] = field(default_factory=dict)
    dkim: Sequence[Sequence[str]] = ()
    attachment_root: str | None = None

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "CampaignSettings":
        """Return the settings from the text of `to_json`."""
        return cls(**json.loads(text))


def ranges_of(rows: Sequence[int]) -> str:
    """Return the text of a grant, such as "3,17-19", for ascending row numbers."""
    if isinstance(rows, range):
        return f"{rows[0]}-{rows[-1]}" if len(rows) > 1 else f"{rows[0]}"
    parts: list[str] = []
    start = end = rows[0]
    for row in [*rows[1:], 0]:
        if row == end + 1:
            end = row
            continue
        parts.append(f"{start}-{end}" if end > start else f"{start}")
        start = end = row
    return ",".join(parts)


def rows_of(text: str) -> list[int]:
    """Return the row numbers in the text of a grant."""
    rows: list[int] = []
    for part in text.split(","):
        start, _, end = part.partition("-")
        rows.extend(range(int(start), int(end or start) + 1))
    return rows
