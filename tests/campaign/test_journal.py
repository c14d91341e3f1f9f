"""The journal alone: leases, epochs, late outcomes, the file and its copies."""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from journals import START, FakeRelay, Machine, journal_of, record, statuses
from rapidsmtp import Campaign, JournalError
from rapidsmtp.campaign import owners, sqlite, states
from rapidsmtp.campaign.corrections import wait_again
from rapidsmtp.campaign.exchange_mark import MarkFile
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import CampaignState, Lease, RowStatus, ranges_of, rows_of
from rapidsmtp.campaign.recovery import Recovery
from rapidsmtp.campaign.results import Try
from rapidsmtp.campaign.sqlite import SqliteDatabase

ACCEPTED, REFUSED, UNKNOWN, RETURNED = (
    RowStatus.ACCEPTED,
    RowStatus.REFUSED,
    RowStatus.UNKNOWN,
    RowStatus.RETURNED,
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return journal_of(tmp_path / "j", [3])


def leased(journal: Journal, name: str = "h:1:x") -> Lease:
    lease = journal.lease(name, START, 0)
    assert lease is not None
    return lease


def granted(journal: Journal, name: str = "h:1:x", rows: tuple[int, ...] = (1,)) -> Lease:
    lease = leased(journal, name)
    assert journal.exchange(lease, START, grant=rows).granted
    return lease


def take_over(journal: Journal) -> None:
    Recovery(journal, lambda *_: True, lambda _, rows: {row: ["a"] for row in rows}).run(START)


@pytest.mark.parametrize("text", ["1", "1-2", "3,17-19", "1,3,5-7,9"])
def test_ranges(text: str) -> None:
    assert ranges_of(rows_of(text)) == text


def test_a_lost_lease_gets_no_grant(journal: Journal) -> None:
    lease = granted(journal)
    take_over(journal)
    result = journal.exchange(lease, START, grant=[2])
    assert (result.granted, result.fenced) == (False, True)
    assert statuses(journal) == {(1, 0): UNKNOWN}


def test_a_late_outcome_replaces_unknown(journal: Journal) -> None:
    lease = granted(journal)
    take_over(journal)
    journal.exchange(lease, START, records=[record(1, REFUSED, lease.epoch)])
    assert statuses(journal) == {(1, 0): REFUSED}


def test_a_late_deferred_row_is_due_again(journal: Journal) -> None:
    lease = granted(journal, rows=(1, 2, 3))
    records = [record(row, ACCEPTED, lease.epoch) for row in (1, 2)]
    journal.exchange(lease, START, records=records, finished=2)
    take_over(journal)
    assert journal.lease("h:2:y", START, 0) is None  # all rows have an outcome
    late = record(3, RowStatus.DEFERRED, lease.epoch, next_at=START + 5)
    journal.exchange(lease, START, records=[late])
    second = journal.lease("h:2:y", START + 5, 0)
    assert second is not None
    assert journal.due_rows(second, START + 5) == ([3], {3: Try(None, 1)})


@pytest.mark.parametrize("late", [REFUSED, RETURNED, RowStatus.DEFERRED])
def test_a_late_outcome_does_not_replace_that_of_a_later_owner(
    journal: Journal, late: RowStatus
) -> None:
    first = granted(journal)
    take_over(journal)
    wait_again(journal, [(1, 0)], [UNKNOWN], START)
    second = granted(journal, "h:2:y")
    journal.exchange(second, START, records=[record(1, UNKNOWN, second.epoch)], finished=1)
    journal.exchange(first, START, records=[record(1, late, first.epoch, next_at=0)])
    assert statuses(journal) == {(1, 0): UNKNOWN}


def test_a_late_outcome_does_not_end_a_row_that_a_later_owner_has_begun(journal: Journal) -> None:
    first = granted(journal)
    take_over(journal)
    wait_again(journal, [(1, 0)], [UNKNOWN], START)
    granted(journal, "h:2:y")
    journal.exchange(first, START, records=[record(1, REFUSED, first.epoch)])
    assert statuses(journal) == {(1, 0): RETURNED}
    take_over(journal)
    assert statuses(journal) == {(1, 0): UNKNOWN}


def test_a_correction_during_a_pass_does_not_hide_a_row_under_way(journal: Journal) -> None:
    first = granted(journal)
    record_of_first = record(1, REFUSED, first.epoch)
    journal.exchange(first, START, records=[record_of_first], finished=1)
    journal.release(first)
    wait_again(journal, [(1, 0)], [REFUSED], START)
    granted(journal, "h:2:y")
    wait_again(journal, [(1, 0)], [RETURNED], START)  # the owner has begun the row
    take_over(journal)
    assert statuses(journal) == {(1, 0): UNKNOWN}


@pytest.mark.parametrize("status", [each for each in RowStatus if each is not ACCEPTED])
def test_accepted_is_never_overwritten_and_overwrites_all(
    journal: Journal, status: RowStatus
) -> None:
    lease = granted(journal)
    journal.exchange(lease, START, records=[record(1, status, lease.epoch)], finished=1)
    journal.exchange(lease, START, records=[record(1, ACCEPTED, lease.epoch - 1)])
    journal.exchange(lease, START, records=[record(1, status, lease.epoch + 5)])
    assert statuses(journal) == {(1, 0): ACCEPTED}


def test_a_journal_without_due_rows_is_not_written(journal: Journal) -> None:
    leased(journal)
    count = "SELECT exchanges FROM journal"
    before = journal.database.execute(count).fetchone()
    assert journal.lease("h:2:y", START, 0) is None
    assert journal.database.execute(count).fetchone() == before


TRANSITIONS = {
    states.BEGIN: ["ready", "running"],
    states.PAUSE: ["ready", "running"],
    states.RESUME: ["paused"],
    states.ABORT: ["ready", "running", "paused"],
    states.END: ["running"],
    states.REOPEN: ["done"],
    states.FINISH: [],
}


@pytest.mark.parametrize("now", list(CampaignState))
def test_a_transition_starts_from_some_states_only(journal: Journal, now: CampaignState) -> None:
    for transition, earlier in TRANSITIONS.items():
        journal.database.execute("UPDATE campaign SET state = ?, reason = 'x'", (now,))
        assert journal.change_state(transition, START, "y") is (now in earlier)
        found = journal.database.execute("SELECT state, reason FROM campaign").fetchone()
        assert found == ((transition.state, "y") if now in earlier else (now, "x"))


def test_the_transitions_depend_on_the_chunks(journal: Journal) -> None:
    lease = leased(journal)
    for transition in (states.BEGIN, states.END, states.FINISH):
        assert journal.change_state(transition, START) is (transition is states.BEGIN)
    journal.release(lease)
    assert journal.change_state(states.END, START)
    journal.database.execute("UPDATE lease SET state = 'done'")
    assert journal.change_state(states.FINISH, START + 1)
    times = "SELECT started_at, finished_at FROM campaign"
    assert journal.database.execute(times).fetchone() == (START, START + 1)
    assert not journal.change_state(states.REOPEN, START + 2)
    journal.database.execute("UPDATE lease SET state = 'waiting'")
    assert journal.change_state(states.REOPEN, START + 2)
    assert journal.database.execute(times).fetchone() == (START, None)


def test_a_journal_that_cannot_be_created_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "statements_of", lambda _: ["nonsense"])
    with pytest.raises(JournalError, match="nonsense"):
        SqliteDatabase(str(tmp_path / "new"), create=True)
    assert not list(tmp_path.iterdir())


