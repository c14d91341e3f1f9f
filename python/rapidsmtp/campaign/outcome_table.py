"""The table of outcomes, and the counts of outcomes in the table of leases.

The statement `UPSERT` contains the rules for a recipient that already has an outcome:

- ACCEPTED is never overwritten, and it overwrites every other outcome. It is final, because the
  relay accepted the message.
- Each other outcome overwrites only RETURNED, DEFERRED and UNKNOWN, and only if their epoch is not
  later than its own.
"""

from collections.abc import Sequence
from typing import Any

from rapidsmtp.campaign.database import Database
from rapidsmtp.campaign.model import Lease, RowStatus

COUNTS = [each.column for each in RowStatus]
"""The columns of `lease` that count the outcomes."""
UPSERT = """
INSERT INTO outcome (campaign, row, part, status, code, enhanced, text, address, attempts, passes,
  ms, epoch, at, next_at)
VALUES ({campaign}, ?, ?, ?, ?, ?, ?, ?, ?, {passes}, ?, {epoch}, {at}, {next_at})
ON CONFLICT (campaign, row, part) DO UPDATE SET status = excluded.status, code = excluded.code,
  enhanced = excluded.enhanced, text = excluded.text, address = excluded.address,
  attempts = outcome.attempts + excluded.attempts, passes = excluded.passes, ms = excluded.ms,
  epoch = excluded.epoch, at = excluded.at, next_at = excluded.next_at
WHERE (outcome.status IN (3, 4, 6) AND excluded.epoch >= outcome.epoch)
  OR (excluded.status = 1 AND outcome.status <> 1)
"""


class OutcomeTable:
    """The outcomes of a campaign. The caller has begun a transaction.

    Args:
        database: The database.
        campaign: The number of the campaign.
    """

    def __init__(self, database: Database, campaign: int) -> None:
        self._database = database
        self._campaign = campaign
        self._upsert = self._statement("?", "?", "?", "?")

    def save(
        self,
        lease: Lease,
        records: Sequence[Sequence[Any]],
        *,
        is_first: bool,
        accepted: Sequence[Sequence[Any]] = (),
        now: int = 0,
    ) -> None:
        """Save outcomes, and count them in `lease`.

        Args:
            lease: The lease.
            records: The outcomes, as `OutcomeRecord` or tuples of this shape.
            is_first: Whether no row had an outcome at the start of the lease.
            accepted: Further outcomes, as in `OutcomeGroup.accepted`.
            now: The time of these outcomes, in milliseconds since 1970.
        """
        saved = 0
        if accepted:
            # The statement contains the values that are the same in all these outcomes. So Python
            # code does not create a record for each outcome.
            statement = self._statement("1", lease.epoch, now, "NULL")
            saved += self._database.executemany(statement, accepted).rowcount
        if records:
            saved += self._database.executemany(self._upsert, records).rowcount
        if not is_first or saved != len(records) + len(accepted):
            self.recount(lease)
            return
        # No row of the chunk had an outcome when the lease began, and only the owner of the lease
        # adds outcomes. So the statement has inserted every record, and has overwritten none.
        counts = dict.fromkeys([*COUNTS, "more_parts"], 0)
        counts["accepted"] = len(accepted)
        for record in records:
            counts[COUNTS[record[2] - 1]] += 1
            counts["more_parts"] += record[1] > 0
        changed = {name: number for name, number in counts.items() if number}
        self._database.execute(
            f"UPDATE lease SET {', '.join(f'{name} = {name} + ?' for name in changed)} "
            "WHERE campaign = ? AND chunk = ?",
            (*changed.values(), self._campaign, lease.chunk),
        )

    def _statement(self, passes: str, epoch: int | str, at: int | str, next_at: str) -> str:
        return UPSERT.format(
            campaign=int(self._campaign), passes=passes, epoch=epoch, at=at, next_at=next_at
        )

    def recount(self, lease: Lease) -> None:
        """Count the outcomes of a chunk again."""
        counts = dict.fromkeys([*COUNTS, "more_parts"], 0)
        for status, number, more in self._database.execute(
            "SELECT status, count(*), sum(CASE WHEN part > 0 THEN 1 ELSE 0 END) FROM outcome "
            "WHERE campaign = ? AND row >= ? AND row < ? GROUP BY status",
            (self._campaign, lease.first, lease.first + lease.count),
        ).fetchall():
            counts[RowStatus(status).column] = number
            counts["more_parts"] += more
        self._database.execute(
            f"UPDATE lease SET {', '.join(f'{name} = ?' for name in counts)} "
            "WHERE campaign = ? AND chunk = ?",
            (*counts.values(), self._campaign, lease.chunk),
        )
