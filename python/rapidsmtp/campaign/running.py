"""Run a campaign: lease chunks for the available relays, and send them until no row is due."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from rapidsmtp.campaign import states
from rapidsmtp.campaign.breaker import Breaker
from rapidsmtp.campaign.feeding import GROUP, RETRY, Pass
from rapidsmtp.campaign.flow import Flow, Pacer
from rapidsmtp.campaign.model import (
    JournalError,
    JournalUnavailable,
    RowResult,
)
from rapidsmtp.campaign.opened import OpenJournal
from rapidsmtp.campaign.outcome_group import OutcomeGroup
from rapidsmtp.campaign.relays import RelayLine, is_permanent, mark_away, mark_up
from rapidsmtp.errors import RelayError

_T = TypeVar("_T")
_WAIT = 0.1
"""The maximum wait for outcomes, in seconds. A stop takes effect after this time at the latest."""
_PASSES = 8
"""The maximum number of passes of a relay at a time. A pass whose last rows wait for the engine's
retries does not delay the next pass."""
_POLL = 1.0
"""The maximum time between two reads of the journal, which another process may change, in
seconds."""
_SHORT = 10.0
"""The maximum wait for a budget, in seconds, in a run that does not wait for rows that are due
later."""
STOPPED = "the run ended before the message was sent"


class Run:
    """One run of a campaign in this process.

    Args:
        opened: The journal.
        owner: The name of this run in its leases.
        template: The compiled template.
        lines: The relays.
        pacer: A function that returns the pacer of a relay, which limits the grants.
    """

    def __init__(
        self,
        opened: OpenJournal,
        owner: str,
        template: Any,
        lines: Sequence[RelayLine],
        pacer: Callable[[RelayLine], Pacer],
    ) -> None:
        self._opened = opened
        self._journal = opened.journal
        self._clock = opened.clock
        self._stop = opened.stop
        self._owner = owner
        self._template = template
        self._lines = lines
        self._pacer = pacer
        self._recovery = opened.recovery()
        self._breaker = Breaker(self._journal, opened.clock.now())
        # The passes of each relay, by its number. Only the last pass of a relay may have rows to
        # grant. It begins before the other passes have ended, so the engine always has rows.
        connections = opened.settings.connections
        self._flows = {line.number: Flow(connections, opened.clock) for line in lines}
        self._passes: dict[int, list[Pass]] = {line.number: [] for line in lines}

    def results(self, *, wait: bool) -> Iterator[RowResult]:
        """Send the rows that are due, and yield each outcome after it is durable.

        Args:
            wait: Whether to wait for rows that are due later, and for relays that are away.
        """
        # A process that appended rows may have been killed before it changed the state, so this
        # run changes it.
        self._change_state(states.REOPEN)
        self._change_state(states.BEGIN)
        recovered_at = looked_at = float("-inf")
        try:
            while not self._stop.is_set():
                now = self._clock.monotonic()
                if now - recovered_at >= _POLL:
                    recovered_at = now
                    self._written(lambda: self._recovery.run(self._clock.now()))
                if now - looked_at >= _WAIT:
                    looked_at = now
                    if self._journal.state() not in states.GRANTABLE:
                        break
                for line in self._free_lines():
                    self._lease(line)
                passes = [
                    (line, each) for line in self._lines for each in self._passes[line.number]
                ]
                if not passes:
                    if not self._wait_for_due(wait):
                        break
                    continue
                idle_for = min(each.idle_for for _, each in passes)
                if not wait and idle_for > _SHORT:
                    break
                if idle_for > 0:
                    self._clock.wait(self._stop, min(_POLL, idle_for))
                for line, each in passes:
                    yield from self._step(line, each, self._wait_of(line, each))
        except BaseException:
            # The last outcomes are saved in the journal, but not yielded, because the caller reads
            # no more results. If the journal cannot be written, the end of the run does not wait
            # for it.
            self._stop.set()
            self._end()
            raise
        yield from self._end()

    # Relays

    def _free_lines(self) -> list[RelayLine]:
        """Return the relays that may lease a chunk: relays that are up, with the fewest rows."""
        if not any(map(self._may_lease, self._lines)):  # the usual case: no database read
            return []
        now = self._clock.now()
        away = {
            number
            for (number,) in self._journal.database.execute(
                "SELECT no FROM relay WHERE campaign = ? AND state = 'away' AND retry_at > ?",
                (self._journal.campaign, now),
            ).fetchall()
        }
        up = [line for line in self._lines if line.number not in away]
        free = [line for line in up if self._may_lease(line)]
        # With equal weights, a slow relay does not delay the others. With different weights, the
        # relays wait for the relay that is furthest below its share.
        compared = up if len({line.weight for line in self._lines}) > 1 else free
        least = min((line.used / line.weight for line in compared), default=0.0)
        return [line for line in free if line.used / line.weight <= least]

    def _may_lease(self, line: RelayLine) -> bool:
        passes = self._passes[line.number]
        if len(passes) >= _PASSES or not all(each.is_draining for each in passes):
            return False
        return not passes or sum(each.outstanding for each in passes) < passes[-1].block // 2

    def _lease(self, line: RelayLine) -> None:
        lease = self._written(
            lambda: self._journal.lease(self._owner, self._clock.now(), line.number)
        )
        if lease is None:
            return
        try:
            feed = line.feed()
        except RelayError as error:
            self._written(partial(self._journal.release, lease))
            self._away(line, error)
            return
        line.used += lease.count
        pacer = self._pacer(line)
        progress = self._opened.create_progress(lease, self._owner)
        passes = self._passes[line.number]
        flow = self._flows[line.number]
        passes.append(Pass(self._opened, lease, self._template, feed, pacer, flow, progress))

    def _wait_of(self, line: RelayLine, current: Pass) -> float:
        """Return the maximum wait of a pass for outcomes, in seconds."""
        passes = self._passes[line.number]
        if len(passes) == 1:
            return _WAIT / sum(map(bool, self._passes.values()))
        # Outcomes arrive roughly in the order of the rows, so the next outcome is probably one of
        # the first pass.
        return GROUP if current is passes[0] else 0.0

    def _step(self, line: RelayLine, current: Pass, wait: float) -> Iterator[RowResult]:
        passes = self._passes[line.number]
        if current not in passes:  # the relay went away
            return
        yield from self._note(line, current.step(wait))
        error = current.relay_error()
        if error is not None:
            while passes:
                group = self._finish(passes[0], str(error))
                passes.pop(0)
                yield from self._note(line, group)
            line.close()
            self._away(line, error)
        elif current.is_over:
            self._written(current.release)
            passes.remove(current)

    def _finish(self, current: Pass, reason: str) -> OutcomeGroup:
        """End a pass gracefully: every granted row gets an outcome, and the lease is released."""
        group = current.stop(reason)
        while current.has_unsaved and not self._clock.wait(self._stop, RETRY):
            group = current.save()
        self._written(current.release)
        return group

    def _note(self, line: RelayLine, group: OutcomeGroup) -> list[RowResult]:
        if not group:
            return []
        if line.failures and group.has_accepted:
            self._written(lambda: mark_up(self._journal, line.number))
            line.failures = 0
        reason = self._breaker.add(group)
        self._written(lambda: self._breaker.return_refused(self._clock.now()))
        if reason is not None:
            self._change_state(states.PAUSE, reason)
        return group.results()

    def _away(self, line: RelayLine, error: RelayError) -> None:
        line.failures += 1
        self._written(lambda: mark_away(self._journal, line.number, error, self._clock.now()))
        if is_permanent(error):
            self._change_state(states.PAUSE, str(error))

    # The campaign

    def _change_state(self, transition: states.Transition, reason: str | None = None) -> None:
        """Change the campaign's state, unless another process has already changed it."""

        def change() -> None:
            with self._journal.database.transaction():
                self._journal.change_state(transition, self._clock.now(), reason)

        self._written(change)

    def _written(self, write: Callable[[], _T]) -> _T:
        """Call a function that writes the journal, again and again until it succeeds.

        Raises:
            JournalError: The run was stopped while the journal could not be written.
        """
        has_failed = False
        while True:
            try:
                result = write()
            except JournalUnavailable as error:
                has_failed, self._opened.notice = True, str(error)
                if self._clock.wait(self._stop, RETRY):
                    raise
            else:
                if has_failed:
                    self._opened.notice = ""
                return result

    def _wait_for_due(self, wait: bool) -> bool:
        """Wait until a chunk may be due. Return whether the run continues."""
        open_chunks, due_at = self._journal.database.execute(
            "SELECT count(*), min(CASE WHEN state = 'waiting' THEN due_at END) FROM lease "
            "WHERE campaign = ? AND state <> 'done'",
            (self._journal.campaign,),
        ).fetchone()
        if not open_chunks:
            self._change_state(states.FINISH)
            return False
        if not wait:
            return False
        # If a due chunk is not leased, all relays are away. So the run waits for `_POLL`.
        left = 0.0 if due_at is None else (due_at - self._clock.now()) / 1000
        self._clock.wait(self._stop, left if 0 < left < _POLL else _POLL)
        return True

    def _end(self) -> list[RowResult]:
        """End the run gracefully: each granted row gets an outcome, and the leases are released."""
        results: list[RowResult] = []
        errors: list[JournalError] = []
        for line in self._lines:
            passes = self._passes[line.number]
            while passes:
                try:
                    results += self._note(line, self._finish(passes.pop(0), STOPPED))
                except JournalError as error:
                    errors.append(error)
            line.close()
        if errors:
            raise errors[0]
        self._change_state(states.END)
        return results
