"""Outcomes that one exchange saves.

Python's work for each row is the largest cost of a journal. Most rows have one recipient, are tried
for the first time, and are accepted. Their outcomes stay as the engine has returned them: the
database takes them as they are, and they are counted together.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from rapidsmtp._models.outcome import Status
from rapidsmtp.campaign.model import OutcomeRecord, RowResult, RowStatus
from rapidsmtp.campaign.results import Schedule, Try, records_of

_STATUS, _ADDRESS = itemgetter(2), itemgetter(6)


class OutcomeGroup:
    """Outcomes of a lease, in their order.

    Attributes:
        accepted: Outcomes of rows with one recipient that was accepted at the first try, as
            `Engine.take_outcomes` returns them.
        records: The other outcomes.
        places: For each record: the number of accepted outcomes before it.
        rows: The number of granted rows with an outcome.
        at: The time of the accepted outcomes, in milliseconds since 1970.
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
            outcomes: Outcomes as `Engine.take_outcomes` returns them. Those of a row are adjacent.
            tries: How each row was tried, if not for the first time and to all recipients.
            epoch: The epoch of the lease.
            now: The time, in milliseconds since 1970.
            schedule: When recipients are due again.
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
    """Return whether all outcomes are those of rows with one recipient that was accepted."""
    return set(map(_STATUS, outcomes)) == {1} and set(map(_ADDRESS, outcomes)) == {None}
