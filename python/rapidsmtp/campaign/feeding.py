"""One pass over a chunk: grant rows, submit their messages, and save the outcomes.

    due rows ── exchange k grants a block ──► granted rows ──► engine ──► finished ── exchange k+1

Each block is granted while the engine still has rows of the block before it. So the engine waits
for the disk only if the disk is slower than the network. An exchange is made when a grant is
needed, or 25 ms after the first unsaved outcome. A pass makes one exchange at a time, so the groups
of outcomes become larger if the disk is slow.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rapidsmtp._bulk.feed import Feed
from rapidsmtp.campaign.flow import Flow, Pacer
from rapidsmtp.campaign.model import (
    CampaignState,
    JournalError,
    JournalUnavailable,
    Lease,
    RowStatus,
)
from rapidsmtp.campaign.opened import OpenJournal
from rapidsmtp.campaign.outcome_group import OutcomeGroup
from rapidsmtp.campaign.progress import LeaseProgress
from rapidsmtp.campaign.results import FIRST_TRY, Schedule, Try, unsent_record
from rapidsmtp.campaign.states import GRANTABLE
from rapidsmtp.campaign.suppressed_rows import SuppressedRows
from rapidsmtp.errors import RelayError

GROUP = 0.025
"""The maximum time between an outcome and its exchange, in seconds."""
# After `kill -9`, a progress file shows the granted rows that were not sent, and the outcomes that
# were not saved. So groups and blocks may be larger with such a file. A block lasts for two groups.
# So most grants are made in an exchange that also saves outcomes.
_GROUP_WITH_PROGRESS = 2 * GROUP
RETRY = 1.0
"""The time between two attempts to write the journal after an error, in seconds."""
_LONGEST_WAIT = 60.0
_BEAT = 20.0
"""The maximum time between two exchanges, in seconds. After a longer time, other hosts would take
the owner for dead (see `owners`)."""


class Pass:
    """One pass over a leased chunk. Used by one thread.

    Args:
        opened: The journal.
        lease: The lease.
        template: The compiled template.
        feed: The engine.
        pacer: When and how many rows may be granted.
        flow: The rate at which rows get their outcomes through the relay.
        progress: The progress file of the lease, or None.

    Attributes:
        lease: The lease.
        is_fenced: Whether the lease was lost.
        state: The campaign's state at the last exchange.
        notice: The reason why the journal cannot be written at present, or "".
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
        self._suppressed = SuppressedRows(opened, lease)
        self._progress = progress
        file = None if progress is None else progress.file
        # The rows of the chunk. The engine may begin those that are granted.
        self._granted = opened.granted_rows(template, lease, file)
        self._feed = feed
        self._pacer = pacer
        self._schedule = Schedule(opened.settings, lease.stamp_at)
        # In the first pass over a chunk, the rows are a range. So Python code does not handle each
        # row.
        self._due: Sequence[int]
        self._due, self._tries = journal.due_rows(lease, clock.now())
        self._unsaved = OutcomeGroup()
        self._grants = 0
        self._since: float | None = None  # the time of the first unsaved outcome
        self._ask_at = self._beat_at = clock.monotonic()
        self._flow = flow
        self._group = GROUP if progress is None else _GROUP_WITH_PROGRESS

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
        """Whether every granted row has a saved outcome."""
        return not (self._unsaved or self._granted.left or self._feed.pending)

    @property
    def idle_for(self) -> float:
        """The time until the next grant or attempt to write, in seconds; 0 without a wait."""
        if self.notice and self._since is not None and not self._feed.pending:
            return max(0.0, self._since + RETRY - self._clock.monotonic())
        if not self._due or not self.is_idle:
            return 0.0
        return max(0.0, self._ask_at - self._clock.monotonic())

    @property
    def block(self) -> int:
        """The number of rows in a grant."""
        return self._flow.block(self._group if self._progress is None else 2 * self._group)

    def step(self, wait: float) -> OutcomeGroup:
        """Submit rows, and take and save outcomes. Return the outcomes that were saved.

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
            self._take(0.0 if needs_grant else wait)
        self._convert(stopped=False)
        if needs_grant or self._is_group_due():
            return self._exchange(needs_grant)
        return OutcomeGroup()

    def stop(self, reason: str) -> OutcomeGroup:
        """Stop granting rows, finish the current transactions, and save the remaining outcomes.

        Args:
            reason: The text of the outcomes of rows that were not begun.

        Returns:
            The outcomes that were saved.
        """
        self._due = ()
        self._feed.close()
        self._convert(stopped=True)
        for row in self._granted.withdraw():
            tried = self._tries.get(row, FIRST_TRY)
            self._add_unsent(row, tried, RowStatus.RETURNED, reason)
            self._unsaved.rows += 1
        return self.save()

    def save(self) -> OutcomeGroup:
        """Save the unsaved outcomes and return them; an empty group after an error."""
        return self._exchange(False) if self._unsaved else OutcomeGroup()

    @property
    def has_unsaved(self) -> bool:
        """Whether there are unsaved outcomes, because the journal cannot be written at present."""
        return bool(self._unsaved)

    def relay_error(self) -> RelayError | None:
        """Return the error that stopped the engine, or None."""
        return self._feed.error()

    def release(self) -> None:
        """End the lease.

        Raises:
            JournalError: Outcomes could not be saved. The lease is not ended, so a recovery makes
                their rows UNKNOWN. If the lease were ended, the rows would be sent again.
        """
        if self._unsaved:
            if self._progress is not None:
                self._progress.close()
            raise JournalError(
                f"{self.notice}; outcomes of {self._unsaved.rows} rows could not be saved and are "
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
        count = self._unsaved.add_outcomes(
            outcomes, self._tries, self.lease.epoch, self._clock.now(), self._schedule,
            stopped=stopped or self._feed.error() is not None,
        )  # fmt: skip
        self._feed.outcomes = []
        self._mark_unsaved()
        self._flow.add_rows(count)

    def _add_unsent(
        self, row: int, tried: Try, status: RowStatus, text: str, addresses: Sequence[str] = ()
    ) -> None:
        """Add the outcome of each recipient of a row that did not reach the engine."""
        now, epoch = self._clock.now(), self.lease.epoch
        self._unsaved.add_records([
            unsent_record(row, tried, status, text, epoch, now, part, address)
            for part, address in zip_longest(tried.parts or (0,), addresses)
        ])  # fmt: skip
        self._mark_unsaved()

    def _mark_unsaved(self) -> None:
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
        longest = RETRY if self.notice else self._group
        return age >= longest or not (self._feed.pending or self.notice)

    def _take(self, wait: float) -> None:
        """Take outcomes from the engine.

        The first outcome of a group is taken as soon as it is there, because its time is the start
        of the group.

        Args:
            wait: The maximum wait, in seconds.
        """
        if self._since is None:
            self._feed.take(wait)
            return
        left = (RETRY if self.notice else self._group) - self._clock.monotonic() + self._since
        # A return to Python takes as much time as several rows, so many outcomes are taken at once.
        # But the call returns while half of the rows are pending, so the engine always has rows.
        self._feed.take(max(0.0, min(wait, left)), self._feed.pending // 2)

    def _next_block(self) -> Sequence[int]:
        """Return the next rows to grant. Suppressed rows are not granted, but get their outcome."""
        now = self._clock.now()
        allowed, ask_at = self._pacer.allowed(self.block - self._granted.left, now)
        # The system's clock may be set during a long wait, so such a wait is divided.
        wait = min(_LONGEST_WAIT, max(0.0, (ask_at - now) / 1000))
        self._ask_at = self._clock.monotonic() + wait
        block = self._due[: max(0, allowed)]
        if self._opened.suppression.is_empty:
            return block
        tries = {row: self._tries.get(row, FIRST_TRY) for row in block}
        suppressed = self._suppressed.find([(row, tried.parts) for row, tried in tries.items()])
        if not suppressed:
            return block
        for row, addresses in suppressed.items():
            text = "the address is suppressed"
            self._add_unsent(row, tries[row], RowStatus.SUPPRESSED, text, addresses)
        kept = [row for row in block if row not in suppressed]
        self._due = [*kept, *self._due[len(block) :]]
        return kept

    def _exchange(self, with_grant: bool) -> OutcomeGroup:
        block = self._next_block() if with_grant else ()
        group = self._unsaved
        start = self._clock.monotonic()
        group.at = self._clock.now()
        try:
            result = self._journal.exchange(
                self.lease,
                group.at,
                grant=block,
                number=self._grants,
                records=group.records,
                accepted=group.accepted,
                finished=group.rows,
                budget=self._pacer.take,
                give_back=self._pacer.give_back,
            )
        except JournalUnavailable as error:
            # The rows are not granted, and the outcomes stay in memory until the next attempt.
            self.notice = self._opened.notice = str(error)
            self._since = self._clock.monotonic()
            return OutcomeGroup()
        if self.notice:
            self.notice = self._opened.notice = ""
        self._beat_at = self._clock.monotonic()
        self._flow.add_exchange(self._beat_at - start)
        self._unsaved, self._since = OutcomeGroup(), None
        self.state, self.is_fenced = result.state, result.fenced
        if result.granted:
            self._grants += 1
            self._granted.grant(block, self._parts_of(block))
            self._due = self._due[len(block) :]
        if self.is_fenced or self.state not in GRANTABLE:
            self._due = ()
        return group

    def _parts_of(self, block: Sequence[int]) -> dict[int, Sequence[int]]:
        """Return the recipients of each row of a block that is not sent to all its recipients."""
        if not self._tries:
            return {}
        tries = ((row, self._tries[row].parts) for row in block if row in self._tries)
        return {row: parts for row, parts in tries if parts is not None}