def test_a_closed_journal_says_so(journal: Journal) -> None:
    journal.database.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.state()


def test_a_paused_campaign_grants_nothing(journal: Journal) -> None:
    lease = leased(journal)
    journal.database.execute("UPDATE campaign SET state = 'paused'")
    result = journal.exchange(lease, START, grant=[1])
    assert (result.granted, result.state) == (False, "paused")
    assert journal.lease("h:2:y", START, 0) is None


def test_a_progress_file_tells_which_rows_were_not_begun(journal: Journal) -> None:
    granted(journal, rows=(1, 2, 3))
    Recovery(
        journal,
        lambda *_: True,
        lambda _, rows: {row: ["a"] for row in rows},
        lambda *_: {1: 0, 2: int(ACCEPTED), 3: int(UNKNOWN)},
    ).run(START)
    assert statuses(journal) == {(2, 0): ACCEPTED, (3, 0): UNKNOWN}


# Owners


def test_an_owner_is_alive_until_its_process_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "j")
    owner = owners.Owner(path)
    assert not owners.is_dead(path, owner.name, START, START + 1)
    assert not owners.is_dead(path, owner.name, START, START + 10 * owners.SILENT_AFTER)
    owner.close()
    assert owners.is_dead(path, owner.name, START, START + 1)


