"""Convert the engine's outcomes to rows of the table `outcome`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rapidsmtp.campaign.model import CampaignSettings, OutcomeRecord, RowStatus
from rapidsmtp.errors import brief


class Try(NamedTuple):
    """The try of a row in a pass.

    Attributes:
        parts: The numbers of the tried recipients, in the order of the message; None for all.
        passes: The number of earlier passes.
    """

    parts: Sequence[int] | None
    passes: int


FIRST_TRY = Try(None, 0)
"""The try of a row that was not tried before."""


class Schedule(NamedTuple):
    """The times at which recipients are due again.

    Attributes:
        settings: The settings of the campaign.
        stamp_at: The time of the chunk's first pass, in milliseconds since 1970.
    """

    settings: CampaignSettings
    stamp_at: int

    def next_at(self, status: int, passes: int, now: int, *, stopped: bool) -> int | None:
        """Return the time at which a recipient is due again; None if it is not due again.

        All times are in milliseconds since 1970.

        Args:
            status: The status of the recipient.
            passes: The number of passes, including the current one.
            now: The time of the outcome.
            stopped: Whether the engine has stopped, and has returned the messages that it had not
                begun.
        """
        if status == RowStatus.UNKNOWN and self.settings.on_unknown == "resend":
            return now + RESEND_AFTER
        if status == RowStatus.RETURNED and stopped:
            return 0
        if status not in (RowStatus.DEFERRED, RowStatus.RETURNED):
            return None
        delays = self.settings.retry_delays
        at = now + int(delays[min(passes, len(delays)) - 1] * 1000)
        end = self.stamp_at + int(self.settings.retry_for * 1000)
        return at if at <= end else None


RESEND_AFTER = 630_000
"""With on_unknown="resend": the wait before an UNKNOWN message is sent again, in milliseconds. The
former owner may be alive. Its transaction has ended after this time, because the time limit for the
reply to the terminator is 10 minutes (RFC 5321 4.5.3.2.6)."""


def records_of(
    outcomes: Iterable[tuple[Any, ...]],
    tries: Mapping[int, Try],
    epoch: int,
    now: int,
    schedule: Schedule,
    *,
    stopped: bool,
) -> tuple[list[OutcomeRecord], int]:
    """Return the records of outcomes, and the number of rows with these outcomes.

    Args:
        outcomes: Outcomes of `Engine.take_outcomes`. The outcomes of a row are adjacent.
        tries: The tries of rows that are not tried for the first time, or not to all recipients.
        epoch: The epoch of the lease.
        now: The time, in milliseconds since 1970.
        schedule: The times at which recipients are due again.
        stopped: Whether the engine has stopped.
    """
    records: list[OutcomeRecord] = []
    rows, last = 0, None
    for outcome in outcomes:
        row, part, status, code, enhanced, text, address, attempts, ms = outcome
        rows, last = rows + (row != last), row
        passes = tries[row].passes + 1 if row in tries else 1
        next_at = None
        if status != RowStatus.ACCEPTED:
            next_at = schedule.next_at(status, passes, now, stopped=stopped)
        values = (
            row, part, status, code, enhanced, text, address, attempts, passes, ms, epoch, now,
            next_at,
        )  # fmt: skip
        records.append(OutcomeRecord._make(values))
    return records, rows


def unsent_record(
    row: int, tried: Try, status: RowStatus, text: str, epoch: int, now: int, part: int = 0,
    address: str | None = None,
) -> OutcomeRecord:  # fmt: skip
    """Return the record of a row that did not reach the engine."""
    next_at = 0 if status is RowStatus.RETURNED else None
    return OutcomeRecord(
        row, part, status, None, None, brief(text), address, 0, tried.passes, None, epoch, now,
        next_at,
    )  # fmt: skip
