"""One pass over a chunk: grant rows, submit their messages, and save the outcomes.

    due rows ── exchange k grants a block ──► granted rows ──► engine ──► finished ── exchange k+1

Grants run one block ahead of the engine, so the engine waits for the disk only if the disk is
slower than the network. An exchange is made when a grant is needed, or 25 ms after the first
unsaved outcome. There are never two at once, so a slow disk makes larger groups by itself.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from rapidsmtp._bulk.feed import Feed
from rapidsmtp.campaign.chunk_rows import ChunkRows
from rapidsmtp.campaign.flow import Flow, Pacer
from rapidsmtp.campaign.model import (
    CampaignState,
    JournalError,
    JournalUnavailable,
    Lease,
    OutcomeRecord,
    RowStatus,
)
from rapidsmtp.campaign.opened import OpenJournal
from rapidsmtp.campaign.progress import LeaseProgress
from rapidsmtp.campaign.results import FIRST_TRY, Schedule, Try, records_of, unsent_record
from rapidsmtp.campaign.states import GRANTABLE
from rapidsmtp.errors import RelayError

GROUP = 0.025
"""The maximum time between an outcome and its exchange, in seconds."""
# With a progress file, granted rows that were not sent are known after `kill -9`. So a block may be
# larger, and most grants need no exchange of their own. The time for which a block lasts, in
# seconds.
_WITH_PROGRESS = 4 * GROUP
RETRY = 1.0
"""The time between two attempts to write a journal that cannot be written, in seconds."""
_LONGEST_WAIT = 60.0
_BEAT = 20.0
"""The maximum time between two exchanges, in seconds, so that the owner does not count as dead."""


class Pass:
    """One pass over a leased chunk. Used by one thread.

    Args:
        opened: The journal.
        lease: The lease.
        template: The compiled template.
        feed: The engine.
        pacer: When rows may be granted.
        flow: The flow of rows through the relay.
        progress: The progress file of the lease, or None.

    Attributes:
        lease: The lease.
        is_fenced: Whether the lease was lost.
        state: The campaign's state at the last exchange.
        notice: Why the journal cannot be written at present, or "".
    """

    def __init__(
        self,
        opened: OpenJournal,
        lease: Lease,
        template: Any,
        feed: Feed,
        pacer: Pacer,
        flow: Flow,
        progress: LeaseProgress | None,
    ) -> None:
        self.lease = lease
        self.is_fenced: bool = False
        self.state: CampaignState = CampaignState.RUNNING
        self.notice: str = ""
        self._journal = journal = opened.journal
        self._clock = clock = opened.clock
        self._opened = opened
        self._rows: ChunkRows | None = None
        self._progress = progress
        file = None if progress is None else progress.file
        # The rows that the engine may begin.
        self._granted = opened.granted_rows(template, lease, file)
        self._feed = feed
        self._pacer = pacer
        self._schedule = Schedule(opened.settings, lease.stamp_at)
        due = journal.due_rows(lease, clock.now())
        self._due = deque(
            (row, Try(parts, passes) if parts or passes else FIRST_TRY)
            for row, parts, passes in due
        )
        self._tries = {row: tried for row, tried in self._due if tried != FIRST_TRY}
        self._unsaved: list[OutcomeRecord] = []
        self._finished_rows = 0
        self._grants = 0
        self._since: float | None = None  # of the first unsaved outcome
        self._ask_at = self._beat_at = clock.monotonic()
        self._flow = flow

    @property
    def is_over(self) -> bool:
        """Whether every due row has a saved outcome."""
        return not self._due and self.is_idle

    @property
    def is_draining(self) -> bool:
        """Whether all due rows are granted."""
        return not self._due

    @property
    def outstanding(self) -> int:
        """The number of granted rows without an outcome."""
        return int(self._granted.left + self._feed.pending)

    @property
    def is_idle(self) -> bool:
        """Whether no granted row waits for its outcome or for its exchange."""
        return not (self._unsaved or self._granted.left or self._feed.pending)

    @property
    def idle_for(self) -> float:
        """The time in which nothing happens, in seconds: no row may be granted before."""
        if self.notice and self._since is not None and not self._feed.pending:
            return max(0.0, self._since + RETRY - self._clock.monotonic())
        if not self._due or not self.is_idle:
            return 0.0
        return max(0.0, self._ask_at - self._clock.monotonic())

    @property
    def block(self) -> int:
        """The number of rows in a grant."""
        seconds = GROUP if self._progress is None else _WITH_PROGRESS
        return self._flow.block(seconds)

    def step(self, wait: float) -> list[OutcomeRecord]:
        """Submit, take and save, and return the records that were saved.

        Args:
            wait: The maximum wait for an outcome, in seconds.

        Raises:
            JournalError: The journal cannot be written.
        """
        room = self.block - self._feed.pending
        if room > 0 and self._granted.left:
            self._feed.submit(self._granted, room)
        needs_grant = self._needs_grant()
        if self._feed.pending:
            self._feed.take(0.0 if needs_grant else self._take_time(wait))
        self._convert(stopped=False)
        if needs_grant or self._is_group_due():
            return self._exchange(needs_grant)
        return []

    def stop(self, reason: str) -> list[OutcomeRecord]:
        """Grant no more, end the transactions under way, and save the remaining outcomes.

        Args:
            reason: Why rows that were not begun are returned.
        """
        self._due.clear()
        self._feed.close()
        self._convert(stopped=True)
        for row in self._granted.withdraw():
            tried = self._tries.get(row, FIRST_TRY)
            self._add_unsent(row, tried, RowStatus.RETURNED, reason, None)
            self._finished_rows += 1
        return self.save()

    def save(self) -> list[OutcomeRecord]:
        """Save the outcomes that are not saved, and return their records; [] if this failed."""
        return self._exchange(False) if self._unsaved else []

    @property
    def has_unsaved(self) -> bool:
        """Whether outcomes are not saved, because the journal cannot be written at present."""
        return bool(self._unsaved)

    def relay_error(self) -> RelayError | None:
        """Return the error that stopped the engine, or None."""
        return self._feed.error()

    def release(self) -> None:
        """End the lease.

        Raises:
            JournalError: Outcomes could not be saved. The lease stays, so a recovery makes their
                rows UNKNOWN. Without this, the rows would be sent again.
        """
        if self._unsaved:
            if self._progress is not None:
                self._progress.close()
            raise JournalError(
                f"{self.notice}; outcomes of {self._finished_rows} rows could not be saved and are "
                "UNKNOWN unless a progress file has them; make space, and settle them"
            )
        if not self.is_fenced:
            self._journal.release(self.lease)
        self._feed.end()
        if self._progress is not None:
            self._progress.remove()
            self._progress = None

    # Outcomes

    def _convert(self, *, stopped: bool) -> None:
        outcomes = self._feed.outcomes
        if not outcomes:
            return
        records, count = records_of(
            outcomes, self._tries, self.lease.epoch, self._clock.now(), self._schedule,
            stopped=stopped or self._feed.error() is not None,
        )  # fmt: skip
        self._feed.outcomes = []
        self._add(records)
        self._finished_rows += count
        self._flow.add_rows(count)

    def _add_unsent(
        self, row: int, tried: Try, status: RowStatus, text: str, address: str | None
    ) -> None:
        """Add the outcome of each recipient of a row that did not reach the engine."""
        now, epoch = self._clock.now(), self.lease.epoch
        self._add([
            unsent_record(row, tried, status, text, epoch, now, part, address)
            for part in tried.parts or (0,)
        ])  # fmt: skip

    def _add(self, records: Sequence[OutcomeRecord]) -> None:
        self._unsaved += records
        if self._since is None:
            self._since = self._clock.monotonic()

    # Exchanges

    def _needs_grant(self) -> bool:
        if not self._due or self.is_fenced or self.notice:
            return False
        return self._granted.left < self.block // 2 and self._clock.monotonic() >= self._ask_at

    def _is_group_due(self) -> bool:
        if self._since is None:
            return self._clock.monotonic() - self._beat_at > _BEAT
        age = self._clock.monotonic() - self._since
        return age >= (RETRY if self.notice else GROUP) or not (self._feed.pending or self.notice)

    def _take_time(self, wait: float) -> float:
        if self._since is None:
            return wait
        age = self._clock.monotonic() - self._since
        return max(0.0, min(wait, (RETRY if self.notice else GROUP) - age))

    def _next_block(self) -> list[tuple[int, Try]]:
        """Return the next rows to grant. Suppressed rows get their outcome instead."""
        now = self._clock.now()
        allowed, ask_at = self._pacer.allowed(self.block - self._granted.left, now)
        # The clock may be set, so a long wait is divided.
        wait = min(_LONGEST_WAIT, max(0.0, (ask_at - now) / 1000))
        self._ask_at = self._clock.monotonic() + wait
        block = list(islice(self._due, max(0, allowed)))
        return block if self._opened.suppression.is_empty else self._without_suppressed(block)

    def _without_suppressed(self, block: list[tuple[int, Try]]) -> list[tuple[int, Try]]:
        if self._rows is None:
            self._rows = self._opened.rows_of(self.lease)
        addresses = {row: self._rows.addresses(row) for row, _ in block}
        hits = self._opened.suppression.hits(addresses)
        for row, tried in block:
            if row in hits:
                text = "the address is suppressed"
                self._add_unsent(row, tried, RowStatus.SUPPRESSED, text, hits[row])
                self._due.remove((row, tried))
        return [each for each in block if each[0] not in hits]

    def _exchange(self, with_grant: bool) -> list[OutcomeRecord]:
        block = self._next_block() if with_grant else []
        records = self._unsaved
        start = self._clock.monotonic()
        try:
            result = self._journal.exchange(
                self.lease,
                self._clock.now(),
                grant=[row for row, _ in block],
                number=self._grants,
                records=records,
                finished=self._finished_rows,
                budget=self._pacer.take,
                give_back=self._pacer.give_back,
            )
        except JournalUnavailable as error:
            # No grants, and the outcomes stay in memory.
            self.notice = self._opened.notice = str(error)
            self._since = self._clock.monotonic()
            return []
        if self.notice:
            self.notice = self._opened.notice = ""
        self._beat_at = self._clock.monotonic()
        self._flow.add_exchange(self._beat_at - start)
        self._unsaved, self._since, self._finished_rows = [], None, 0
        self.state, self.is_fenced = result.state, result.fenced
        if result.granted:
            self._grants += 1
            parts = {row: tried.parts for row, tried in block if tried.parts is not None}
            self._granted.grant([row for row, _ in block], parts)
            for _ in block:
                self._due.popleft()
        if self.is_fenced or self.state not in GRANTABLE:
            self._due.clear()
        return records
