"""A state machine of the journal alone, with workers that crash and workers that come back.

The model is the wire: how often the relay took each recipient, and whether it may have done so. A
second copy is allowed only after `settle(resend=True)`.
"""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from journals import START, journal_of, statuses
from rapidsmtp.campaign.corrections import correct, wait_again
from rapidsmtp.campaign.model import Lease, OutcomeRecord, RowStatus
from rapidsmtp.campaign.recovery import Recovery
from rapidsmtp.campaign.results import FIRST_TRY

CHUNKS = [2, 2]
# What the engine reports, and whether the relay took the message.
ENDS = [
    (RowStatus.ACCEPTED, True),
    (RowStatus.REFUSED, False),
    (RowStatus.DEFERRED, False),
    (RowStatus.RETURNED, False),
    (RowStatus.UNKNOWN, True),
    (RowStatus.UNKNOWN, False),
    (RowStatus.INVALID, False),
]


def parts_of_row(row: int) -> int:
    return 1 + row % 2


def is_plain(record: OutcomeRecord) -> bool:
    """Return whether an outcome belongs to `OutcomeGroup.accepted`."""
    has_one_part = parts_of_row(record.row) == 1
    return record.status == RowStatus.ACCEPTED and has_one_part and record.passes == 1


@dataclass
class Worker:
    """A process that sends a chunk."""

    lease: Lease
    due: list[tuple[int, Sequence[int] | None, int]]
    grants: int = 0
    granted: list[tuple[int, Sequence[int] | None, int]] = field(default_factory=list)
    unsaved: list[OutcomeRecord] = field(default_factory=list)
    rows_unsaved: int = 0
    is_dead: bool = False  # for the others: it may come back and report late outcomes
    is_fenced: bool = False


Choose = Callable[[Sequence[Any]], Any]