def test_a_killed_process_is_dead_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "j")
    code = (
        "import sys, time\n"
        "from rapidsmtp.campaign.owners import Owner\n"
        f"print(Owner({path!r}).name, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not owners.is_dead(path, name, START, START + 1)
        process.kill()
        process.wait()
        assert owners.is_dead(path, name, START, START + 1)


def test_the_files_of_a_run_are_beside_the_journal_after_a_change_of_the_folder(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    machine = Machine(Path())
    other = tmp_path / "other"
    other.mkdir()
    os.chdir(other)
    seen: list[str] = []
    relay.after_submit = lambda: seen.extend(files_of(tmp_path / "j"))
    assert machine.run() == {"ACCEPTED": 10}
    assert len(set(seen)) == 1
    assert not list(other.iterdir())


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    monkeypatch.setattr(owners, "lock", lambda *_, **__: False)
    with pytest.raises(OSError, match="put the journal on a local disk"):
        machine.run()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_journal_is_not_used_after_a_fork(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    child = os.fork()
    if not child:
        try:
            machine.campaign.status()
        except JournalError as error:
            machine.campaign.close()
            os._exit(0 if "open it again" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert machine.campaign.status().rows == 10


def test_an_owner_on_another_host_is_dead_after_a_minute(tmp_path: Path) -> None:
    path = str(tmp_path / "j")
    assert not owners.is_dead(path, "other:1:x", START, START + owners.SILENT_AFTER)
    assert owners.is_dead(path, "other:1:x", START, START + owners.SILENT_AFTER + 1)


# Files of killed processes

PROGRESS = """
import os, sys
from rapidsmtp.campaign import owners
owner = owners.Owner(sys.argv[1])
token = owner.name.rpartition(":")[2]
progress = os.open(f"{sys.argv[1]}-progress-{token}-0", os.O_CREAT | os.O_RDWR)
assert owners.lock(progress, waits=False)
print(owner.name, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def sending_process(path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the name of a process with the files of a run, and the process."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRESS, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.kill()


def files_of(path: Path) -> list[str]:
    return sorted(
        each.name for each in path.parent.iterdir() if re.search("run|progress", each.name)
    )


def test_the_files_of_a_killed_process_are_removed_by_the_next_command(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    other = [
        tmp_path / name
        for name in ("j-run-00000000.csv", "x-run-00000000", "-run-00000000", "j-progress-1")
    ]
    for each in other:
        each.touch()
    with sending_process(machine.path) as (_, process):
        before = files_of(machine.path)
        machine.reopen()
        assert files_of(machine.path) == before  # the process is alive
        process.kill()
        process.wait()
        machine.reopen()
    assert files_of(machine.path) == sorted(each.name for each in other)


def test_the_files_of_a_killed_process_stay_until_its_lease_is_ended(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with sending_process(machine.path) as (name, process):
        leased(machine.campaign._opened.journal, name)
        process.kill()
        process.wait()
        machine.reopen()
        assert len(files_of(machine.path)) == 2
        machine.campaign.settle(resend=True)
        assert files_of(machine.path) == []


def test_a_progress_file_that_a_process_holds_is_not_removed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with sending_process(machine.path) as (name, _):
        owners.run_file(str(machine.path), name.rpartition(":")[2]).unlink()
        machine.reopen()
        assert len(files_of(machine.path)) == 1


def test_a_file_that_is_removed_before_its_owner_has_locked_it_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    lock, removed = owners.lock, []

    def late(descriptor: int, *, waits: bool) -> bool:
        if waits and not removed:
            removed.append(files_of(machine.path))
            machine.campaign._opened.remove_leftovers()
            assert files_of(machine.path) == []
        return lock(descriptor, waits=waits)

    monkeypatch.setattr(owners, "lock", late)
    owner = owners.Owner(str(machine.path))
    machine.campaign._opened.remove_leftovers()
    assert files_of(machine.path) == [owner.path.name] == removed[0]
    owner.close()


# The file


def test_an_older_copy_is_refused_and_can_be_accepted(tmp_path: Path, relay: object) -> None:
    machine = Machine(tmp_path, rows=300)
    for number, _ in enumerate(machine.campaign.run()):
        if number == 20:
            break
    machine.campaign.close()
    for end in ("", "-wal", "-shm"):
        if Path(f"{machine.path}{end}").exists():
            shutil.copy(f"{machine.path}{end}", f"{machine.path}.copy{end}")
    machine.reopen()
    before = machine.campaign.status().accepted
    for number, _ in enumerate(machine.campaign.run()):
        if number == 40:
            break
    after = machine.campaign.status().accepted
    machine.campaign.close()
    for end in ("", "-wal", "-shm"):
        Path(f"{machine.path}{end}").unlink(missing_ok=True)
        if Path(f"{machine.path}.copy{end}").exists():
            shutil.copy(f"{machine.path}.copy{end}", f"{machine.path}{end}")
    with pytest.raises(JournalError, match="is an older copy: it has"):
        machine.reopen()
    campaign = machine.reopen(older_copy=True)
    status = campaign.status()
    assert (status.accepted, status.accepted + status.unknown >= after) == (before, True)
    machine.run()
    assert max(relay.counts().values()) == 1  # type: ignore[attr-defined]
    machine.reopen()  # no longer older


def test_a_commit_while_a_journal_is_opened_does_not_make_it_an_older_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_of(tmp_path / "j", [1])
    read = MarkFile.read

    def commit_and_read(self: MarkFile) -> object:
        with journal.database.transaction():
            pass
        return read(self)

    monkeypatch.setattr(MarkFile, "read", commit_and_read)
    SqliteDatabase(str(tmp_path / "j")).close()


@pytest.mark.parametrize("content", [b"", b"no database, but a text of some length" * 50])
def test_another_file_is_no_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(JournalError, match="is not a journal of rapidsmtp"):
        Campaign.open(tmp_path / "j")


def test_a_missing_journal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        Campaign.open(tmp_path / "j")


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("mine")
    with pytest.raises(FileExistsError):
        Machine(tmp_path)
    assert (tmp_path / "j").read_text() == "mine"


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.campaign._opened.database.execute("UPDATE journal SET version = 99")
    with pytest.raises(JournalError, match=r"has version 99; .*upgrade rapidsmtp"):
        machine.reopen()


@pytest.fixture
def version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A later schema."""
    folder = tmp_path / "schema"
    shutil.copytree(sqlite.SCHEMA, folder)
    (folder / "002.sql").write_text("ALTER TABLE campaign ADD COLUMN colour text; -- new\n")
    monkeypatch.setattr(sqlite, "VERSION", 2)
    monkeypatch.setattr(sqlite, "SCHEMA", folder)
    return folder


def test_an_older_version_is_upgraded_after_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    machine = Machine(tmp_path)
    request.getfixturevalue("version_2")
    campaign = machine.reopen()
    assert campaign.status().rows == 10
    execute = campaign._opened.database.execute
    assert execute("SELECT version FROM journal").fetchone() == (2,)
    assert execute("SELECT colour FROM campaign").fetchone() == (None,)
    with sqlite3.connect(tmp_path / "j.v1") as copy:
        assert copy.execute("SELECT version FROM journal").fetchone() == (1,)


def test_a_failed_upgrade_changes_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    machine = Machine(tmp_path)
    folder: Path = request.getfixturevalue("version_2")
    (folder / "002.sql").write_text("ALTER TABLE campaign ADD COLUMN colour text; nonsense;")
    with pytest.raises(JournalError, match="nonsense"):
        machine.reopen()
    with sqlite3.connect(tmp_path / "j") as plain:
        assert plain.execute("SELECT version FROM journal").fetchone() == (1,)
        columns = [row[1] for row in plain.execute("PRAGMA table_info(campaign)")]
    assert "colour" not in columns


def test_a_read_only_file_can_be_asked_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    machine.campaign.close()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    campaign = machine.reopen()
    assert campaign.status().waiting == 10
    assert len(list(campaign.rows())) == 10
    for call in (
        lambda: list(campaign.run()),
        campaign.pause,
        lambda: campaign.settle(resend=True),
        lambda: campaign.suppress(["a@example.com"]),
    ):
        with pytest.raises(JournalError, match="is read-only: make the file"):
            call()


def test_two_databases_wait_for_each_other(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "j", [1])
    other = SqliteDatabase(str(tmp_path / "j"))
    with journal.database.transaction():
        journal.database.execute("UPDATE campaign SET reason = 'a'")
    with other.transaction():
        other.execute("UPDATE campaign SET reason = reason || 'b'")
    found = journal.database.execute("SELECT reason, exchanges FROM campaign, journal").fetchone()
    assert found == ("ab", 4)
    other.close()


def test_the_journal_has_no_password_and_is_private(tmp_path: Path) -> None:
    machine = Machine(tmp_path, relays=["smtp://user:hidden@relay.example:587;weight=2"])
    machine.campaign.close()
    data = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"hidden" not in data
    assert b"smtp://user@relay.example:587" in data
    assert machine.path.stat().st_mode & 0o077 == 0
