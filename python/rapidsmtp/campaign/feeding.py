"""One pass over a chunk: grant rows, submit their messages, and save the outcomes.

    due rows ── exchange k grants a block ──► granted rows ──► engine ──► finished ── exchange k+1

Grants run one block ahead of the engine, so the engine waits for the disk only if the disk is
slower than the network. An exchange is made when a grant is needed, or 25 ms after the first
unsaved outcome. There are never two at once, so a slow disk makes larger groups by itself.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rapidsmtp._bulk.feed import Feed
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import message_of
from rapidsmtp.campaign.chunk_rows import compared_form, pending_rows
from rapidsmtp.campaign.model import JournalError, Lease, OutcomeRecord, RowStatus
from rapidsmtp.campaign.opened import OpenJournal
from rapidsmtp.campaign.results import Schedule, Try, records_of, unsent_record
from rapidsmtp.errors import RelayError, line_of

GROUP = 0.025
"""The maximum time between an outcome and its exchange, in seconds."""
MIN_BLOCK, MAX_BLOCK = 16, 2048
_WINDOW = 8
_TAKE = 512
# SQLite's result codes. A full disk may get free again. After another error, such as one of fsync,
# a second attempt could claim a durability that is not there.
_FULL = 13
_BUSY = 5
_RETRY = 1.0


class Pacer(NamedTuple):
    """When and how many rows may be granted.

    Attributes:
        allowed: A function that returns how many rows may be granted now, of a wanted number, and
            the time at which to ask again, in milliseconds since 1970.
        take: A function that takes messages from the budgets, inside a transaction, and returns how
            many.
    """

    allowed: Callable[[int, int], tuple[int, int]]
    take: Callable[[int], int]


class Pass:
    """One pass over a leased chunk. Used by one thread.

    Args:
        opened: The journal.
        lease: The lease.
        template: The compiled template.
        feed: The engine.
        pacer: When rows may be granted.

    Attributes:
        lease: The lease.
        is_fenced: Whether the lease was lost.
        state: The campaign's state at the last exchange.
        notice: Why the journal cannot be written at present, or "".
    """

    def __init__(
        self, opened: OpenJournal, lease: Lease, template: Any, feed: Feed, pacer: Pacer
    ) -> None:
        self.lease = lease
        self.is_fenced = False
        self.state = "running"
        self.notice = ""
        self._journal = journal = opened.journal
        self._clock = clock = opened.clock
        self._rows = opened.rows_of(lease)
        self._suppressed = opened.suppressed
        self._campaign_id = opened.id
        self._template = template
        self._feed = feed
        self._pacer = pacer
        self._schedule = Schedule(opened.settings, lease.stamp_at)
        due = journal.due_rows(lease, clock.now())
        self._due = deque((row, Try(parts, passes)) for row, parts, passes in due)
        self._granted: deque[tuple[int, Try]] = deque()
        self._tries: dict[int, Try] = {}
        self._unsaved: list[OutcomeRecord] = []
        self._finished_rows = 0
        self._grants = 0
        self._since: float | None = None  # of the first unsaved outcome
        self._ask_at = 0
        self._base = 2 * opened.settings.connections * _WINDOW
        self._commit = 0.001
        self._rate = 0.0
        self._rated_at = clock.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether every due row has a saved outcome."""
        return not (self._due or self._granted or self._feed.pending or self._unsaved)

    @property
    def is_idle(self) -> bool:
        """Whether nothing happens before the time in `ask_at`."""
        return not (self._granted or self._feed.pending or self._unsaved)

    @property
    def ask_at(self) -> int:
        """The time from which rows may be granted, in milliseconds since 1970."""
        return self._ask_at

    @property
    def block(self) -> int:
        """The number of rows in a grant."""
        size = int(self._rate * max(3 * self._commit, GROUP)) + self._base
        return max(MIN_BLOCK, min(MAX_BLOCK, size))

    def step(self, wait: float) -> list[OutcomeRecord]:
        """Submit, take and save, and return the records that were saved.

        Args:
            wait: The maximum wait for an outcome, in seconds.

        Raises:
            JournalError: The journal cannot be written.
        """
        self._submit()
        needs_grant = self._needs_grant()
        if self._feed.pending and not needs_grant:
            self._feed.take(_TAKE, self._take_time(wait))
        elif self._feed.pending:
            self._feed.take(_TAKE, 0.0)
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
        now = self._clock.now()
        while self._granted:
            row, tried = self._granted[0]
            for part in tried.parts or (0,):
                self._add(
                    unsent_record(
                        row, tried, RowStatus.RETURNED, reason, self.lease.epoch, now, part
                    )
                )
            self._finished_rows += 1
            self._granted.popleft()
        return self._exchange(False) if self._unsaved else []

    def relay_error(self) -> RelayError | None:
        """Return the error that stopped the engine, or None."""
        return self._feed.error()

    def release(self) -> None:
        """End the lease."""
        if not self.is_fenced:
            self._journal.release(self.lease, self._clock.now())

    # Rows to the engine

    def _submit(self) -> None:
        """Submit granted rows until the engine has a block of them."""
        count = self.block - self._feed.pending
        while self._granted and count > 0:
            row, tried = self._granted[0]
            self._tries[row] = tried
            (pending,) = pending_rows(
                self._template, self._rows, [row], self.lease, self._campaign_id
            )
            try:
                if isinstance(pending, Exception):
                    raise pending
                message = pending if tried.parts is None else _to_parts(pending, tried.parts)
            except Exception as error:
                status, now = RowStatus.INVALID, self._clock.now()
                self._add(unsent_record(row, tried, status, line_of(error), self.lease.epoch, now))
                self._finished_rows += 1
                self._granted.popleft()
                continue
            # No call between these statements: after an interrupt, the row is in one place.
            self._feed.unsubmitted.append(message)
            self._granted.popleft()
            count -= 1
        self._feed.submit()

    # Outcomes

    def _convert(self, *, stopped: bool) -> None:
        finished = self._feed.finished
        if not finished:
            return
        records = records_of(
            finished, self._tries, self.lease.epoch, self._clock.now(), self._schedule,
            stopped=stopped or self._feed.error() is not None,
        )  # fmt: skip
        count = len(finished)
        self._unsaved, self._finished_rows = self._unsaved + records, self._finished_rows + count
        self._feed.finished = []
        if self._since is None:
            self._since = self._clock.monotonic()
        self._measure(count)

    def _add(self, record: OutcomeRecord) -> None:
        self._unsaved.append(record)
        if self._since is None:
            self._since = self._clock.monotonic()

    def _measure(self, count: int) -> None:
        now = self._clock.monotonic()
        seconds = max(now - self._rated_at, 1e-4)
        weight = min(1.0, seconds / 0.5)
        self._rate += weight * (count / seconds - self._rate)
        self._rated_at = now

    # Exchanges

    def _needs_grant(self) -> bool:
        if not self._due or self.is_fenced or self.notice:
            return False
        return len(self._granted) < self.block // 2 and self._clock.now() >= self._ask_at

    def _is_group_due(self) -> bool:
        if self._since is None:
            return False
        age = self._clock.monotonic() - self._since
        return age >= (_RETRY if self.notice else GROUP) or not (self._feed.pending or self.notice)

    def _take_time(self, wait: float) -> float:
        if self._since is None:
            return wait
        age = self._clock.monotonic() - self._since
        return max(0.0, min(wait, (_RETRY if self.notice else GROUP) - age))

    def _next_block(self) -> list[tuple[int, Try]]:
        """Return the next rows to grant. Suppressed rows get their outcome instead."""
        allowed, self._ask_at = self._pacer.allowed(
            self.block - len(self._granted), self._clock.now()
        )
        block: list[tuple[int, Try]] = []
        while len(block) < allowed and len(block) < len(self._due):
            block.append(self._due[len(block)])
        addresses = {row: self._rows.addresses(row) for row, _ in block}
        found = self._suppressed(each for several in addresses.values() for each in several)
        if not found:
            return block
        now = self._clock.now()
        kept = []
        for row, tried in block:
            hit = next((each for each in addresses[row] if compared_form(each) in found), None)
            if hit is None:
                kept.append((row, tried))
                continue
            for part in tried.parts or (0,):
                self._add(
                    unsent_record(
                        row, tried, RowStatus.SUPPRESSED, "the address is suppressed",
                        self.lease.epoch, now, part, hit,
                    )
                )  # fmt: skip
            self._due.remove((row, tried))
        return kept

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
            )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (_FULL, _BUSY):
                raise JournalError(
                    f"journal {self._journal.database.path} cannot be written: {error}; outcomes "
                    "that are not saved will be UNKNOWN"
                ) from error
            # No grants, and the outcomes stay in memory.
            self.notice = f"journal {self._journal.database.path}: {error}"
            self._since = self._clock.monotonic()
            return []
        self.notice = ""
        self._commit += 0.2 * (self._clock.monotonic() - start - self._commit)
        self._unsaved, self._since, self._finished_rows = [], None, 0
        self.state, self.is_fenced = result.state, result.fenced
        if result.granted:
            self._grants += 1
            for _ in block:
                self._granted.append(self._due.popleft())
        if self.is_fenced or self.state not in ("ready", "running"):
            self._due.clear()
        return records


def _to_parts(pending: Any, parts: Iterable[int]) -> Message:
    """Return a message for some of its recipients, with the same content."""
    message = pending if isinstance(pending, Message) else message_of(pending)
    recipients = [message.recipients[part] for part in parts]
    return Message(
        message.sender,
        recipients,
        message.data,
        tag=message.tag,
        mail_options=message.mail_options,
        rcpt_options=message.rcpt_options,
    )