class JournalModel:
    """The journal, its workers and the wire.

    Args:
        choose: A function that returns one element of a sequence.
    """

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        # In memory, where that is possible: the test needs no durable files.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(dir=place)
        self.journal = journal_of(Path(self.folder.name, "j"), CHUNKS)
        self.journal.database.execute("PRAGMA synchronous = OFF")
        self.now = START
        self.workers: dict[str, Worker] = {}
        self.names = 0
        self.wire: Counter[tuple[int, int]] = Counter()
        self.possible: Counter[tuple[int, int]] = Counter()  # since the user's last word
        self.wire_since: Counter[tuple[int, int]] = Counter()
        # The epoch and the row of workers that still hold a row that the user sends again.
        self.allowed: set[tuple[int, int]] = set()
        self.accepted: set[tuple[int, int]] = set()

    def close(self) -> None:
        self.journal.database.close()
        self.folder.cleanup()

    def act(self, name: str) -> None:
        """Do something, if it is possible now, and check what always holds."""
        getattr(self, name)()
        self.check_accepted()
        self.check_taken()
        self.check_counts()
        self.check_due()

    # Workers

    def lease(self) -> None:
        if len(self.workers) == 3:
            return
        self.names += 1
        name = f"host:{self.names}:x"
        lease = self.journal.lease(name, self.now, 0)
        if lease is not None:
            self.workers[name] = Worker(lease, self.due_rows(lease, self.now))

    def due_rows(self, lease: Lease, now: int) -> list[tuple[int, Sequence[int] | None, int]]:
        """Return the number, the parts and the earlier passes of each row that is due."""
        rows, tries = self.journal.due_rows(lease, now)
        return [(row, *tries.get(row, FIRST_TRY)) for row in rows]

    def worker(self) -> tuple[str, Worker] | None:
        if not self.workers:
            return None
        name = self.choose(sorted(self.workers))
        return name, self.workers[name]

    def exchange(self) -> None:
        chosen = self.worker()
        if chosen is None:
            return
        worker, count = chosen[1], self.choose([0, 1, 2, 3])
        block = [] if worker.is_fenced else worker.due[:count]
        plain = [each for each in worker.unsaved if is_plain(each)]
        result = self.journal.exchange(
            worker.lease,
            self.now,
            grant=[row for row, _, _ in block],
            number=worker.grants,
            records=[each for each in worker.unsaved if each not in plain],
            accepted=[(*each[:8], each.ms) for each in plain],
            finished=worker.rows_unsaved,
        )
        found = statuses(self.journal)
        for each in worker.unsaved:
            if each.status == RowStatus.ACCEPTED:
                assert found[each.row, each.part] is RowStatus.ACCEPTED
        worker.unsaved, worker.rows_unsaved = [], 0
        worker.is_fenced |= result.fenced
        if result.granted:
            assert not result.fenced
            worker.grants += 1
            worker.granted += block
            del worker.due[: len(block)]

    def send(self) -> None:
        names = sorted(name for name, each in self.workers.items() if each.granted)
        if not names:
            return
        worker = self.workers[self.choose(names)]
        row, parts, passes = worker.granted.pop(0)
        worker.rows_unsaved += 1
        for part in range(parts_of_row(row)) if parts is None else parts:
            status, taken = self.choose(ENDS)
            is_allowed = (worker.lease.epoch, row) in self.allowed
            if status != RowStatus.RETURNED:
                # Never twice: no earlier attempt may have delivered this recipient.
                assert is_allowed or not self.possible[row, part], f"row {row} is sent twice"
            if (taken or status is RowStatus.UNKNOWN) and not is_allowed:
                self.possible[row, part] += 1
            self.wire[row, part] += taken
            if not worker.is_dead:
                self.wire_since[row, part] += taken
            waits = {RowStatus.DEFERRED: self.now + 10, RowStatus.RETURNED: 0}
            worker.unsaved.append(
                OutcomeRecord(
                    row, part, int(status), None, None, "", None, 1, passes + 1, 1,
                    worker.lease.epoch, self.now, waits.get(status),
                )
            )  # fmt: skip

    def crash(self) -> None:
        found = self.worker()
        if found is not None:
            del self.workers[found[0]]

    def recover(self) -> None:
        # A worker that is alive may count as dead: it was stopped for too long.
        for worker in self.workers.values():
            worker.is_dead |= self.choose([True, False])
        Recovery(
            self.journal,
            lambda owner, _: owner not in self.workers or self.workers[owner].is_dead,
            lambda _, rows: {row: ["a"] * parts_of_row(row) for row in rows},
        ).run(self.now)

    def release(self) -> None:
        found = self.worker()
        if found is None:
            return
        name, worker = found
        # In order: rows that were not begun are returned, and everything is saved.
        for row, parts, passes in worker.granted:
            worker.rows_unsaved += 1
            for part in parts or [0]:
                worker.unsaved.append(
                    OutcomeRecord(
                        row, part, int(RowStatus.RETURNED), None, None, "", None, 0, passes, None,
                        worker.lease.epoch, self.now, 0,
                    )
                )  # fmt: skip
        self.journal.exchange(
            worker.lease, self.now, records=worker.unsaved, finished=worker.rows_unsaved
        )
        self.journal.release(worker.lease)
        del self.workers[name]

    # The user

    def set_state(self) -> None:
        state = self.choose(["ready", "ready", "paused"])
        with self.journal.database.transaction():
            self.journal.database.execute("UPDATE campaign SET state = ?", (state,))

    def with_status(self, status: RowStatus) -> list[tuple[int, int]]:
        return [key for key, each in statuses(self.journal).items() if each is status]

    def settle(self) -> None:
        resend = self.choose([True, False])
        unknown = self.with_status(RowStatus.UNKNOWN)
        if resend:
            taken, rest = [], unknown
            for worker in self.workers.values():
                self.allowed |= {(worker.lease.epoch, row) for row in self.rows_of(worker)}
        else:
            # The user knows the relay's log. So the senders must have ended.
            alive = {row for each in self.workers.values() for row in self.rows_of(each)}
            taken = [key for key in unknown if self.wire[key]]
            rest = [key for key in unknown if not self.wire[key] and key[0] not in alive]
        correct(self.journal, taken, [RowStatus.UNKNOWN], RowStatus.ACCEPTED, "", self.now)
        wait_again(self.journal, rest, [RowStatus.UNKNOWN], self.now)
        for key in rest:
            self.possible[key] = self.wire_since[key] = 0

    def retry(self) -> None:
        wait_again(self.journal, self.with_status(RowStatus.REFUSED), [RowStatus.REFUSED], self.now)

    def wait(self) -> None:
        self.now += 11

    # What always holds

    def rows_of(self, worker: Worker) -> set[int]:
        return {row for row, _, _ in worker.granted} | {each.row for each in worker.unsaved}

    def check_accepted(self) -> None:
        found = {key for key, each in statuses(self.journal).items() if each is RowStatus.ACCEPTED}
        assert all(self.wire[key] for key in found)
        assert found >= self.accepted
        self.accepted = found

    def check_taken(self) -> None:
        found = statuses(self.journal)
        open_rows = {row for each in self.workers.values() for row in self.rows_of(each)}
        leased = self.granted_without_outcome()
        for key, count in self.wire_since.items():
            if count and key[0] not in open_rows | leased:
                assert found.get(key) in (RowStatus.ACCEPTED, RowStatus.UNKNOWN), key

    def check_due(self) -> None:
        for chunk, state, due_at in self.journal.database.execute(
            "SELECT chunk, state, due_at FROM lease WHERE state <> 'leased'"
        ).fetchall():
            lease = self.journal.find_lease(chunk)
            for row, parts, _ in self.due_rows(lease, self.now + 1000):
                assert state == "waiting", (row, parts)
                assert due_at <= self.now + 1000

    def granted_without_outcome(self) -> set[int]:
        """Return the rows that a recovery will make UNKNOWN."""
        rows: set[int] = set()
        marked: dict[str, Any] = {}
        for (owner,) in self.journal.database.execute(
            "SELECT owner FROM lease WHERE state = 'leased'"
        ).fetchall():
            if owner not in self.workers:
                marked[owner] = True
        if not marked:
            return rows
        for chunk, epoch in self.journal.database.execute(
            "SELECT chunk, epoch FROM lease WHERE state = 'leased'"
        ).fetchall():
            lease = self.journal.find_lease(chunk)
            assert lease.epoch == epoch
            rows |= (
                Recovery(self.journal, lambda *_: True, lambda *_: {}).lost_rows(lease)[0].keys()
            )
        return rows

    def check_counts(self) -> None:
        names = [each.column for each in RowStatus]
        sums = self.journal.database.execute(
            f"SELECT {', '.join(f'sum({name})' for name in names)}, sum(more_parts) FROM lease"
        ).fetchone()
        counted = Counter(each.column for each in statuses(self.journal).values())
        assert dict(zip(names, sums, strict=False)) == {name: counted[name] for name in names}
        assert sums[-1] == sum(part > 0 for _, part in statuses(self.journal))
        for chunk, granted in self.journal.database.execute(
            "SELECT chunk, granted FROM lease WHERE state = 'leased'"
        ).fetchall():
            lease = self.journal.find_lease(chunk)
            lost = Recovery(self.journal, lambda *_: True, lambda *_: {}).lost_rows(lease)[0]
            assert granted >= len(lost)


