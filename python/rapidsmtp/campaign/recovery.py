"""Recovery: end the leases of dead owners.

Rows that were granted and have no outcome become UNKNOWN, unless a progress file shows their state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import Lease, OutcomeRecord, RowStatus

PartsOf: TypeAlias = Callable[[Lease, Sequence[int]], dict[int, list[str]]]
"""A function that returns the recipients of rows of a lease's chunk, by row number."""
Progress: TypeAlias = Callable[[Lease, str], dict[int, int]]
"""A function that returns the states of a lease's rows from the progress file of an owner, by row
number: 0 for a row that was not accepted and waits, or a `RowStatus`."""
_OVERWRITABLE = (RowStatus.DEFERRED, RowStatus.UNKNOWN, RowStatus.RETURNED)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Ends the leases of dead owners.

    Attributes:
        journal: The journal.
        is_dead: A function that returns whether an owner is dead. Its arguments are the name of the
            owner and the time of the owner's last exchange.
        parts_of: A function that returns the recipients of rows.
        progress: A function that returns the states of rows in a progress file. None if no progress
            file is read.
        remove_files: A function that removes the files of dead owners without a lease, or None.
        resend_after: With on_unknown="resend": the time after which UNKNOWN rows are due again, in
            milliseconds. Otherwise None.
    """

    journal: Journal
    is_dead: Callable[[str, int], bool]
    parts_of: PartsOf
    progress: Progress | None = None
    remove_files: Callable[[], None] | None = None
    resend_after: int | None = None

    def run(self, now: int) -> int:
        """End the leases of dead owners, and return the number of these leases.

        Args:
            now: The time, in milliseconds since 1970.
        """
        database, campaign = self.journal.database, self.journal.campaign
        ended = 0
        for chunk, epoch, owner, beat_at in database.execute(
            "SELECT chunk, epoch, owner, beat_at FROM lease WHERE campaign = ? "
            "AND state = 'leased'",
            (campaign,),
        ).fetchall():
            if not self.is_dead(owner, beat_at):
                continue
            with database.transaction():
                lease = self.journal.find_lease(chunk)
                if lease.epoch != epoch or not self.journal.is_current(lease):
                    continue
                self._mark_lost(lease, owner, now)
                # The owner may be alive. The next epoch belongs to no lease, and only fences this
                # owner.
                database.execute(
                    "UPDATE lease SET epoch = epoch + 1 WHERE campaign = ? AND chunk = ?",
                    (campaign, chunk),
                )
                self.journal.close_chunk(lease)
            ended += 1
        if ended and self.remove_files is not None:
            self.remove_files()
        return ended

    def _mark_lost(self, lease: Lease, owner: str, now: int) -> None:
        lost, whole = self.lost_rows(lease)
        progress = self.progress(lease, owner) if self.progress is not None and lost else {}
        lost = {row: parts for row, parts in lost.items() if progress.get(row) != 0}
        if not lost:
            return
        addresses = self.parts_of(lease, list(lost))
        records = []
        for row, parts in lost.items():
            found = addresses.get(row, [])
            status = progress.get(row, RowStatus.UNKNOWN)
            passes = dict(parts)
            if row in whole:
                passes = {**dict.fromkeys(range(max(1, len(found))), 0), **passes}
            for part, earlier in passes.items():
                address = found[part] if part < len(found) else None
                records.append(self._record(lease, row, part, status, address, earlier, owner, now))
        self.journal.outcomes.save(lease, records, is_first=False)

    def lost_rows(self, lease: Lease) -> tuple[dict[int, dict[int, int]], set[int]]:
        """Return the granted rows without an outcome of this epoch.

        Returns:
            Two values. The first one contains, by row and part, the number of earlier passes of the
            recipients that already had an outcome and were due again. The second one is the set of
            the rows that were granted for all their recipients. These rows may have recipients
            without an outcome: either no recipient was tried before, or the whole row was returned.
        """
        execute, campaign = self.journal.database.execute, self.journal.campaign
        lost: dict[int, dict[int, int]] = {row: {} for row in sorted(self.journal.under_way(lease))}
        whole, finished = set(lost), set()
        for row, part, status, epoch, passes, next_at in execute(
            "SELECT row, part, status, epoch, passes, next_at FROM outcome WHERE campaign = ? "
            "AND row >= ? AND row < ?",
            (campaign, lease.first, lease.first + lease.count),
        ).fetchall():
            if row not in lost:
                continue
            if epoch == lease.epoch:
                finished.add(row)
            elif status in _OVERWRITABLE and next_at is not None:
                lost[row][part] = passes
            else:
                whole.discard(row)
        # A row has only final outcomes if a late outcome of an earlier owner was saved after the
        # grant.
        lost = {row: parts for row, parts in lost.items() if row not in finished}
        return {row: parts for row, parts in lost.items() if parts or row in whole}, whole

    def _record(self, lease: Lease, row: int, part: int, status: int, *rest: Any) -> OutcomeRecord:
        address, passes, owner, now = rest
        is_unknown = status == RowStatus.UNKNOWN
        text = f"the process {owner} ended before it saved the outcome"
        next_at = now + self.resend_after if is_unknown and self.resend_after is not None else None
        return OutcomeRecord(
            row, part, status, None, None, text, address, 0, passes + 1, None, lease.epoch, now,
            next_at,
        )  # fmt: skip
