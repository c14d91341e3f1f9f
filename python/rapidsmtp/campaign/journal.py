"""The journal: which rows may be sent, and their outcomes.

An owner of a lease (see `owners`) begins a row only after a durable grant names the row. Each
exchange is one transaction that saves outcomes and grants further rows. So after any crash, a row
with a grant and without an outcome is UNKNOWN. The state of every other row is known.

The grant is also the fence between owners. Each lease of a chunk has an epoch. An owner whose epoch
is not the chunk's epoch gets no grant. No other owner sends the rows that were granted to it,
unless the user requests this. So no row is sent twice, even if a clock or a time limit is wrong.

The module `outcome_table` contains the rules for a row that already has an outcome.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rapidsmtp.campaign import states
from rapidsmtp.campaign.database import Database
from rapidsmtp.campaign.model import CampaignState, Lease, ranges_of, rows_of
from rapidsmtp.campaign.outcome_table import COUNTS, OutcomeTable
from rapidsmtp.campaign.results import FIRST_TRY, Try


@dataclass(frozen=True, slots=True)
class ExchangeResult:
    """The result of an exchange.

    Attributes:
        granted: Whether the rows were granted. The owner may begin them now.
        fenced: Whether the lease was lost. The owner must stop, and still save late outcomes.
        state: The campaign's state.
    """

    granted: bool
    fenced: bool
    state: CampaignState


class Journal:
    """The statements on leases, grants and outcomes.

    Args:
        database: The database.
        campaign: The number of the campaign.

    Attributes:
        database: The database.
        campaign: The number of the campaign.
        outcomes: The table of outcomes.
    """

    def __init__(self, database: Database, campaign: int) -> None:
        self.database: Database = database
        self.campaign: int = campaign
        self.outcomes: OutcomeTable = OutcomeTable(database, campaign)

    def lease(self, owner: str, now: int, relay: int) -> Lease | None:
        """Lease the chunk that is due first; None if no chunk is due.

        Args:
            owner: The name of the owner (see `owners`).
            now: The time, in milliseconds since 1970.
            relay: The number of the relay for the chunk's messages.
        """
        # A run calls this method often, and each transaction waits for the disk. So the transaction
        # begins only if a chunk is due.
        if not self._is_due(now):
            return None
        with self.database.transaction():
            if self.state() not in states.GRANTABLE:
                return None
            row = self._execute(
                "SELECT l.chunk, l.epoch, c.first, c.count, l.stamp_at, "
                f"l.{' + l.'.join(COUNTS)} FROM lease l JOIN chunk c "
                "ON c.campaign = l.campaign AND c.no = l.chunk WHERE l.campaign = ? "
                "AND l.state = 'waiting' AND l.due_at <= ? ORDER BY l.due_at, l.chunk LIMIT 1",
                (self.campaign, now),
            ).fetchone()
            if row is None:
                return None
            chunk, epoch, first, count, stamp_at, outcomes = row
            stamp_at = now if stamp_at is None else stamp_at
            taken = self._execute(
                "UPDATE lease SET state = 'leased', epoch = epoch + 1, owner = ?, beat_at = ?, "
                "stamp_at = ?, relay = ?, granted = 0 "
                "WHERE campaign = ? AND chunk = ? AND epoch = ? AND state = 'waiting'",
                (owner, now, stamp_at, relay, self.campaign, chunk, epoch),
            )
            if taken.rowcount != 1:  # another owner was faster (PostgreSQL)
                return None
        return Lease(self.campaign, chunk, epoch + 1, first, count, stamp_at, outcomes == 0)

    def due_rows(self, lease: Lease, now: int) -> tuple[Sequence[int], dict[int, Try]]:
        """Return the rows that a pass sends, in order, and their tries.

        Returns:
            The numbers of the rows, and the tries by row. A row without a try is sent for the first
            time and to all its recipients.
        """
        everything = range(lease.first, lease.first + lease.count)
        if lease.virgin:
            return everything, {}
        known: dict[int, list[tuple[int, bool, int]]] = {}
        for row, part, next_at, passes in self._execute(
            "SELECT row, part, next_at, passes FROM outcome WHERE campaign = ? AND row >= ? "
            "AND row < ?",
            (self.campaign, lease.first, lease.first + lease.count),
        ).fetchall():
            is_due = next_at is not None and next_at <= now
            known.setdefault(row, []).append((part, is_due, passes))
        due: list[int] = []
        tries: dict[int, Try] = {}
        for row in everything:
            parts = known.get(row)
            if parts is None:
                due.append(row)
                continue
            chosen = [part for part, is_due, _ in parts if is_due]
            if chosen:
                passes = max(each for *_, each in parts)
                due.append(row)
                tried = Try(None if len(chosen) == len(parts) else chosen, passes)
                if tried != FIRST_TRY:
                    tries[row] = tried
        return due, tries

    def under_way(self, lease: Lease) -> set[int]:
        """Return the rows that are granted in the current lease of a chunk.

        A row that already has an outcome of the lease's epoch is no longer under way. The caller
        must remove such rows.
        """
        if not self.is_current(lease):
            return set()
        rows: set[int] = set()
        for (granted,) in self._execute(
            "SELECT rows FROM grant_ WHERE campaign = ? AND chunk = ? AND epoch = ?",
            (self.campaign, lease.chunk, lease.epoch),
        ).fetchall():
            rows.update(rows_of(granted))
        return rows

    def exchange(
        self,
        lease: Lease,
        now: int,
        *,
        grant: Sequence[int] = (),
        number: int = 0,
        records: Sequence[Sequence[Any]] = (),
        accepted: Sequence[Sequence[Any]] = (),
        finished: int = 0,
        budget: Callable[[int], int] | None = None,
        give_back: Callable[[Sequence[Any]], None] | None = None,
    ) -> ExchangeResult:
        """Save outcomes and grant rows, in one durable transaction.

        Args:
            lease: The lease.
            now: The time, in milliseconds since 1970.
            grant: The rows to grant, ascending; each row at most once in an epoch.
            number: The number of this grant in the epoch, from 0.
            records: The outcomes, as `OutcomeRecord` or tuples of this shape. They are
                saved even if the lease was lost.
            accepted: Further outcomes, as in `OutcomeGroup.accepted`.
            finished: The number of rows with outcomes in `records` and `accepted`.
            budget: A function that takes messages from the budgets, inside the transaction, and
                returns their number: all or 0. With 0, the rows are not granted.
            give_back: A function that returns the unsent messages of the records to the budgets,
                inside the transaction.

        Raises:
            JournalError: The database cannot be written. Nothing was changed.
        """
        with self.database.transaction(grant[-1] if grant else 0):
            fence = self._execute(
                "UPDATE lease SET beat_at = ?, granted = granted - ? "
                "WHERE campaign = ? AND chunk = ? AND epoch = ? AND state = 'leased'",
                (now, finished, self.campaign, lease.chunk, lease.epoch),
            )
            fenced = fence.rowcount == 0
            state = self.state()
            allowed = bool(grant) and not fenced and state in states.GRANTABLE
            if allowed and budget is not None:
                allowed = budget(len(grant)) == len(grant)
            if allowed:
                self._execute(
                    "INSERT INTO grant_ (campaign, chunk, epoch, no, rows, at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (self.campaign, lease.chunk, lease.epoch, number, ranges_of(grant), now),
                )
                self._execute(
                    "UPDATE lease SET granted = granted + ? WHERE campaign = ? AND chunk = ?",
                    (len(grant), self.campaign, lease.chunk),
                )
            if records or accepted:
                is_first = lease.virgin and not fenced
                self.outcomes.save(lease, records, is_first=is_first, accepted=accepted, now=now)
            if records and give_back is not None:
                give_back(records)
            if (records or accepted) and fenced:
                self._reopen(lease, now)
        return ExchangeResult(allowed, fenced, state)

    def release(self, lease: Lease) -> None:
        """End a lease normally. Every granted row must have an outcome."""
        with self.database.transaction():
            if self.is_current(lease):
                self.close_chunk(lease)

    def find_lease(self, chunk: int) -> Lease:
        """Return the current lease of a chunk, which another owner may have."""
        epoch, stamp_at, first, count = self._execute(
            "SELECT l.epoch, l.stamp_at, c.first, c.count FROM lease l JOIN chunk c "
            "ON c.campaign = l.campaign AND c.no = l.chunk WHERE l.campaign = ? AND l.chunk = ?",
            (self.campaign, chunk),
        ).fetchone()
        return Lease(self.campaign, chunk, epoch, first, count, stamp_at or 0, False)

    def state(self) -> CampaignState:
        """Return the campaign's state."""
        return states.state_of(self.database, self.campaign)

    def format(self) -> str:
        """Return the format of the list."""
        row = self._execute(
            "SELECT format FROM chunk WHERE campaign = ? LIMIT 1", (self.campaign,)
        ).fetchone()
        return str(row[0])

    def chunk_rows(self, chunk: int) -> tuple[str, bytes]:
        """Return the format and the compressed rows of a chunk."""
        row = self._execute(
            "SELECT format, rows FROM chunk WHERE campaign = ? AND no = ?", (self.campaign, chunk)
        ).fetchone()
        return str(row[0]), bytes(row[1])

    # These methods are parts of transactions. The caller has begun the transaction.

    def _execute(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        return self.database.execute(statement, parameters)

    def _is_due(self, now: int) -> bool:
        found = self._execute(
            "SELECT 1 FROM lease WHERE campaign = ? AND state = 'waiting' AND due_at <= ? LIMIT 1",
            (self.campaign, now),
        ).fetchone()
        return found is not None

    def is_current(self, lease: Lease) -> bool:
        """Return whether a lease is valid."""
        row = self._execute(
            "SELECT epoch FROM lease WHERE campaign = ? AND chunk = ? AND state = 'leased'",
            (self.campaign, lease.chunk),
        ).fetchone()
        return row is not None and row[0] == lease.epoch

    def close_chunk(self, lease: Lease) -> None:
        """Set the time at which a chunk is due again, and delete its grants."""
        place = (self.campaign, lease.first, lease.first + lease.count)
        rows, next_at = self._execute(
            "SELECT sum(CASE WHEN part = 0 THEN 1 ELSE 0 END), min(next_at) FROM outcome "
            "WHERE campaign = ? AND row >= ? AND row < ?",
            place,
        ).fetchone()
        due_at = 0 if (rows or 0) < lease.count else next_at
        state = "done" if due_at is None else "waiting"
        self._execute(
            "UPDATE lease SET state = ?, due_at = ?, owner = NULL, granted = 0 "
            "WHERE campaign = ? AND chunk = ?",
            (state, due_at or 0, self.campaign, lease.chunk),
        )
        self._execute(
            "DELETE FROM grant_ WHERE campaign = ? AND chunk = ?", (self.campaign, lease.chunk)
        )

    def change_state(
        self, transition: states.Transition, now: int, reason: str | None = None
    ) -> bool:
        """Change the campaign's state, and return whether this was possible (see `states`)."""
        return states.change(self.database, self.campaign, transition, now, reason)

    def _reopen(self, lease: Lease, now: int) -> None:
        """Set the time at which the chunk is due, after late outcomes of a lost lease."""
        row = self._execute(
            "SELECT state FROM lease WHERE campaign = ? AND chunk = ?",
            (self.campaign, lease.chunk),
        ).fetchone()
        if row[0] != "leased":
            self.close_chunk(lease)
            self.change_state(states.REOPEN, now)