# Frequent actions occur several times.
WEIGHTS = {"lease": 2, "exchange": 3, "send": 4}
OTHERS = ["crash", "recover", "release", "wait", "settle", "retry", "set_state"]
ACTIONS = [name for name, times in WEIGHTS.items() for _ in range(times)] + OTHERS


class JournalMachine(RuleBasedStateMachine):
    model: JournalModel | None = None

    @initialize(data=st.data())
    def create(self, data: st.DataObject) -> None:
        self.model = JournalModel(lambda several: data.draw(st.sampled_from(several)))

    @rule(actions=st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=20))
    def act(self, actions: list[str]) -> None:
        assert self.model is not None
        for action in actions:
            self.model.act(action)

    def teardown(self) -> None:
        if self.model is not None:
            self.model.close()


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(
    max_examples=30,
    stateful_step_count=8,
    deadline=None,
    derandomize=True,
    # Shrinking a long series of actions may take minutes.
    phases=[Phase.generate],
)


@pytest.mark.parametrize("seed", range(12))
def test_random_walks_of_the_journal(seed: int) -> None:
    walk(seed, 500)


def walk(seed: int, steps: int) -> None:
    choose = random.Random(seed).choice
    model = JournalModel(choose)
    try:
        for _ in range(steps):
            model.act(choose(ACTIONS))
    finally:
        model.close()
