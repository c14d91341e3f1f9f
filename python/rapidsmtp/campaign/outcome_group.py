"""The group of outcomes that one exchange saves.

The largest cost of a journal is the time of Python code for each row. Most rows have one recipient
and are accepted at the first try. No Python code converts the outcomes of such rows: the tuples of
the engine are passed to the database unchanged, and their number is added to the counts at once.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from rapidsmtp._models.outcome import Status
from rapidsmtp.campaign.model import OutcomeRecord, RowResult, RowStatus
from rapidsmtp.campaign.results import Schedule, Try, records_of

_STATUS, _ADDRESS = itemgetter(2), itemgetter(6)


class OutcomeGroup:
    """Outcomes of a lease, in the order in which the engine returned them.

    Attributes:
        accepted: Outcomes of rows with one recipient that was accepted at the first try, as
            `Engine.take_outcomes` returns them.
        records: The other outcomes.
        places: For each record: the number of outcomes in `accepted` that were added before it.
        rows: The number of granted rows with an outcome.
        at: The time of the outcomes in `accepted`, in milliseconds since 1970.
    """

    def __init__(self) -> None:
        self.accepted: list[tuple[Any, ...]] = []
        self.records: list[OutcomeRecord] = []
        self.places: list[int] = []
        self.rows: int = 0
        self.at: int = 0

    def __len__(self) -> int:
        return len(self.accepted) + len(self.records)

    @property
    def has_accepted(self) -> bool:
        """Whether a recipient was accepted."""
        return bool(self.accepted) or any(
            each.status == RowStatus.ACCEPTED for each in self.records
        )

    def add_records(self, records: Sequence[OutcomeRecord]) -> None:
        """Add outcomes of rows that did not reach the engine."""
        self.records += records
        self.places += [len(self.accepted)] * len(records)

    def add_outcomes(
        self,
        outcomes: Sequence[tuple[Any, ...]],
        tries: Mapping[int, Try],
        epoch: int,
        now: int,
        schedule: Schedule,
        *,
        stopped: bool,
    ) -> int:
        """Add outcomes of the engine, and return the number of their rows.

        Args:
            outcomes: Outcomes of `Engine.take_outcomes`. The outcomes of a row are adjacent.
            tries: The tries of rows that are not tried for the first time, or not to all
                recipients.
            epoch: The epoch of the lease.
            now: The time, in milliseconds since 1970.
            schedule: The times at which recipients are due again.
            stopped: Whether the engine has stopped.
        """
        before = self.rows
        others: list[tuple[Any, ...]] = []
        if tries or not _are_accepted(outcomes):
            for outcome in outcomes:
                if not tries and outcome[2] == RowStatus.ACCEPTED and outcome[6] is None:
                    self.accepted.append(outcome)
                    self.rows += 1
                else:
                    others.append(outcome)
                    self.places.append(len(self.accepted))
        else:
            self.accepted += outcomes
            self.rows += len(outcomes)
        records, rows = records_of(others, tries, epoch, now, schedule, stopped=stopped)
        self.records += records
        self.rows += rows
        return self.rows - before

    def results(self) -> list[RowResult]:
        """Return the outcomes for users."""
        at, make, status = self.at / 1000, RowResult._make, Status.ACCEPTED
        results = [
            make((row, 0, None, status, code, enhanced, text, attempts, ms / 1000, at, None))
            for row, _, _, code, enhanced, text, _, attempts, ms in self.accepted
        ]
        results += [each.result() for each in self.records]
        return results


def _are_accepted(outcomes: Sequence[tuple[Any, ...]]) -> bool:
    """Return whether all rows have one recipient, and all recipients were accepted."""
    return set(map(_STATUS, outcomes)) == {1} and set(map(_ADDRESS, outcomes)) == {None}
